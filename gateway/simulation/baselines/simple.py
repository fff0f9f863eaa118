"""Policies that know nothing of caches: random, round robin and least requests; pure."""

from collections.abc import Sequence
from random import Random

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.ties import least_busy


class RandomChoice(Baseline):
    """Any worker that is up, all equally likely."""

    name = "random"
    source = "smg model_gateway/src/policies/random.rs"

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """By lot."""
        return self.rng.choice(up)


class RoundRobin(Baseline):
    """One counter over the workers that are up, as they are at that moment."""

    name = "round-robin"
    source = "smg model_gateway/src/policies/round_robin.rs"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._turn = 0

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The next in turn."""
        worker = up[self._turn % len(up)]
        self._turn += 1
        return worker


class LeastRequests(Baseline):
    """The fewest prompts in flight from this router, ties at random. In its favour: counted from the choice on."""

    name = "least-requests"
    source = "aibrix pkg/plugins/gateway/algorithms/least_request.go"

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The least busy."""
        return self.rng.choice(least_busy(up))
