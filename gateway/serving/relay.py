"""An engine's answer on its way to the client: whole bodies, streams, and errors; does I/O."""

import re
from typing import Final, Protocol

import msgspec

from engines.dialect import Dialect
from engines.reports import EngineError
from gateway.errors import GatewayError, Origin
from gateway.serving.attempt import Attempt
from gateway.serving.engine_client import EngineGoneError, EngineResponse, EngineTimeoutError
from gateway.serving.headers import HeaderList
from gateway.wire.reply import Reply, read_reply
from gateway.wire.request import Endpoint
from gateway.wire.stream import StreamWatcher

MAX_ERROR_BYTES: Final = 1 << 20
MAX_BODY_BYTES: Final = 256 << 20
_FIRST_FRAME_BYTES: Final = 64 * 1024
_FRAME_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
_FRAME_END: Final = re.compile(b"|".join(_FRAME_ENDS))
_RETRY_AFTER_S: Final = 1.0


class ClientSide(Protocol):
    """The client's connection. `gone` is True once the client has closed it; its task is then cancelled."""

    gone: bool
    started: bool

    async def start(self, status: int, headers: HeaderList) -> None:
        """Send the response's head."""

    async def write(self, data: bytes) -> None:
        """Send bytes of the body; waits while the client is slow."""

    async def end(self) -> None:
        """End the body."""


class AttemptLostError(Exception):
    """The engine failed or refused; raised only while the client has not been sent a byte."""

    def __init__(self, error: EngineError, raw: bytes = b"", *, timed_out: bool = False) -> None:
        super().__init__(error.message)
        self.error = error
        self.raw = raw
        self.timed_out = timed_out


def lost(error: EngineGoneError) -> AttemptLostError:
    """A broken connection, as an attempt that another replica may take over."""
    timed_out = isinstance(error, EngineTimeoutError)
    status, kind = (504, "timeout_error") if timed_out else (502, "bad_gateway")
    return AttemptLostError(EngineError(status, str(error), kind, retryable=not timed_out), timed_out=timed_out)


async def read_error(response: EngineResponse, dialect: Dialect) -> AttemptLostError:
    """An error response, read whole."""
    raw = await response.body(MAX_ERROR_BYTES)
    return AttemptLostError(dialect.read_error(response.status, raw), raw)


async def relay_body(response: EngineResponse, endpoint: Endpoint, client: ClientSide, headers: HeaderList) -> Reply:
    """Pass on a plain JSON body, once it is whole: until then another replica can still take over."""
    body = await response.body(MAX_BODY_BYTES)
    reply = read_reply(endpoint, body)
    if reply is None:
        message = f"the engine answered {response.status} with a body that is not a JSON object"
        raise AttemptLostError(EngineError(502, message, "bad_gateway", retryable=True))
    headers.append((b"content-length", b"%d" % len(body)))
    await client.start(response.status, headers)
    await client.write(body)
    await client.end()
    return reply


async def relay_stream(
    response: EngineResponse,
    watcher: StreamWatcher,
    dialect: Dialect,
    attempt: Attempt,
    client: ClientSide,
    headers: HeaderList,
) -> AttemptLostError | None:
    """Pass on a stream as it arrives; what broke it after its first byte, else None."""
    out = last = await _first_frame(response, watcher, dialect)
    told = watcher.first_token
    if told:
        attempt.first_token()
    await client.start(response.status, headers)
    await client.write(out)
    try:
        while chunk := await response.read():
            out = watcher.feed(chunk)
            if watcher.first_token and not told:
                attempt.first_token()
                told = True
            if watcher.error is not None:
                await client.write(_through_error(out, watcher.error))
                return AttemptLostError(dialect.read_error(500, watcher.error), watcher.error)
            if out:
                await client.write(out)
                last = out
    except EngineGoneError as error:
        broken = lost(error)
    else:
        if out := watcher.finish():
            await client.write(out)
            last = out
        if watcher.done:
            return None
        broken = _cut_short("the engine ended the stream before it was complete")
    if not last.endswith(_FRAME_ENDS):
        await client.write(b"\n\n")  # what follows must not become part of a frame that broke off
    return broken


async def _first_frame(response: EngineResponse, watcher: StreamWatcher, dialect: Dialect) -> bytes:
    """The beginning of a stream, looked at before it is sent: an overloaded SGLang says so with status 200.

    Raises AttemptLostError for a stream that cannot be used, and EngineGoneError.
    """
    held = b""
    while chunk := await response.read():
        held += watcher.feed(chunk)
        _refuse_bad_start(watcher, dialect)
        if _whole_frame(held):
            return held
    held += watcher.finish()
    _refuse_bad_start(watcher, dialect)
    if not watcher.done and not watcher.first_token:
        raise _cut_short("the engine sent no stream")
    return held


def _cut_short(message: str) -> AttemptLostError:
    return AttemptLostError(EngineError(502, message, "bad_gateway", retryable=True))


def _refuse_bad_start(watcher: StreamWatcher, dialect: Dialect) -> None:
    if watcher.error is not None:
        raise AttemptLostError(dialect.read_error(502, watcher.error), watcher.error)
    if watcher.aborted_empty:
        error = EngineError(503, "the engine is overloaded", "overloaded", overloaded=True, retryable=True)
        raise AttemptLostError(error)


def _whole_frame(held: bytes) -> bool:
    return any(end in held for end in _FRAME_ENDS) or len(held) > _FIRST_FRAME_BYTES


def _through_error(out: bytes, error: bytes) -> bytes:
    """`out` to the end of its error frame: the [DONE] that engines send after it is not for the client."""
    end = _FRAME_END.search(out, max(out.find(error), 0))
    return out[: end.end()] if end else out


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
