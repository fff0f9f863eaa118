"""An engine's answer on its way to the client: whole bodies, streams, and errors; does I/O."""

import asyncio
import re
from typing import Final

import msgspec

from engines.dialect import Dialect
from engines.reports import EngineError
from gateway.errors import GatewayError, Origin
from gateway.serving.attempt import Attempt
from gateway.serving.engine_client import EngineGoneError, EngineResponse, EngineTimeoutError
from gateway.serving.front.answer import Answer
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


async def read_error(response: EngineResponse, dialect: Dialect, credentials: HeaderList) -> AttemptLostError:
    """An error response, read whole; where it quotes the pool's credentials they are left out."""
    raw = await response.body(MAX_ERROR_BYTES)
    for _, value in credentials:
        for secret in (value, value.split()[-1]):
            raw = raw.replace(secret, b"***")
    return AttemptLostError(dialect.read_error(response.status, raw), raw)


async def relay_body(response: EngineResponse, endpoint: Endpoint, answer: Answer, headers: HeaderList) -> Reply:
    """Pass on a plain JSON body, once it is whole: until then another replica can still take over."""
    body = await response.body(MAX_BODY_BYTES)
    reply = read_reply(endpoint, body)
    if reply is None:
        message = f"the engine answered {response.status} with a body that is not a JSON object"
        raise AttemptLostError(EngineError(502, message, "bad_gateway", retryable=True))
    answer.whole(response.status, headers, body)
    return reply


class StreamRelay:
    """Passes a stream on as it arrives: each of its bytes is sent in the moment in which it came."""

    def __init__(
        self, response: EngineResponse, watcher: StreamWatcher, dialect: Dialect, attempt: Attempt, answer: Answer
    ) -> None:
        self._response = response
        self._watcher = watcher
        self._dialect = dialect
        self._attempt = attempt
        self._answer = answer
        self._told = False
        self._last = b""

    async def run(self, headers: HeaderList) -> AttemptLostError | None:
        """To the stream's end; what broke it after its first byte, else None.

        Raises AttemptLostError while nothing has been sent: the stream cannot be used.
        """
        answer, response, watcher = self._answer, self._response, self._watcher
        first = self._last = await _first_frame(response, watcher, self._dialect)
        self._note()
        answer.start(response.status, headers, first)
        answer.on_cleared = response.resume
        try:
            await response.pipe(self._take)
        except EngineGoneError as error:
            if watcher.done:  # what breaks now is of no consequence
                return None
            broken = lost(error)
        except asyncio.CancelledError:
            self._end_frame()  # where the server stops, an error follows
            raise
        else:
            if watcher.error is not None:
                return AttemptLostError(self._dialect.read_error(500, watcher.error), watcher.error)
            self._pass(watcher.finish())
            if watcher.done:
                return None
            broken = _cut_short("the engine ended the stream before it was complete")
        finally:
            answer.on_cleared = None
        self._end_frame()
        return broken

    def _take(self, chunk: bytes) -> None:
        watcher = self._watcher
        out = watcher.feed(chunk)
        if not self._told:
            self._note()
        if watcher.error is not None:
            self._pass(_through_error(out, watcher.error))
            self._response.close()
        elif out:
            self._last = out
            self._answer.write(out)
            if self._answer.congested:
                self._response.pause()

    def _note(self) -> None:
        """Tell of the first token, once it has passed."""
        if self._watcher.first_token:
            self._told = True
            self._attempt.first_token()

    def _end_frame(self) -> None:
        """What follows must not become part of a frame that broke off."""
        if not self._last.endswith(_FRAME_ENDS):
            self._answer.write(b"\n\n")

    def _pass(self, out: bytes) -> None:
        if out:
            self._last = out
            self._answer.write(out)


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
