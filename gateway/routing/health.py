"""A replica's health as its answers show it: a circuit breaker, and leaving one alone that is overloaded; pure.

That an engine refuses a request for the client's fault says nothing of its health. That it is overloaded is no
failure either: for a moment others are preferred, and it gets less.
"""

from enum import StrEnum
from math import inf
from typing import Final, NamedTuple

FORGIVENESS: Final = 0.75
"""What is left of the score after a success: at one failure in two it nears 3, at one in four it stays below 2."""
HALF_LIFE_S: Final = 10.0
"""Of the score, when nothing happens: failures count when they come together."""
LEAST_PAUSE_S: Final = 0.25
MOST_PAUSE_S: Final = 4.0
"""How long a replica that said it is overloaded is left alone: doubled while it goes on saying so."""
CALM_S: Final = 60.0
"""Closed for so long, a breaker begins with the shortest opening again."""


class HealthRules(NamedTuple):
    """When a breaker opens, at a score of `failures` (so many in a row do), and for how many seconds.

    Each opening that follows soon after another lasts twice as long, up to `most_open_s`. `probes` requests must then
    succeed, no more of them at a time, before all is well.
    """

    failures: float = 3.0
    open_s: float = 2.0
    most_open_s: float = 60.0
    probes: int = 2


class BreakerState(StrEnum):
    """Closed: all is well; open: no requests; half-open: a few, to see whether it is well again."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


BREAKER_STATES: Final = tuple(BreakerState)
"""From well to worst."""


class Health:
    """Of one replica. Times are seconds on the router's clock."""

    __slots__ = (
        "_closed_at", "_open_until", "_opening_s", "_pause_s", "_paused_until", "_probes", "_proofs", "_rules",
        "_score_at", "opened", "overloaded", "score",
    )  # fmt: skip

    def __init__(self, rules: HealthRules) -> None:
        self.score = 0.0
        """What recent failures weigh; 0 for nearly every replica."""
        self.opened = 0
        """How often the breaker has opened."""
        self.overloaded = 0
        """How often it said that it is overloaded."""
        self._rules = rules
        self._score_at = 0.0
        self._open_until: float | None = None  # None: closed
        self._opening_s = rules.open_s
        self._closed_at = -inf
        self._probes: set[int] = set()  # tickets
        self._proofs = 0
        self._paused_until = -inf
        self._pause_s = LEAST_PAUSE_S

    def state(self, now: float) -> BreakerState:
        """The breaker's."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    @property
    def is_broken(self) -> bool:
        """Whether the breaker is not closed."""
        return self._open_until is not None

    def admits(self, now: float) -> bool:
        """Whether the breaker lets one more request through."""
        if self._open_until is None:
            return True
        return now >= self._open_until and len(self._probes) < self._rules.probes - self._proofs

    def paused(self, now: float) -> bool:
        """Whether it is left alone since it is overloaded."""
        return now < self._paused_until

    def is_clear(self, now: float) -> bool:
        """Whether nothing at all is held against it."""
        return self._open_until is None and not self.paused(now)

    def booked(self, ticket: int, now: float) -> None:
        """A request goes there although the breaker is not closed: as a probe, once it is half-open."""
        if self._open_until is not None and now >= self._open_until:
            self._probes.add(ticket)

    def failed(self, ticket: int, now: float) -> None:
        """An attempt there failed for the engine's fault."""
        if self._open_until is not None:
            if ticket in self._probes:  # those that were sent before it opened fail with it, and say nothing new
                self._open(now, min(2 * self._opening_s, self._rules.most_open_s))
            return
        self.score = 1.0 + self.score * 0.5 ** ((now - self._score_at) / HALF_LIFE_S)
        self._score_at = now
        if self.score > self._rules.failures - 0.5:  # so that time between failures in a row does not add a fourth
            again = now - self._closed_at < CALM_S
            self._open(now, min(2 * self._opening_s, self._rules.most_open_s) if again else self._rules.open_s)

    def succeeded(self, ticket: int, now: float) -> None:
        """A first token or a whole answer came."""
        self.score = self.score * FORGIVENESS if self.score > 0.1 else 0.0
        if ticket in self._probes:
            self._probes.discard(ticket)
            self._proofs += 1
            if self._proofs >= self._rules.probes:
                self._open_until = None
                self._closed_at = now
                self._probes.clear()

    def left(self, ticket: int) -> None:
        """An attempt ended without a word on the engine's health."""
        self._probes.discard(ticket)

    def busy(self, now: float, retry_after_s: float | None) -> None:
        """It said that it is overloaded; `retry_after_s` is its own wish."""
        self.overloaded += 1
        if now < self._paused_until:
            return  # of requests that were sent before
        again = now - self._paused_until < 2 * self._pause_s
        self._pause_s = min(2 * self._pause_s, MOST_PAUSE_S) if again else LEAST_PAUSE_S
        self._paused_until = now + min(max(self._pause_s, retry_after_s or 0.0), MOST_PAUSE_S)

    def restarted(self) -> None:
        """Its process is a new one."""
        self.score = 0.0
        self._open_until = None
        self._paused_until = -inf
        self._probes.clear()

    def _open(self, now: float, seconds: float) -> None:
        self.opened += 1
        self.score = 0.0
        self._opening_s = seconds
        self._open_until = now + seconds
        self._probes.clear()
        self._proofs = 0
