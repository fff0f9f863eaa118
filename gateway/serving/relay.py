"""An engine's answer on its way to the client: whole bodies and streams; does I/O."""

import asyncio
import re
from typing import Final

from engines.dialect import Dialect
from engines.reports import EngineError
from gateway.serving.attempt import Attempt
from gateway.serving.engine_client import EngineGoneError, EngineResponse
from gateway.serving.failure import AttemptLostError, lost, unusable
from gateway.serving.front.answer import Answer
from gateway.serving.headers import HeaderList
from gateway.wire.reply import Reply, read_reply
from gateway.wire.request import Endpoint
from gateway.wire.splicing import StrayedError
from gateway.wire.stream import GarbledError, StreamWatcher
from gateway.wire.transcript import Transcript

MAX_ERROR_BYTES: Final = 1 << 20
MAX_BODY_BYTES: Final = 256 << 20
_FIRST_FRAME_BYTES: Final = 64 * 1024
_FRAME_ENDS: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
_FRAME_END: Final = re.compile(b"|".join(_FRAME_ENDS))


async def read_error(response: EngineResponse, dialect: Dialect, credentials: HeaderList) -> AttemptLostError:
    """An error response, read whole; where it quotes the pool's credentials they are left out."""
    raw = await response.body(MAX_ERROR_BYTES)
    for _, value in credentials:
        for secret in (value, value.split()[-1]):
            raw = raw.replace(secret, b"***")
    after = response.header(b"retry-after")  # seconds; a date, which engines do not send, is not read
    retry_after_s = float(after) if after.isdigit() else None
    return AttemptLostError(dialect.read_error(response.status, raw), raw, retry_after_s=retry_after_s)


async def read_whole(response: EngineResponse, endpoint: Endpoint) -> tuple[bytes, Reply]:
    """A plain JSON body, whole before any of it is sent: until then another replica can still take over."""
    body = await response.body(MAX_BODY_BYTES)
    reply = read_reply(endpoint, body)
    if reply is None:
        raise unusable(f"the engine answered {response.status} with a body that is not a JSON object")
    return body, reply


async def first_frame(response: EngineResponse, watcher: StreamWatcher, dialect: Dialect) -> bytes:
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
        raise unusable("the engine sent no stream")
    return held


class StreamRelay:
    """Passes a stream on as it arrives: each of its bytes is sent in the moment in which it came.

    With a `transcript` what was sent is kept there, and an engine's error is withheld, as the stream may yet go on
    elsewhere; the watcher then has to give whole frames.
    """

    def __init__(
        self,
        response: EngineResponse,
        watcher: StreamWatcher,
        dialect: Dialect,
        attempt: Attempt,
        answer: Answer,
        transcript: Transcript | None = None,
    ) -> None:
        self._response = response
        self._watcher = watcher
        self._dialect = dialect
        self._attempt = attempt
        self._answer = answer
        self._transcript = transcript
        self._told = False
        self._last = b""
        self._withheld = b""

    async def run(self, headers: HeaderList, first: bytes) -> AttemptLostError | None:
        """From the first frame to the stream's end; what broke it, else None. `headers` are of a stream that begins."""
        answer, response, watcher = self._answer, self._response, self._watcher
        self._last = first
        self._note()
        if answer.started:
            answer.write(first)
        else:
            answer.start(response.status, headers, first)
        if self._transcript is not None:
            self._keep(self._transcript, first)
        answer.on_cleared = response.resume
        try:
            await response.pipe(self._take)
        except (EngineGoneError, StrayedError, GarbledError) as error:
            if watcher.done:  # what breaks now is of no consequence
                return None
            broken = _broken_by(error)
        except asyncio.CancelledError:
            self._end_frame()  # where the server stops, an error follows
            raise
        else:
            if watcher.error is not None:
                return self._own_error(watcher.error)
            rest = watcher.finish()
            if watcher.done or self._transcript is None:  # else the stream may go on, but not with half a frame
                self._pass(rest)
            if watcher.done:
                return None
            broken = unusable("the engine ended the stream before it was complete")
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
            self._take_error(out, watcher.error)
            self._response.close()
        elif out:
            self._last = out
            transcript = self._transcript
            if transcript is not None:  # as `_keep`, without a call for each piece of each stream
                transcript.room -= len(out)
                transcript.pieces.append(out)
                if transcript.room < 0:
                    transcript.pieces.clear()
            self._answer.write(out)
            if self._answer.congested:
                self._response.pause()

    def _keep(self, transcript: Transcript, out: bytes) -> None:
        """Note what is sent; nothing more once it has become too much."""
        transcript.room -= len(out)
        transcript.pieces.append(out)
        if transcript.room < 0:
            transcript.pieces.clear()

    def _take_error(self, out: bytes, error: bytes) -> None:
        """Pass on what came before the error, and the error too where the stream ends here in any case.

        Not the [DONE] that engines send after it: that is not for the client.
        """
        at = max(out.find(error), 0)
        end = _FRAME_END.search(out, at)
        out = out[: end.end()] if end else out
        if self._transcript is None:
            self._pass(out)
            return
        starts = [found.end() for found in _FRAME_END.finditer(out, 0, at)]
        start = starts[-1] if starts else 0
        self._pass(out[:start])
        self._withheld = out[start:]

    def _own_error(self, error: bytes) -> AttemptLostError:
        failure = AttemptLostError(self._dialect.read_error(200, error), error)
        failure.frame, failure.told = self._withheld, self._transcript is None
        return failure

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
            if self._transcript is not None:
                self._keep(self._transcript, out)
            self._answer.write(out)


def _refuse_bad_start(watcher: StreamWatcher, dialect: Dialect) -> None:
    if watcher.error is not None:
        raise AttemptLostError(dialect.read_error(502, watcher.error), watcher.error)
    if watcher.aborted_empty:
        error = EngineError(503, "the engine is overloaded", "overloaded", overloaded=True, retryable=True)
        raise AttemptLostError(error)


def _whole_frame(held: bytes) -> bool:
    return any(end in held for end in _FRAME_ENDS) or len(held) > _FIRST_FRAME_BYTES


def _broken_by(error: EngineGoneError | StrayedError | GarbledError) -> AttemptLostError:
    if isinstance(error, EngineGoneError):
        return lost(error)
    return unusable(str(error), "strayed" if isinstance(error, StrayedError) else "")
