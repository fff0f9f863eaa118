"""Recent work: a replica's latest measured prefills, and its KV cache and preemptions over the last hour; pure."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from engines.reports import LoadReport

MOST_PREFILLS: Final = 512
WINDOW_S: Final = 3600.0
_SLOT_S: Final = 60.0


class TimedPrefill(NamedTuple):
    """One measured prefill: when it ended, its uncached tokens and its milliseconds of the engine's time."""

    at: float
    uncached_tokens: int
    ms: float


@dataclass(frozen=True, slots=True)
class RecentView:
    """Of the latest prefills: how many, the median of their uncached tokens, which share is longer than the replica's
    chunk and the median of those (None without any, or where the chunk is not known). `kv_peak` (0 to 1) and
    `preemptions` are of the last hour; None where the engine does not say.
    """

    prefills: int = 0
    uncached_p50: int | None = None
    long_share: float | None = None
    long_p50: int | None = None
    kv_peak: float | None = None
    preemptions: int | None = None


class RecentWork:
    """Bounded: the latest `MOST_PREFILLS`, and one entry for each of 60 minutes."""

    __slots__ = ("_minutes", "_preempted", "prefills")

    def __init__(self) -> None:
        self.prefills: deque[TimedPrefill] = deque(maxlen=MOST_PREFILLS)
        self._minutes: deque[tuple[int, float, int]] = deque(maxlen=int(WINDOW_S / _SLOT_S))
        """Each minute's number, the peak of KV usage in it, and preemptions."""
        self._preempted: int | None = None

    def reported(self, report: LoadReport, now: float) -> None:
        """Take the engine's word on its load."""
        before, total = self._preempted, report.preemptions_total
        more = max(total - before, 0) if total is not None and before is not None else 0
        self._preempted = total if total is not None else before
        if report.kv_usage is None and not more:
            return
        minute = int(now // _SLOT_S)
        number, peak, preempted = self._minutes[-1] if self._minutes else (-1, 0.0, 0)
        if number == minute:
            self._minutes.pop()
        else:
            peak, preempted = 0.0, 0
        self._minutes.append((minute, max(peak, report.kv_usage or 0.0), preempted + more))

    def view(self, chunk_tokens: int | None, now: float) -> RecentView:
        """As of now."""
        sizes = sorted(one.uncached_tokens for one in self.prefills)
        long = [] if chunk_tokens is None else [size for size in sizes if size > chunk_tokens]
        since = int((now - WINDOW_S) // _SLOT_S)
        minutes = [one for one in self._minutes if one[0] > since]
        return RecentView(
            prefills=len(sizes),
            uncached_p50=_middle(sizes),
            long_share=len(long) / len(sizes) if sizes and chunk_tokens is not None else None,
            long_p50=_middle(long),
            kv_peak=max((peak for _, peak, _ in minutes), default=None),
            preemptions=None if self._preempted is None else sum(count for _, _, count in minutes),
        )


def _middle(ordered: Sequence[int]) -> int | None:
    return ordered[len(ordered) // 2] if ordered else None
