"""An engine's answer on its way to the client: whole bodies, streams, and errors; does I/O."""

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
    """The engine failed or refused before the client was sent a byte."""

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
) -> EngineError | None:
    """Pass on a stream as it arrives; the error that broke it after its first byte, else None.

    The first frame is looked at before it is sent: an overloaded SGLang says so in a stream of status 200.
    """
    held = b""
    told = False
    try:
        while chunk := await response.read():
            out = watcher.feed(chunk)
            if watcher.first_token and not told:
                attempt.first_token()
                told = True
            if not client.started:
                held += out
                _refuse_bad_start(watcher, dialect)
                if not _whole_frame(held):
                    continue
                await client.start(response.status, headers)
                out, held = held, b""
            if watcher.error is not None:
                await client.write(out.replace(b"data: [DONE]\n\n", b""))
                return dialect.read_error(500, watcher.error)
            if out:
                await client.write(out)
        out = held + watcher.finish()
    except EngineGoneError as error:
        if not client.started:
            raise
        return lost(error).error
    if not client.started:
        _refuse_bad_start(watcher, dialect)
        if not watcher.done and not watcher.first_token:
            raise AttemptLostError(EngineError(502, "the engine sent no stream", "bad_gateway", retryable=True))
        await client.start(response.status, headers)
    if out:
        await client.write(out)
    return (
        None if watcher.done else EngineError(502, "the engine ended the stream before it was complete", "bad_gateway")
    )


def _refuse_bad_start(watcher: StreamWatcher, dialect: Dialect) -> None:
    if watcher.error is not None:
        raise AttemptLostError(dialect.read_error(502, watcher.error), watcher.error)
    if watcher.aborted_empty:
        error = EngineError(503, "the engine is overloaded", "overloaded", overloaded=True, retryable=True)
        raise AttemptLostError(error)


def _whole_frame(held: bytes) -> bool:
    return b"\n\n" in held or b"\r\n\r\n" in held or b"\r\r" in held or len(held) > _FIRST_FRAME_BYTES


def client_error(failure: AttemptLostError, endpoint: Endpoint, pool: str) -> GatewayError:
    """What the client is told of a failed attempt, in OpenAI's shape."""
    error = failure.error
    origin = Origin.ENGINE if error.status >= 500 else Origin.CLIENT
    if error.status in (401, 403):
        message = f"the engines of pool {pool} refuse the gateway's credentials: set api_key_env for that pool"
        return GatewayError(message, status=502, origin=Origin.GATEWAY, type="bad_gateway")
    if error.status in (404, 405) and not _has_error_object(failure.raw):
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


class _ErrorBody(msgspec.Struct):
    message: str


class _WithError(msgspec.Struct):
    error: _ErrorBody


def _has_error_object(raw: bytes) -> bool:
    try:
        msgspec.json.decode(raw, type=_WithError)
    except msgspec.DecodeError:
        return False
    return True
