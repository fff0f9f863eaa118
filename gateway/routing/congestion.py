"""Congestion: what a second of prefill costs those who come after it, from how busy the fleet is; pure."""

from collections import deque
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
        self._routed: deque[tuple[float, float]] = deque()
        self._work_ms = 0.0
        self._since: float | None = None

    def routed(self, now: float, work_ms: float) -> None:
        """A request with this much prefill was sent."""
        if self._since is None:
            self._since = now
        self._routed.append((now, work_ms))
        self._work_ms += work_ms

    def busy(self, now: float, replicas: int) -> float:
        """ρ, from 0 to `MOST_BUSY`."""
        routed = self._routed
        while routed and routed[0][0] < now - WINDOW_S:
            self._work_ms -= routed.popleft()[1]
        if not routed or self._since is None:
            self._work_ms = 0.0
            return 0.0
        window_s = min(WINDOW_S, max(now - self._since, _LEAST_WINDOW_S))
        return min(self._work_ms / (1000 * window_s * replicas), MOST_BUSY)

    def others_share(self, now: float, replicas: int) -> float:
        """Milliseconds that a millisecond of prefill costs others."""
        busy = self.busy(now, replicas)
        return max(WEIGHT * busy / (1.0 - busy), LEAST_SHARE)
