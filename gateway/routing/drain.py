"""How fast a queue drains: tokens sent per second while somebody waited, the latest counting most; pure."""

from math import exp
from typing import Final

_MEMORY_S: Final = 10.0
_GUESS_S: Final = 1.0
_LEAST: Final = 0.05
"""Share of the guess that is believed even when nothing goes: engines that hang come back, or are said to be down."""


class DrainRate:
    """A guess counts as a second of measuring. The clock runs only while somebody waits."""

    def __init__(self) -> None:
        self._tokens = 0.0
        self._seconds = 0.0
        self._guess_per_s = 1.0
        self._at: float | None = None

    def guess(self, per_s: float) -> None:
        """By what is known beforehand; what was measured counts for more."""
        self._guess_per_s = max(per_s, 1.0)
        if not self._seconds:
            self._tokens, self._seconds = self._guess_per_s * _GUESS_S, _GUESS_S

    def start(self, now: float) -> None:
        """Somebody waits from now on."""
        self._at = now

    def stop(self, now: float) -> None:
        """Nobody waits any more."""
        self._pass(now)
        self._at = None

    def sent(self, tokens: int, now: float) -> None:
        """A request of so many tokens went while somebody waited."""
        self._pass(now)
        self._tokens += tokens

    def per_s(self, now: float) -> float:
        """Tokens per second."""
        tokens, seconds = self._until(now)
        return max(tokens / seconds if seconds else 0.0, _LEAST * self._guess_per_s)

    def _pass(self, now: float) -> None:
        self._tokens, self._seconds = self._until(now)
        if self._at is not None:
            self._at = max(self._at, now)

    def _until(self, now: float) -> tuple[float, float]:
        """Tokens and seconds, both less the longer ago they were."""
        if self._at is None or now <= self._at:
            return self._tokens, self._seconds
        kept = exp((self._at - now) / _MEMORY_S)
        return self._tokens * kept, self._seconds * kept + _MEMORY_S * (1 - kept)
