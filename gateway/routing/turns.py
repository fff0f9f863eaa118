"""Turns: whose request goes next when several wait, by what each was given per unit of its weight; pure."""

from collections.abc import Hashable
from typing import Final, Generic, TypeVar

CREDIT: Final = 200_000.0
"""Tokens per unit of weight that somebody may be owed who waits for what is not free."""
_KEPT: Final = 4096

K = TypeVar("K", bound=Hashable)


class Turns(Generic[K]):
    """Deficit round robin by tokens, with quanta as small as they can be: next is who was given least for its weight.

    `mark` is what somebody was given until now. Who comes to wait starts at the mark of the one served last: it is owed
    nothing for the time when it asked for nothing.
    """

    def __init__(self) -> None:
        self._marks: dict[K, float] = {}
        self._level = 0.0

    def mark(self, who: K) -> float:
        """Tokens per unit of weight; the least goes next."""
        return max(self._marks.get(who, self._level), self._level - CREDIT)

    def join(self, who: K) -> None:
        """It waits now, and did not before."""
        if self._marks.get(who, 0.0) < self._level:
            self._marks[who] = self._level
        if len(self._marks) > _KEPT:  # who is forgotten begins at the level again, which is where most are
            ahead = sorted(self._marks.items(), key=lambda mark: -mark[1])[: _KEPT // 2]
            self._marks = {one: mark for one, mark in ahead if mark > self._level}

    def give(self, who: K, tokens: float, weight: float) -> None:
        """One of its requests goes."""
        mark = self.mark(who)
        self._level = max(self._level, mark)
        self._marks[who] = mark + tokens / weight
