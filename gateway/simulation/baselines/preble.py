"""Preble: exploit a prefix where most of the prompt is known, else explore where the load is lowest; pure."""

from collections import deque
from collections.abc import Sequence
from random import Random
from statistics import median
from typing import Final

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.preble_families import Families, Family
from gateway.simulation.baselines.prefill_time import PREFILL_STEP_S

REBALANCE: Final = 1.5
REBALANCE_AFTER: Final = 50
DECODE_TOKENS: Final = 45
DECODE_SAMPLES: Final = 200


class Preble(Baseline):
    """New tokens < known tokens: exploit, the holder of that prefix with the lowest cost. Else explore, the lowest
    cost of all, the lowest slot first. Cost = window prefill load + decode load + eviction load, in seconds.

    Prefill load: over the large nodes allocated there, miss rate × requests in the last 3 minutes × prefill time of
    the node / workers that it is allocated to. Decode load: prompts in flight × the median of the last 200 decode
    times (45 tokens at a step each until there is one). Eviction load: prefill load of the least recent nodes that
    would have to leave. A node that nobody asked for in 3 minutes is allocated nowhere. After 50 prompts, while the
    hottest worker's load is more than 1.5 times the coldest's, what would exploit the hottest goes to the coldest
    (the paper's load adjustment; the code's moving of nodes is commented out). A node of one worker whose mean TTFT in
    the window's newer half is at least twice that of the older half gets the coldest worker as well.

    We assumed: nodes are cut at blocks and never split, so a large node and the small ones below it are one family;
    prefill time is linear, of the hardware simulated; the local scheduler's reordering is the engine's own matter. In
    its favour: the cache is not assumed always full, and what is over the capacity is taken out, as its local
    schedulers would report, and a worker that is lost is forgotten.
    """

    name = "preble"
    source = "arXiv 2407.00023; WukLab/preble multi_node/global_scheduler_with_time.py"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._families = Families([worker.kv_tokens // worker.block_tokens for worker in workers])
        self._prompts = 0
        self._asked: dict[int, Family] = {}
        self._decoding_since: dict[int, float] = {}
        self._decode_times: list[deque[float]] = [deque(maxlen=DECODE_SAMPLES) for _ in workers]
        self._decode_s = [DECODE_TOKENS * PREFILL_STEP_S] * len(workers)

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """Exploit or explore."""
        families = self._families
        families.expire(now)
        depth, family = families.match(prompt.blocks)
        new_blocks = len(prompt.blocks) - depth

        def cost_s(worker: Worker) -> float:
            return self._load_s(worker) + families.eviction_s(worker.slot, new_blocks)

        if family is None or _explores(prompt, depth):
            return min(up, key=cost_s)
        mask = families.allocated(prompt.blocks[:depth])
        holders = [worker for worker in up if mask >> worker.slot & 1]
        chosen = min(holders or up, key=cost_s)
        coldest = min(up, key=self._load_s)
        if self._too_hot(chosen, coldest, up):
            return coldest
        if family.slots == [chosen.slot] and family.ttfts.doubled(now):
            family.ttfts.clear()
            return coldest
        return chosen

    def _too_hot(self, chosen: Worker, coldest: Worker, up: Sequence[Worker]) -> bool:
        hottest_s = max(map(self._load_s, up))
        chosen_s = self._load_s(chosen)
        return (
            self._prompts >= REBALANCE_AFTER and chosen_s == hottest_s and chosen_s > REBALANCE * self._load_s(coldest)
        )

    def _load_s(self, worker: Worker) -> float:
        return self._families.loads[worker.slot] + len(worker.inflight) * self._decode_s[worker.slot]

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Into the tree and the window."""
        depth, family = self._families.match(prompt.blocks)
        known_tokens = depth * prompt.block_tokens
        if family is None or _explores(prompt, depth):
            family = Family(prompt.tokens - known_tokens, [0] * len(self.workers))
        self._families.record(prompt.blocks, depth, family, worker.slot)
        self._families.count(family, known_tokens, prompt.tokens, now)
        self._asked[prompt.number] = family
        self._prompts += 1

    def first_token(self, prompt: Prompt, worker: Worker, cached_tokens: int, ttft_s: float, now: float) -> None:
        """Decoding begins."""
        self._asked[prompt.number].ttfts.add(now, ttft_s)
        self._decoding_since[prompt.number] = now

    def finished(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """How long it decoded, if it did."""
        self._asked.pop(prompt.number, None)
        since = self._decoding_since.pop(prompt.number, None)
        if since is not None:
            times = self._decode_times[worker.slot]
            times.append(now - since)
            self._decode_s[worker.slot] = median(times)

    def lost(self, worker: Worker) -> None:
        """Nothing is allocated there any more."""
        self._families.forget(worker.slot)


def _explores(prompt: Prompt, depth: int) -> bool:
    known_tokens = depth * prompt.block_tokens
    return prompt.tokens - known_tokens >= known_tokens
