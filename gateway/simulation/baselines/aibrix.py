"""AIBrix's prefix-cache policy: the best match that is not unusually busy; pure."""

from collections import OrderedDict
from collections.abc import Sequence
from random import Random
from statistics import fmean, pstdev
from typing import Final

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.prefix_sets import PrefixSets
from gateway.simulation.baselines.ties import least_busy

IMBALANCE: Final = 8
DEVIATIONS: Final = 1
TABLE_BLOCKS: Final = 200_000
TABLE_TTL_S: Final = 20 * 60


class Aibrix(Baseline):
    """Max - min of prompts in flight > 8: least requests. Else by whole percents matched, best first, then by fewer
    prompts in flight, the first worker with at most mean + 1 × (population) standard deviation of them; none: least
    requests. Ties at random. The code's defaults, 8 and 1, not the README's 16 and 2.

    One table of blocks for all workers: LRU of 200,000 blocks, each forgotten 20 minutes after its last use. In its
    favour: exact tokens, the table counts our blocks (its own are of 4 characters), and a worker that is lost is
    forgotten.
    """

    name = "aibrix"
    source = "aibrix e3e10f9 pkg/plugins/gateway/algorithms/prefix_cache.go"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._held = PrefixSets(len(workers))
        self._used: OrderedDict[int, float] = OrderedDict()  # block to its last use, oldest first

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """By balance first, then by match and load."""
        counts = [len(worker.inflight) for worker in up]
        if max(counts) - min(counts) <= IMBALANCE:
            self._expire(now)
            most = fmean(counts) + DEVIATIONS * pstdev(counts)
            for worker in self._by_match(prompt, up):
                if len(worker.inflight) <= most:
                    return worker
        return self.rng.choice(least_busy(up))

    def _by_match(self, prompt: Prompt, up: Sequence[Worker]) -> list[Worker]:
        depths = self._held.depths(prompt.blocks)
        matched = [worker for worker in up if depths[worker.slot]]
        self.rng.shuffle(matched)
        total = len(prompt.blocks)
        return sorted(matched, key=lambda one: (-(depths[one.slot] * 100 // total), len(one.inflight)))

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Into the table."""
        used = self._used
        for block in prompt.blocks:
            used[block] = now
            used.move_to_end(block)
        self._held.add(worker.slot, prompt.blocks)
        while len(used) > TABLE_BLOCKS:
            self._held.drop(used.popitem(last=False)[0])

    def _expire(self, now: float) -> None:
        used = self._used
        while used and next(iter(used.values())) < now - TABLE_TTL_S:
            self._held.drop(used.popitem(last=False)[0])

    def lost(self, worker: Worker) -> None:
        """The pod that comes back is another one."""
        self._held.forget(worker.slot)
