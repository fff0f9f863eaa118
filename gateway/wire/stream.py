"""Watches an engine's event stream as its bytes pass: first token, usage, errors, end; pure.

Frames are read as bytes: a key such as `"usage"` cannot occur within a JSON string, whose quotes are escaped.
Only the few frames that may tell more (the first ones, errors, the one with the usage) are decoded.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from engines.reports import Usage
from gateway.wire.reply import decoded, read_usage
from gateway.wire.request import Endpoint
from gateway.wire.sse import FRAME_LIMIT, FrameCutter, payload

_NO_CHOICES: Final = re.compile(rb'"choices"\s*:\s*(?:\[\s*\]|null)')
_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
_RESPONSES_EVENT: Final = re.compile(rb'"type"\s*:\s*"(response\.[a-z_.]+)"')
_MESSAGES_EVENT: Final = re.compile(
    rb'"type"\s*:\s*"(message_start|message_delta|message_stop|content_block_start|content_block_delta)"'
)
_RESPONSES_ENDS: Final = frozenset({b"response.completed", b"response.failed", b"response.incomplete"})


class _Frame(msgspec.Struct):
    """The members of a frame that can matter, undecoded."""

    type: msgspec.Raw = msgspec.Raw()
    object: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    choices: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()


_FRAME: Final = msgspec.json.Decoder(_Frame)


class StreamWatcher:
    """Reads a copy of an SSE stream as its bytes pass.

    `feed` and `finish` return what the client gets: the same bytes, but with `strip_usage` the usage frame
    that we asked for is taken out, and a frame is held until it is complete. A frame over `frame_limit` bytes
    is never held or stripped.
    """

    __slots__ = (
        "_cutter",
        "_endpoint",
        "_frame_limit",
        "_observe",
        "_silent",
        "_start",
        "_strip_usage",
        "_usage",
        "aborted_empty",
        "content_frames",
        "done",
        "error",
        "first_token",
        "response_id",
    )

    def __init__(self, endpoint: Endpoint, *, strip_usage: bool, frame_limit: int = FRAME_LIMIT) -> None:
        self.first_token = False
        """Whether a frame with content has passed; errors, comments, usage and empty aborts are none."""
        self.content_frames = 0
        """How many of them have."""
        self.error: bytes | None = None
        """The JSON text of the first error frame."""
        self.done = False
        """Whether the stream has said that it is complete (or, of Responses, failed or incomplete)."""
        self.aborted_empty = False
        """Whether the engine aborted before any content: an overload without an error frame."""
        self.response_id: str | None = None
        """The id of a Responses object."""
        self._endpoint = endpoint
        self._strip_usage = strip_usage
        self._frame_limit = frame_limit
        self._cutter = FrameCutter(frame_limit)
        self._observe = _OBSERVERS.get(endpoint, _observe_choices)
        self._silent = True  # no text yet, though there may have been a frame with the role
        self._usage = b""  # the last frame that carries usage
        self._start = b""  # Anthropic's message_start, which carries the first half

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the stream; what to pass on to the client now."""
        if (
            self._cutter.between_frames
            and chunk.endswith(b"\n\n")
            and chunk.find(b"\n\n") == len(chunk) - 2
            and b"\r" not in chunk
            and len(chunk) <= self._frame_limit
        ):  # one whole frame: what engines send
            plain = chunk.startswith(b"data: ") and chunk.find(b"\n") == len(chunk) - 2
            ours = self._observe(self, chunk[6:] if plain else payload(chunk))
            return b"" if ours and self._strip_usage else chunk
        passed = [piece for piece, frame in self._cutter.cut(chunk) if not self._takes_out(piece, frame)]
        return b"".join(passed) if self._strip_usage else chunk

    def finish(self) -> bytes:
        """The stream has ended; what was still held for the client."""
        piece, frame = self._cutter.rest()
        passed = b"" if self._takes_out(piece, frame) else piece
        return passed if self._strip_usage else b""

    @property
    def usage(self) -> Usage | None:
        """The tokens by the last frame that carries usage, decoded at each call."""
        if self._endpoint is Endpoint.RESPONSES:
            usage = _nested(_read(self._usage).response, "usage")
        elif self._endpoint is Endpoint.MESSAGES:
            first = _nested(_read(self._start).message, "usage")
            last = decoded(_read(self._usage).usage)
            usage = {**_known(first), **_known(last)}
        else:
            usage = decoded(_read(self._usage).usage)
        return read_usage(self._endpoint, usage)

    def _takes_out(self, piece: bytes, frame: bytes) -> bool:
        ours = bool(frame) and self._observe(self, payload(frame))
        return ours and len(piece) == len(frame)

    def _count_content(self) -> None:
        self.first_token = True
        self.content_frames += 1

    def _note_error(self, data: bytes) -> bool:
        """Whether the frame is an error; the first is kept."""
        if b'"error"' not in data:
            return False
        frame = _read(data)
        if bytes(frame.error) in (b"", b"null") and b'"error"' not in (bytes(frame.type), bytes(frame.object)):
            return False
        self.error = self.error or data.strip()
        return True


def _observe_choices(watcher: StreamWatcher, data: bytes) -> bool:
    """A frame of a chat or text completion; whether it is the usage frame that `include_usage` makes."""
    if b'"choices":[{' in data and b'"error"' not in data:  # the usual one
        if b'"usage"' in data and _USAGE.search(data):
            watcher._usage = data
        if watcher._silent:
            _listen(watcher, data)
        else:
            watcher.first_token = True
            watcher.content_frames += 1
        return False
    if _ends(watcher, data) or watcher._note_error(data):
        return False
    carries_usage = _USAGE.search(data) is not None
    if carries_usage:
        watcher._usage = data
    if not _NO_CHOICES.search(data):
        _listen(watcher, data)
        return False
    return carries_usage and bytes(_read(data).choices)[:1] == b"["


def _observe_responses(watcher: StreamWatcher, data: bytes) -> bool:
    """A frame of a Responses stream; never ours."""
    event = _RESPONSES_EVENT.search(data)
    kind = event[1] if event else b""
    if kind.endswith(b".delta") or kind == b"response.output_item.done":
        watcher._count_content()
        return False
    if kind in _RESPONSES_ENDS:
        watcher.done = True
        watcher._usage = data
        if kind == b"response.failed":
            watcher.error = watcher.error or data.strip()
    elif not _ends(watcher, data):
        watcher._note_error(data)
    if watcher.response_id is None and b'"response"' in data:
        response_id = _nested(_read(data).response, "id")
        watcher.response_id = response_id if isinstance(response_id, str) else None
    return False


def _observe_messages(watcher: StreamWatcher, data: bytes) -> bool:
    """A frame of an Anthropic stream; never ours."""
    event = _MESSAGES_EVENT.search(data)
    kind = event[1] if event else b""
    if kind.startswith(b"content_block"):
        watcher._count_content()
    elif kind == b"message_start":
        watcher._start = data
    elif kind == b"message_delta":
        watcher._usage = data
    elif kind == b"message_stop":
        watcher.done = True
    elif not _ends(watcher, data):
        watcher._note_error(data)
    return False


_OBSERVERS: Final[Mapping[Endpoint, Callable[[StreamWatcher, bytes], bool]]] = {
    Endpoint.RESPONSES: _observe_responses,
    Endpoint.MESSAGES: _observe_messages,
}


def _ends(watcher: StreamWatcher, data: bytes) -> bool:
    """Whether there is nothing to read in the frame: it has no data, or `[DONE]`."""
    data = data.strip()
    watcher.done = watcher.done or data == b"[DONE]"
    return data in (b"", b"[DONE]")
