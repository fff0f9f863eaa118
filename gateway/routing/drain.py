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
        self._pass(now)
        measured = self._tokens / self._seconds if self._seconds else 0.0
        return max(measured, _LEAST * self._guess_per_s)

    def _pass(self, now: float) -> None:
        if self._at is not None and now > self._at:
            kept = exp((self._at - now) / _MEMORY_S)
            self._tokens *= kept
            self._seconds = self._seconds * kept + _MEMORY_S * (1 - kept)
            self._at = now
