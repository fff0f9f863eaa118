"""Whether an engine works and its events do not come: the only sign of a lost tail where nothing is replayed; pure."""

from collections import deque
from typing import Final, NamedTuple

from engines.reports import LoadReport

_LOOKS: Final = 3
"""Two intervals: the counters of a long prompt move with its last chunk, most of its events came before."""


class _Look(NamedTuple):
    computed_tokens: int
    finished_requests: int
    messages: int


class Silence:
    """Watches one replica, look by look."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque(maxlen=_LOOKS)

    def observe(self, report: LoadReport, messages: int) -> bool:
        """Take a look at the engine's counters and the number of messages that came so far; whether one must be lost.

        A request that computes a whole block stores it, and says so; of each request less than that may go unsaid.
        """
        prompt, cached, finished = (
            report.prompt_tokens_total,
            report.cached_tokens_total,
            report.finished_requests_total,
        )
        if prompt is None or cached is None or finished is None or not report.block_tokens:
            return False
        look = _Look(prompt - cached, finished, messages)
        if self._looks and (
            look.computed_tokens < self._looks[-1].computed_tokens or messages < self._looks[-1].messages
        ):
            self._looks.clear()  # another process
        self._looks.append(look)
        first = self._looks[0]
        if len(self._looks) < _LOOKS or first.messages != messages:
            return False
        requests = finished - first.finished_requests + (report.running_requests or 0)
        silent = look.computed_tokens - first.computed_tokens > requests * report.block_tokens
        if silent:
            self._looks.clear()
        return silent
