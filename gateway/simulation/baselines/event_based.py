"""What the policies that hear cache events have in common: an exact index of every worker's blocks; pure."""

from collections.abc import Sequence
from random import Random

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.prefix_sets import PrefixSets


class EventBaseline(Baseline):
    """Keeps `held`, the blocks of every worker as its engine said. No replay, gap or delay is simulated."""

    hears_events = True

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self.held = PrefixSets(len(workers))

    def stored(self, worker: Worker, blocks: Sequence[int]) -> None:
        """Into the index."""
        self.held.add(worker.slot, blocks)

    def removed(self, worker: Worker, blocks: Sequence[int]) -> None:
        """Out of the index."""
        self.held.remove(worker.slot, blocks)

    def lost(self, worker: Worker) -> None:
        """Nothing is left of its cache."""
        self.held.forget(worker.slot)

    def uncached_tokens(self, prompt: Prompt, worker: Worker) -> int:
        """Tokens that this worker would have to prefill now."""
        return prompt.tokens - self.held.depth(worker.slot, prompt.blocks) * prompt.block_tokens
