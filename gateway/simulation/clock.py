"""Virtual time: what is to happen when, in order; pure."""

import heapq
from collections.abc import Callable


class Clock:
    """Runs actions at their times. Those of one time run in the order in which they were set."""

    def __init__(self) -> None:
        self.now = 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._set = 0

    def at(self, time: float, action: Callable[[], None]) -> None:
        """Do this then, or now where that is past."""
        self._set += 1
        heapq.heappush(self._queue, (max(time, self.now), self._set, action))

    def run_next(self) -> bool:
        """Go on to the next action and do it; False when there is none."""
        if not self._queue:
            return False
        self.now, _, action = heapq.heappop(self._queue)
        action()
        return True
