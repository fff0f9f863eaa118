"""Congestion: what a second of prefill costs those who come after it, from how busy the fleet is; pure."""

from collections import Counter, defaultdict, deque
from collections.abc import Sequence
from typing import Final, NamedTuple

WINDOW_S: Final = 60.0
_LEAST_WINDOW_S: Final = 5.0
MOST_BUSY: Final = 0.9
WEIGHT: Final = 0.25
LEAST_SHARE: Final = 0.3
"""Also on an idle fleet: the price of scattering a burst of one prompt."""


class Congestion:
    """Requests and prefill work routed in the last minute; work also as a share ρ of what the replicas can do.

    In a queue whose load is ρ, a second of work added delays later arrivals by about ρ / (1 − ρ) seconds in all; a
    quarter of it counts (`WEIGHT`), as routing and holding spare them most. And whoever comes to a replica while it
    is busy with this prompt waits for half of it on average, so long prompts belong where few others come: with λ
    arrivals a second, w seconds of prefill cost them λ·w²/2, as far as the fleet is idle and they need not wait anyway.
    """

    def __init__(self) -> None:
        self._routed: deque[tuple[float, int, float]] = deque()
        self._work_ms: defaultdict[int, float] = defaultdict(float)  # by slot
        self._requests: Counter[int] = Counter()
        self._since: float | None = None

    def routed(self, now: float, slot: int, work_ms: float) -> None:
        """The replica was sent a request with this much prefill."""
        if self._since is None:
            self._since = now
        self._routed.append((now, slot, work_ms))
        self._work_ms[slot] += work_ms
        self._requests[slot] += 1

    def forget(self, slot: int) -> None:
        """The replica was removed: what it was sent is no measure of whoever gets its slot."""
        self._routed = deque(one for one in self._routed if one[1] != slot)
        self._work_ms.pop(slot, None)
        del self._requests[slot]

    def busy(self, now: float, slots: Sequence[int]) -> float:
        """ρ of these replicas together, from 0 to `MOST_BUSY`."""
        routed, work_ms = self._routed, self._work_ms
        if routed and routed[0][0] < now - WINDOW_S:
            self._forget(now - WINDOW_S)
        if not routed:
            return 0.0
        work = 0.0
        for slot in slots:
            work += work_ms[slot]
        return min(work / (1000 * self._window_s(now) * len(slots)), MOST_BUSY) if work > 0 else 0.0

    def _forget(self, before: float) -> None:
        routed = self._routed
        while routed and routed[0][0] < before:
            _, slot, ms = routed.popleft()
            self._work_ms[slot] -= ms
            self._requests[slot] -= 1
        if not routed:  # sums of floats leave crumbs
            self._work_ms.clear()
            self._requests.clear()

    def _window_s(self, now: float) -> float:
        window_s = 0.0 if self._since is None else now - self._since
        return _LEAST_WINDOW_S if window_s < _LEAST_WINDOW_S else min(window_s, WINDOW_S)

    def price(self, now: float, slots: Sequence[int]) -> "Price":
        """What work at these replicas costs others now."""
        busy = self.busy(now, slots)
        return Price(_share(busy), (1.0 - busy) / (2000 * self._window_s(now)), self._requests)


def _share(busy: float) -> float:
    return max(WEIGHT * busy / (1.0 - busy), LEAST_SHARE)


class Price(NamedTuple):
    """`share` of each millisecond of prefill, and `per_request` of its square for each of a replica's `requests`."""

    share: float
    per_request: float
    requests: Counter[int]
