"""Congestion: what a second of prefill costs those who come after it, from how busy the fleet is; pure."""

from collections import deque
from collections.abc import Sequence
from typing import Final

WINDOW_S: Final = 60.0
_LEAST_WINDOW_S: Final = 5.0
MOST_BUSY: Final = 0.9
WEIGHT: Final = 0.25
LEAST_SHARE: Final = 0.25
"""Also on an idle fleet: the price of scattering a burst of one prompt."""


class Congestion:
    """Prefill work routed in the last minute, as a share ρ of what the replicas can do in that time.

    In a queue whose load is ρ, a second of work added delays later arrivals by about ρ / (1 − ρ) seconds in all; a
    quarter of it counts (`WEIGHT`), as routing and holding spare them most.
    """

    def __init__(self) -> None:
        self._routed: deque[tuple[float, int, float]] = deque()
        self._work_ms: dict[int, float] = {}  # by slot
        self._since: float | None = None

    def routed(self, now: float, slot: int, work_ms: float) -> None:
        """The replica was sent a request with this much prefill."""
        if self._since is None:
            self._since = now
        self._routed.append((now, slot, work_ms))
        self._work_ms[slot] = self._work_ms.get(slot, 0.0) + work_ms

    def busy(self, now: float, slots: Sequence[int]) -> float:
        """ρ of these replicas together, from 0 to `MOST_BUSY`."""
        routed, work_ms = self._routed, self._work_ms
        while routed and routed[0][0] < now - WINDOW_S:
            _, slot, ms = routed.popleft()
            work_ms[slot] -= ms
        if not routed or self._since is None:
            work_ms.clear()
            return 0.0
        window_s = min(WINDOW_S, max(now - self._since, _LEAST_WINDOW_S))
        work = sum([work_ms.get(slot, 0.0) for slot in slots])
        return min(max(work, 0.0) / (1000 * window_s * len(slots)), MOST_BUSY)

    def others_share(self, now: float, slots: Sequence[int]) -> float:
        """Milliseconds that a millisecond of prefill at one of these replicas costs others."""
        busy = self.busy(now, slots)
        return max(WEIGHT * busy / (1.0 - busy), LEAST_SHARE)
