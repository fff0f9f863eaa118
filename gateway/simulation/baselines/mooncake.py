"""Mooncake's Conductor: the instance with the shortest expected time to first token; pure."""

from collections.abc import Sequence
from random import Random

from gateway.simulation.baselines.base import Prompt, Worker
from gateway.simulation.baselines.event_based import EventBaseline
from gateway.simulation.baselines.prefill_ledger import PrefillLedger
from gateway.simulation.baselines.prefill_time import prefill_s


class Mooncake(EventBaseline):
    """The lowest T_queue + T_prefill(uncached tokens), the lowest slot first.

    T_queue is the booked prefill seconds of the prompts without a first token, less the time that went into them:
    since the last first token there, or since the oldest of them was sent if that is later; never below 0. T_prefill
    is linear, one model for all workers. Workers are whole (no prefill pool), nothing is transferred between their
    caches, and nothing is rejected for its expected time. In its favour: prefixes from events, exact bookings.
    """

    name = "mooncake"
    source = "arXiv 2407.00079, algorithm 1 without transfer and rejection"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._prefill = PrefillLedger(len(workers))
        self._sent_at: dict[int, float] = {}
        self._first_token_at = [float("-inf")] * len(workers)

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The soonest."""
        depths = self.held.depths(prompt.blocks)

        def ttft_s(worker: Worker) -> float:
            uncached = prompt.tokens - depths[worker.slot] * prompt.block_tokens
            return self._queue_s(worker, now) + prefill_s(uncached)

        return min(up, key=ttft_s)

    def _queue_s(self, worker: Worker, now: float) -> float:
        if not worker.unstarted:
            return 0.0
        slot = worker.slot
        since = max(self._first_token_at[slot], self._sent_at[next(iter(worker.unstarted))])
        booked_s = prefill_s(self._prefill.tokens[slot], self._prefill.prompts[slot])
        return max(booked_s - (now - since), 0.0)

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Books its prefill."""
        self._sent_at[prompt.number] = now
        self._prefill.book(prompt.number, worker.slot, self.uncached_tokens(prompt, worker))

    def first_token(self, prompt: Prompt, worker: Worker, cached_tokens: int, ttft_s: float, now: float) -> None:
        """Its prefill is done, and the next one begins."""
        self._first_token_at[worker.slot] = now
        self._prefill.settle(prompt.number)

    def finished(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Nothing of it waits any more."""
        self._prefill.settle(prompt.number)
        self._sent_at.pop(prompt.number, None)
