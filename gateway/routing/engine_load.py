"""What an engine's own load report adds to what we know: others' requests there, and a KV cache in use; pure."""

from dataclasses import dataclass
from typing import Final

from engines.reports import LoadReport
from gateway.routing.curves import PrefillCurve

_TOLERANCE: Final = 1.25
_TOLERATED_TOKENS: Final = 2048
"""Waiting tokens that are no more than this beyond our own may be our own: ours are estimates, reports a little old."""
_MEMORY: Final = 0.05


@dataclass(slots=True)
class EngineLoad:
    """One replica's, as of its last report. Between reports, others' work is done at the pace of the clock."""

    others_ms: float = 0.0
    """Prefill waiting in the engine that is not ours: other gateways' or clients'."""
    reported_at: float = 0.0
    free_tokens: float | None = None
    """KV cache that no running request uses, less what was sent since; None where the engine does not say."""
    used_tokens: float = 0.0
    stay_ms: float = 0.0
    """For how long a request holds its KV after its first token: a recency-weighted mean."""

    def reported(
        self, report: LoadReport, capacity_tokens: int | None, ours: list[int], curve: PrefillCurve, now: float
    ) -> None:
        """Take a report. `ours` are the uncached tokens of each request of ours that has no first token yet."""
        self.reported_at = now
        self.others_ms = _others_ms(report, ours, curve)
        if report.kv_usage is None or not capacity_tokens:
            self.free_tokens = None
        else:
            self.used_tokens = report.kv_usage * capacity_tokens
            self.free_tokens = capacity_tokens - self.used_tokens

    def sent(self, tokens: int) -> None:
        """A prompt of so many tokens will need room."""
        if self.free_tokens is not None:
            self.free_tokens -= tokens

    def stayed(self, ms: float) -> None:
        """A request held its KV for so long after its first token."""
        self.stay_ms += (ms - self.stay_ms) * (_MEMORY if self.stay_ms else 1.0)

    def wait_ms(self, now: float) -> float:
        """Others' prefill that is still waiting."""
        return max(self.others_ms - (now - self.reported_at) * 1000, 0.0) if self.others_ms else 0.0

    def room_ms(self, tokens: int) -> float:
        """Until so many tokens fit: running requests give theirs back at the pace at which they finish."""
        free = self.free_tokens
        if free is None or tokens <= free or not self.used_tokens:
            return 0.0
        return self.stay_ms * min((tokens - free) / self.used_tokens, 1.0)


def _others_ms(report: LoadReport, ours: list[int], curve: PrefillCurve) -> float:
    """From waiting tokens where the engine counts them (SGLang), else from waiting requests at our own mean size."""
    mine = sum(ours)
    if report.waiting_uncached_tokens is not None:
        waiting = report.waiting_uncached_tokens
        return curve.predict_ms(waiting - mine) if waiting > _TOLERANCE * mine + _TOLERATED_TOKENS else 0.0
    more = (report.waiting_requests or 0) - len(ours)
    size = mine / len(ours) if ours else _TOLERATED_TOKENS
    return more * curve.predict_ms(size) if more > 0 else 0.0
