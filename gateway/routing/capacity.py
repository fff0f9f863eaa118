"""How many requests an engine takes before it lets them wait: by its own word, or by what it showed; pure."""

from dataclasses import dataclass
from math import inf
from typing import Final

from engines.reports import LoadReport

_FULL_USAGE: Final = 0.95
"""Share of the KV cache from which on waiting requests wait for room."""
_GROWTH: Final = 0.1
_FEWEST: Final = 2.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 8.0


@dataclass(slots=True)
class EngineCapacity:
    """One replica's. Additive increase while the limit binds and nobody waits in the engine, decrease to what it
    carried when somebody did, or was refused. One that refuses the only request that it is sent is closed for a while.

    All counts are of requests that we know to be there: what others send it makes our share smaller.
    """

    limit: float = inf
    """Requests in flight at which it is full."""
    stated: float = inf
    """The most that it runs, by its own word."""
    closed_until: float = 0.0
    _pause_s: float = _FIRST_PAUSE_S
    _preemptions: int | None = None
    _signs: int = 0

    def is_full(self, inflight: int, now: float) -> bool:
        """Whether one more would have to wait there. With none in flight there is room: others' never ends."""
        return now < self.closed_until or inflight >= self.limit > 0 < inflight

    def states(self, running: int | None) -> None:
        """It says how many it runs at most."""
        self.stated = inf if running is None else max(float(running), 1.0)
        self.limit = min(self.limit, self.stated)

    def reported(self, report: LoadReport, inflight: int, *, stuck: bool) -> None:
        """Take a report. `stuck`: a prompt of ours should have long been begun."""
        before, self._preemptions = self._preemptions, report.preemptions_total
        preempted = before is not None and report.preemptions_total is not None and report.preemptions_total > before
        waiting = report.waiting_requests or 0
        short = report.kv_usage is not None and report.kv_usage >= _FULL_USAGE
        if preempted or (waiting and (short or stuck)):
            self._signs += 1
            if self._signs > 1 or short or preempted:  # being late may have other reasons
                self.limit = min(self.limit, max(inflight - waiting, _FEWEST))
            return
        self._signs = 0
        if inflight > 1:
            self._pause_s = _FIRST_PAUSE_S
        if inflight >= self.limit:
            self.limit = min(self.limit + max(1.0, _GROWTH * self.limit), self.stated)

    def refused(self, inflight: int, now: float) -> None:
        """It refused a request as it had too much to do: `inflight` counts that one."""
        carried = inflight - 1
        if carried > 0:  # when one of these ends there is room
            self.limit = min(self.limit, float(carried))
            self._pause_s = _FIRST_PAUSE_S
        else:
            self.limit = 1.0
            self.closed_until = now + self._pause_s
            self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)

    def restarted(self) -> None:
        """It is a new process, of which nothing was seen."""
        self.limit, self.closed_until, self._preemptions, self._signs = self.stated, 0.0, None, 0

    def wait_ms(self, inflight: int, stay_ms: float, now: float) -> float:
        """Until there is room for one more, where each stays for so long."""
        wait_ms = max(self.closed_until - now, 0.0) * 1000
        return wait_ms + stay_ms / self.limit if inflight >= self.limit else wait_ms
