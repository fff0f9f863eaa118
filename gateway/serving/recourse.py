"""Whether a request whose replica fails or is slow gets another one: decided here and nowhere else; pure.

Connections that broke cost no budget: they are no more than were open, the engine that would be overloaded by more
requests is not there, and a crash under many requests would use up at once what the others may need. What an engine
that is up answers with an error does: retries of those are load that grows with trouble.
"""

from random import Random
from typing import Final

from gateway.config.retry import RetryConfig
from gateway.routing.decision import Rejection, RejectionReason
from gateway.routing.facts import Cause
from gateway.serving.budget import Budget
from gateway.serving.failure import AttemptLostError

MOST_WAITING: Final = 2000
"""Requests that wait for a replica to come back; more than these fail at once."""
_LOOK_S: Final = 0.1
_WORTH_WAITING: Final = (RejectionReason.NO_REPLICA, RejectionReason.ALL_TRIED)


class Recourse:
    """One for all requests of a process."""

    def __init__(self, retry: RetryConfig, max_attempts: int, rng: Random) -> None:
        self._rng = rng
        self.waiting = 0
        """Requests that wait for a replica to come back."""
        self.configure(retry, max_attempts)

    def configure(self, retry: RetryConfig, max_attempts: int) -> None:
        """Go by these from now on; what was spent is forgotten."""
        self._retry = retry
        self._max_attempts = max_attempts
        self._retries = Budget(retry.budget_share, retry.budget_floor_per_s)
        self._hedges = Budget(retry.hedge_share)

    def accepted(self, now: float) -> None:
        """A request came: what a share of may be spent."""
        self._retries.earn(now)
        if self._retry.hedge_after:
            self._hedges.earn(now)

    @property
    def continues(self) -> bool:
        """Whether streams that break off go on elsewhere."""
        return self._retry.continue_streams

    def again(self, failure: AttemptLostError, attempts: int, now: float) -> bool:
        """Whether a request goes to another replica, after so many attempts, of which the last failed so."""
        if not failure.error.retryable or attempts >= self._max_attempts:
            return False
        return failure.cause is Cause.CONNECTION or self._retries.spend(now)

    def further(self, failure: AttemptLostError, attempts: int, now: float) -> bool:
        """The same for a stream that broke in the middle; not if that is the request's own fault."""
        if failure.error.status < 500 or failure.obstacle or attempts >= self._max_attempts:
            return False
        return failure.cause is Cause.CONNECTION or self._retries.spend(now)

    def hedge_after_s(self, predicted_ttft_ms: float) -> float | None:
        """After how long without an answer another replica may be asked too; None: never."""
        retry = self._retry
        if not retry.hedge_after:
            return None
        return max(retry.hedge_floor_s, retry.hedge_after * predicted_ttft_ms / 1000)

    def beside(self, now: float) -> bool:
        """Whether another replica is asked too, now that it is time."""
        return self._hedges.spend(now)

    def wait_s(self, rejection: Rejection) -> float:
        """How long a request that no replica takes waits for one to come back."""
        worth = rejection.reason in _WORTH_WAITING and self.waiting < MOST_WAITING
        return self._retry.wait_s if worth else 0.0

    def look_s(self) -> float:
        """Until a waiting request looks again; not all at the same time."""
        return _LOOK_S * self._rng.uniform(0.5, 1.5)
