"""SGLang's cache-aware policies: an approximate tree of what was sent where, or an index of events; pure."""

from collections.abc import Sequence
from random import Random
from typing import Final

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.event_based import EventBaseline
from gateway.simulation.baselines.prefix_sets import PrefixSets
from gateway.simulation.baselines.recent_blocks import RecentBlocks

CACHE_THRESHOLD: Final = 0.3
BALANCE_ABSOLUTE: Final = 64
BALANCE_RELATIVE: Final = 1.5
MAX_TREE_TOKENS: Final = 2**26


class ShortestQueue:
    """Loads as this router counts them: prompts in flight, then prompts ever sent, then the slot."""

    def __init__(self, slots: int) -> None:
        self._processed = [0] * slots

    def count(self, worker: Worker) -> None:
        """A prompt went there."""
        self._processed[worker.slot] += 1

    def shortest(self, up: Sequence[Worker]) -> Worker:
        """The worker with the least load."""
        return min(up, key=lambda worker: (len(worker.inflight), self._processed[worker.slot], worker.slot))

    def imbalanced(self, up: Sequence[Worker]) -> bool:
        """Max - min > 64 and max > 1.5 × min."""
        loads = [len(worker.inflight) for worker in up]
        low, high = min(loads), max(loads)
        return high - low > BALANCE_ABSOLUTE and high > BALANCE_RELATIVE * low


class SglangCacheAware(Baseline):
    """Imbalanced: shortest queue. Else the worker of the longest match if it is more than 0.3 of the prompt, else
    shortest queue. Defaults are the command line's: 0.3, 64, 1.5, 2^26; the KV-usage triggers are off.

    The tree remembers what was sent where, also while imbalanced; of several workers at the deepest match the last
    one sent there is meant, and if that one is down, the shortest queue. LRU by worker, leaves first, up to 2^26.
    A worker that goes is not removed: its entries stay, as published. In its favour: the tree is of exact tokens (the
    bound counts tokens, not characters) and is trimmed at once, not every 60 s.
    """

    name = "sglang-cache-aware"
    source = "sglang sgl-model-gateway policies/cache_aware.rs (smg 73da68c)"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._queues = ShortestQueue(len(workers))
        self._tree = PrefixSets(len(workers))
        self._recent = RecentBlocks(self._tree, [MAX_TREE_TOKENS // worker.block_tokens for worker in workers])
        self._last: dict[int, int] = {}  # block to the slot that it was sent to last

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """By balance first, then by the share of the prompt that is matched."""
        if self._queues.imbalanced(up):
            return self._queues.shortest(up)
        depths = self._tree.depths(prompt.blocks)
        depth = max(depths)
        if depth * prompt.block_tokens <= CACHE_THRESHOLD * prompt.tokens:
            return self._queues.shortest(up)
        slot = self._last[prompt.blocks[depth - 1]]
        if depths[slot] < depth:  # evicted there
            slot = depths.index(depth)
        return next((worker for worker in up if worker.slot == slot), None) or self._queues.shortest(up)

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Into the tree."""
        self._queues.count(worker)
        self._recent.touch(worker.slot, reversed(prompt.blocks))
        self._last.update(dict.fromkeys(prompt.blocks, worker.slot))


class SglangCacheAwareEvents(EventBaseline):
    """Imbalanced (as above): shortest queue. Else the most blocks of overlap, no threshold; ties by fewer prompts in
    flight, then by fewer blocks held. No overlap anywhere: shortest queue. In its favour: events come without delay.
    """

    name = "sglang-cache-aware-events"
    source = "sglang sgl-model-gateway policies/cache_aware.rs, event-driven mode (smg 73da68c)"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._queues = ShortestQueue(len(workers))

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """By balance first, then by overlap."""
        if not self._queues.imbalanced(up):
            depths, sizes = self.held.depths(prompt.blocks), self.held.sizes
            best = max(up, key=lambda worker: (depths[worker.slot], -len(worker.inflight), -sizes[worker.slot]))
            if depths[best.slot]:
                return best
        return self._queues.shortest(up)

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Counted."""
        self._queues.count(worker)
