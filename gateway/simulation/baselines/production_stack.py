"""The vLLM production stack's prefix-aware policy: the longest match, whatever the load; pure."""

from collections.abc import Sequence
from random import Random

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.prefix_sets import PrefixSets


class ProductionStackPrefixAware(Baseline):
    """Any of the workers with the longest match of those that are up, at random; no match: any at all.

    Nothing is ever evicted and load is no matter; the minimum match length is its default, 0, and what a lost
    worker had stays in the trie. In its favour: exact tokens instead of chunks of 128 characters.
    """

    name = "production-stack-prefixaware"
    source = "production-stack a6c01db src/vllm_router/routers/routing_logic.py, prefixaware"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._trie = PrefixSets(len(workers))

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """By match, then by lot."""
        depths = self._trie.depths(prompt.blocks)
        longest = max(depths[worker.slot] for worker in up)
        return self.rng.choice([worker for worker in up if depths[worker.slot] == longest])

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Into the trie."""
        self._trie.add(worker.slot, prompt.blocks)
