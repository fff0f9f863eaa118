"""The controller: when advice is followed by itself; pure, and off unless a pool says `auto`."""

from collections import deque
from dataclasses import dataclass
from typing import Final

from gateway.prefill.advice import Advice

DAY_S: Final = 86_400.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """What it may do: chunks from `least` to `most` tokens, after advice has held for `hold_s`, `per_day` times."""

    least: int
    most: int
    hold_s: float
    per_day: int


class Controller:
    """For one pool. Seconds are on one clock, whichever.

    Advice that changes its mind begins to hold anew; a chunk that was taken back is not tried again for a day.
    """

    def __init__(self) -> None:
        self._wanted: int | None = None
        self._since = 0.0
        self._changes: deque[float] = deque()
        self._refused: dict[int, float] = {}

    def look(self, advice: Advice, bounds: Bounds, now: float) -> int | None:
        """The chunk to apply now, if any."""
        while self._changes and now - self._changes[0] >= DAY_S:
            self._changes.popleft()
        self._refused = {chunk: at for chunk, at in self._refused.items() if now - at < DAY_S}
        to = advice.to
        if to is None or not bounds.least <= to <= bounds.most or to in self._refused:
            self._wanted = None
            return None
        if to != self._wanted:
            self._wanted, self._since = to, now
        if now - self._since < bounds.hold_s or len(self._changes) >= bounds.per_day:
            return None
        return to

    def began(self, now: float) -> None:
        """Its advice is being followed."""
        self._changes.append(now)
        self._wanted = None

    def refused(self, chunk_tokens: int, now: float) -> None:
        """That change was taken back, or could not be made."""
        self._refused[chunk_tokens] = now
