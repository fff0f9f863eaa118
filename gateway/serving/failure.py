"""How an attempt fails, what the router is told of it, and what the client; pure."""

from typing import Final

import msgspec

from engines.reports import EngineError
from gateway.errors import GatewayError, Origin
from gateway.routing.facts import Cause, Outcome
from gateway.serving.engine_client import EngineGoneError, EngineTimeoutError, EngineUnreachableError
from gateway.wire.request import Endpoint

_RETRY_AFTER_S: Final = 1.0


class AttemptLostError(Exception):
    """The engine failed or refused. `raw` is its own error body, `retry_after_s` its own wish.

    Of a stream that had begun: `frame` is what it said last, withheld from the client; `told`: the client has it.
    `obstacle` names what keeps a stream from going on here, where that was the reason.
    """

    def __init__(
        self,
        error: EngineError,
        raw: bytes = b"",
        *,
        timed_out: bool = False,
        cause: Cause = Cause.ENGINE,
        unreachable: bool = False,
        obstacle: str = "",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(error.message)
        self.error = error
        self.raw = raw
        self.timed_out = timed_out
        self.cause = Cause.OVERLOADED if error.overloaded else cause
        self.unreachable = unreachable
        self.obstacle = obstacle
        self.retry_after_s = retry_after_s
        self.frame = b""
        self.told = False

    @property
    def outcome(self) -> Outcome:
        """How the request ended if this was its end."""
        if self.timed_out:
            return Outcome.TIMED_OUT
        if self.error.overloaded or 400 <= self.error.status < 500:
            return Outcome.ENGINE_REJECTED
        return Outcome.ENGINE_FAILED


def lost(error: EngineGoneError) -> AttemptLostError:
    """A broken connection, as an attempt that another replica may take over."""
    timed_out = isinstance(error, EngineTimeoutError)
    status, kind = (504, "timeout_error") if timed_out else (502, "bad_gateway")
    return AttemptLostError(
        EngineError(status, str(error), kind, retryable=True),
        timed_out=timed_out,
        cause=Cause.ENGINE if timed_out else Cause.CONNECTION,
        unreachable=isinstance(error, EngineUnreachableError),
    )


def unusable(message: str, obstacle: str = "") -> AttemptLostError:
    """An answer that is none; with an `obstacle` there is no use in asking others."""
    return AttemptLostError(EngineError(502, message, "bad_gateway", retryable=not obstacle), obstacle=obstacle)


def client_error(failure: AttemptLostError, endpoint: Endpoint, pool: str) -> GatewayError:
    """What the client is told of a failed attempt, in OpenAI's shape."""
    error = failure.error
    origin = Origin.ENGINE if error.status >= 500 else Origin.CLIENT
    if error.status in (401, 403):
        message = f"the engines of pool {pool} refuse the gateway's credentials: set api_key_env for that pool"
        return GatewayError(message, status=502, origin=Origin.GATEWAY, type="bad_gateway")
    if error.status in (404, 405) and not _has_cause(failure.raw):
        message = f"the engines of pool {pool} do not serve {endpoint}"
        return GatewayError(message, status=404, origin=Origin.CLIENT, code="endpoint_not_served")
    status = 503 if error.overloaded and error.status != 429 else error.status
    retry_after_s = _RETRY_AFTER_S if status in (429, 503) else None
    return GatewayError(
        error.message, status=status, origin=origin, type=error.type, param=error.param, code=error.code,
        retry_after_s=retry_after_s,
    )  # fmt: skip


def passable(failure: AttemptLostError) -> bytes | None:
    """The engine's own error body where it already has OpenAI's shape and is about the request, else None."""
    about_request = 400 <= failure.error.status < 500 and failure.error.status not in (401, 403)
    return failure.raw if about_request and _has_error_object(failure.raw) else None


def last_frame(failure: AttemptLostError, endpoint: Endpoint) -> bytes:
    """The frame that ends a stream which has begun: the engine's own where it had the last word."""
    if failure.told or failure.frame:
        return failure.frame
    error = failure.error
    told = GatewayError(error.message, status=error.status, origin=Origin.ENGINE, type=error.type)
    return told.sse_frame(endpoint)


class _Cause(msgspec.Struct):
    message: str


class _Wrapped(msgspec.Struct):
    error: _Cause


def _has_error_object(raw: bytes) -> bool:
    """Whether a body has OpenAI's shape."""
    return _reads_as(raw, _Wrapped)


def _has_cause(raw: bytes) -> bool:
    """Whether a body is of the engine's own making, in OpenAI's shape or flat; a framework's says `detail`."""
    return _reads_as(raw, _Wrapped) or _reads_as(raw, _Cause)


def _reads_as(raw: bytes, shape: type[msgspec.Struct]) -> bool:
    try:
        msgspec.json.decode(raw, type=shape)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    return True
