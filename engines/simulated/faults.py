"""Faults that can be ordered from a running simulated engine: what requests get, what its pages say; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, cast, get_args

from engines.simulated.lies import Lie

FaultKind = Literal[
    "refuse", "overload", "hang", "not-http", "bad-json", "broken-sse", "bad-chunks", "close", "reset", "stall"
]
"""What a generating request may get.

Instead of an answer: `refuse` (an error of some status), `overload` (that, as the dialect says it), `hang` (nothing),
`not-http` (bytes that are no HTTP). Within one: `bad-json`, `broken-sse`, `bad-chunks` (not HTTP from there on),
`close` and `reset` (of the connection, by FIN or RST), `stall` (silence).
"""
BEFORE_AN_ANSWER: tuple[FaultKind, ...] = ("refuse", "overload", "hang", "not-http")


@dataclass(frozen=True, slots=True)
class Fault:
    """The fault of one request. `after_tokens` says where in a stream; a plain body breaks in its middle."""

    kind: FaultKind
    status: int = 503
    after_tokens: int = 0


@dataclass(slots=True)
class Faults:
    """What is ordered: `fault` for the next `remaining` generating requests (None: until told otherwise)."""

    fault: Fault | None = None
    remaining: int | None = None
    unhealthy: bool = False
    """Whether `/health` answers 503."""
    metrics: Lie | None = None
    """What the pages about load say instead of the truth."""
    slow: float = 1.0
    """How many times as long everything takes."""

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """From JSON, all of it optional; what is left out is over. Raises ValueError for what there is not.

        `{"fault", "after_tokens", "status", "count" (null: no end), "unhealthy", "metrics", "slow"}`; a `status`
        alone refuses, `cut_after_tokens` is `close` after so many.
        """
        count = body.get("count", 1)
        lie = body.get("metrics")
        if lie is not None and lie not in get_args(Lie):
            raise ValueError(f"metrics may be {', '.join(get_args(Lie))}, not {lie!r}")
        slow = float(body.get("slow", 1.0))
        if not 0 < slow < float("inf"):
            raise ValueError("slow must be above 0")
        return cls(
            fault=_read_fault(body),
            remaining=None if count is None else int(count),
            unhealthy=bool(body.get("unhealthy")),
            metrics=lie,
            slow=slow,
        )

    def take(self) -> Fault | None:
        """The fault of one more request, None where it is served."""
        if self.fault is None or self.remaining == 0:
            return None
        if self.remaining is not None:
            self.remaining -= 1
        return self.fault


def _read_fault(body: Mapping[str, Any]) -> Fault | None:
    kind = body.get("fault")
    if kind is None and body.get("status") is not None:
        kind = "refuse"
    if kind is None and body.get("cut_after_tokens") is not None:
        return Fault("close", after_tokens=int(body["cut_after_tokens"]))
    if kind is None:
        return None
    if kind not in get_args(FaultKind):
        raise ValueError(f"fault may be {', '.join(get_args(FaultKind))}, not {kind!r}")
    return Fault(cast("FaultKind", kind), int(body.get("status") or 503), int(body.get("after_tokens", 0)))
