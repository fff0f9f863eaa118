"""LMetric: tokens to prefill times requests in the batch; pure."""

from collections.abc import Sequence
from random import Random

from gateway.simulation.baselines.base import Prompt, Worker
from gateway.simulation.baselines.event_based import EventBaseline
from gateway.simulation.baselines.prefill_ledger import PrefillLedger
from gateway.simulation.baselines.ties import cheapest


class LMetric(EventBaseline):
    """The lowest (uncached tokens of the prompts that wait there + the prompt's own) × (prompts in flight + 1).

    It has no parameters. Uncached tokens are as the index says when a prompt is sent, until its first token; ties at
    random. In its favour: hits from events instead of a guess, and its own counts, which are never stale.
    """

    name = "lmetric"
    source = "arXiv 2603.15202; aibrix pkg/plugins/gateway/algorithms/l_metric_local.go"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._prefill = PrefillLedger(len(workers))

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The lowest product."""
        depths = self.held.depths(prompt.blocks)
        costs = []
        for worker in up:
            own = prompt.tokens - depths[worker.slot] * prompt.block_tokens
            costs.append((self._prefill.tokens[worker.slot] + own) * (len(worker.inflight) + 1))
        return self.rng.choice(cheapest(up, costs))

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Books its uncached tokens."""
        self._prefill.book(prompt.number, worker.slot, self.uncached_tokens(prompt, worker))

    def first_token(self, prompt: Prompt, worker: Worker, cached_tokens: int, ttft_s: float, now: float) -> None:
        """Its prefill is done."""
        self._prefill.settle(prompt.number)

    def finished(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Nothing of it waits any more."""
        self._prefill.settle(prompt.number)
