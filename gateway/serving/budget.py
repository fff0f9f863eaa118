"""A budget: of what was earned in the last seconds, a share may be spent; pure."""

from math import inf
from typing import Final

HALF_S: Final = 5.0
"""The window is the current half and the one before it: 5 to 10 seconds."""


class Budget:
    """Spends at most `share` of what is earned, and always `floor_per_s`, by the counts of a sliding window."""

    __slots__ = ("_before", "_earned", "_floor", "_share", "_spent", "_turn_at")

    def __init__(self, share: float, floor_per_s: float = 0.0) -> None:
        self._share = share
        self._floor = floor_per_s * 2 * HALF_S
        self._earned = self._spent = 0
        self._before = (0, 0)
        self._turn_at = -inf

    def earn(self, now: float) -> None:
        """One request came. `now` is seconds on a monotonic clock."""
        if now >= self._turn_at:
            self._turn(now)
        self._earned += 1

    def spend(self, now: float) -> bool:
        """Take one, if there is one left."""
        if now >= self._turn_at:
            self._turn(now)
        earned, spent = self._before
        left = self._share * (earned + self._earned) + self._floor - (spent + self._spent)
        if left < 1:
            return False
        self._spent += 1
        return True

    def _turn(self, now: float) -> None:
        recent = now < self._turn_at + HALF_S
        self._before = (self._earned, self._spent) if recent else (0, 0)
        self._earned = self._spent = 0
        self._turn_at = now + HALF_S
