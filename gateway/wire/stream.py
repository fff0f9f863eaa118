"""Watches an engine's event stream as its bytes pass: first token, usage, errors, end; pure.

Frames are read as bytes: a key such as `"usage"` cannot occur within a JSON string, whose quotes are escaped.
Only the few frames that may tell more (the first ones, errors, the one with the usage) are decoded.
"""

import re
from typing import Any, Final

import msgspec

from engines.reports import RequestTiming, Usage
from gateway.wire.reply import decoded, read_timing, read_usage
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
    metrics: msgspec.Raw = msgspec.Raw()
    response: msgspec.Raw = msgspec.Raw()
    message: msgspec.Raw = msgspec.Raw()


_FRAME: Final = msgspec.json.Decoder(_Frame)


class GarbledError(Exception):
    """A frame begins as JSON and is none: the engine has broken. The message is one sentence."""


class StreamWatcher:
    """Reads a copy of an SSE stream as its bytes pass. Raises GarbledError.

    `feed` and `finish` return what the client gets: the same bytes, but with `strip_usage` the usage frame
    that we asked for is taken out. With that or `whole_frames` a frame is held until it is complete, but not one over
    `frame_limit` bytes: of that only the beginning is read, and it is never taken out.
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
        "_whole_frames",
        "aborted_empty",
        "content_frames",
        "done",
        "error",
        "first_token",
        "response_id",
    )

    def __init__(
        self, endpoint: Endpoint, *, strip_usage: bool, whole_frames: bool = False, frame_limit: int = FRAME_LIMIT
    ) -> None:
        self.first_token = False
        """Whether a content frame has passed; errors, comments, usage and an empty abort are none."""
        self.content_frames = 0
        """How many content frames have passed."""
        self.error: bytes | None = None
        """The JSON text of the first error frame, or of `response.failed`."""
        self.done = False
        """Whether the stream has said that it is over."""
        self.aborted_empty = False
        """Whether the engine aborted before any text: an overload without an error frame."""
        self.response_id: str | None = None
        """The id of a Responses object."""
        self._endpoint = endpoint
        self._strip_usage = strip_usage
        self._whole_frames = strip_usage or whole_frames
        self._frame_limit = frame_limit
        self._cutter = FrameCutter(frame_limit)
        self._silent = True  # no text so far, at most a frame with the role
        self._usage = b""  # the data of the last frame that carries usage
        self._start = b""  # Anthropic: the first frame that does; the two make one usage
        # The plain function, since a bound method would tie the watcher to itself in a cycle.
        if endpoint is Endpoint.RESPONSES:
            self._observe = StreamWatcher._observe_responses
        elif endpoint is Endpoint.MESSAGES:
            self._observe = StreamWatcher._observe_messages
        else:
            self._observe = StreamWatcher._observe_choices

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes of the stream; what to pass on to the client now."""
        if (
            self._cutter.between_frames
            and chunk.endswith(b"\n\n")
            and chunk.find(b"\n\n") == len(chunk) - 2
            and b"\r" not in chunk
            and len(chunk) <= self._frame_limit
        ):  # one whole frame, as engines send them
            plain = chunk.startswith(b"data: ") and chunk.find(b"\n") == len(chunk) - 2
            data = chunk[6:] if plain else payload(chunk)
            if not plain or chunk[-3:-2] != b"}":
                _refuse_garbled(chunk, data)
            ours = self._observe(self, data)
            return b"" if ours and self._strip_usage else chunk
        passed = []
        for piece, frame in self._cutter.cut(chunk):
            if frame and piece == frame:
                _refuse_garbled(frame, payload(frame))
            if not self._is_ours(piece, frame) or not self._strip_usage:
                passed.append(piece)
        _refuse_foreign(self._cutter.begun)
        return b"".join(passed) if self._whole_frames else chunk

    def finish(self) -> bytes:
        """The stream has ended; what was still held for the client."""
        piece, frame = self._cutter.rest()
        ours = self._is_ours(piece, frame) and self._strip_usage
        return b"" if ours or not self._whole_frames else piece

    @property
    def usage(self) -> Usage | None:
        """The tokens by the last frame that carries usage; decoded at each call."""
        frame = _read(self._usage)
        if self._endpoint is Endpoint.RESPONSES:
            return read_usage(self._endpoint, _member(frame.response, "usage"))
        usage = decoded(frame.usage)
        if self._endpoint is Endpoint.MESSAGES:
            usage = _merged(_member(_read(self._start).message, "usage"), usage)
        return read_usage(self._endpoint, usage)

    @property
    def timing(self) -> RequestTiming | None:
        """The times beside that usage, where the engine gives them; decoded at each call."""
        return read_timing(decoded(_read(self._usage).metrics)) if b'"metrics"' in self._usage else None

    def _is_ours(self, piece: bytes, frame: bytes) -> bool:
        """Observe a frame, if there is one; whether it is whole and the usage frame."""
        ours = bool(frame) and self._observe(self, payload(frame))
        return ours and piece == frame

    def _observe_choices(self, data: bytes) -> bool:
        """A frame of chat or text completions; whether it is the one that `include_usage` adds."""
        if b'"choices":[{' in data and b'"error"' not in data:  # nearly all are such
            if b'"usage"' in data and _USAGE.search(data):
                self._usage = data
            self._observe_content(data)
            return False
        if self._is_end(data) or self._is_error(data):
            return False
        carries_usage = _USAGE.search(data) is not None
        if carries_usage:
            self._usage = data
        if _NO_CHOICES.search(data):
            return carries_usage and bytes(_read(data).choices).startswith(b"[")
        self._observe_content(data)
        return False

    def _observe_content(self, data: bytes) -> None:
        """A frame with choices; until one has text, whether they were aborted instead."""
        if self._silent:
            choices = decoded(_read(data).choices)
            self._silent = isinstance(choices, list) and not any(map(_has_text, choices))
            self.aborted_empty = self._silent and any(map(_is_aborted, choices))
            if self.aborted_empty:
                return
        self.first_token = True
        self.content_frames += 1

    def _observe_responses(self, data: bytes) -> bool:
        """A frame of a Responses stream."""
        event = _RESPONSES_EVENT.search(data)
        kind = event[1] if event else b""
        if kind.endswith(b".delta") or kind == b"response.output_item.done":
            self.first_token = True
            self.content_frames += 1
            return False
        if kind in _RESPONSES_ENDS:
            self.done = True
            self._usage = data
            if kind == b"response.failed" and self.error is None:
                self.error = data.strip()
        elif not self._is_end(data):
            self._is_error(data)
        if self.response_id is None and b'"response"' in data:
            response_id = _member(_read(data).response, "id")
            self.response_id = response_id if isinstance(response_id, str) else None
        return False

    def _observe_messages(self, data: bytes) -> bool:
        """A frame of an Anthropic stream."""
        event = _MESSAGES_EVENT.search(data)
        kind = event[1] if event else b""
        if kind.startswith(b"content_block"):
            self.first_token = True
            self.content_frames += 1
        elif kind == b"message_start":
            self._start = data
        elif kind == b"message_delta":
            self._usage = data if _USAGE.search(data) else self._usage
        elif kind == b"message_stop":
            self.done = True
        elif not self._is_end(data):
            self._is_error(data)
        return False

    def _is_end(self, data: bytes) -> bool:
        """Whether a frame is `[DONE]`, which is noted, or has no data."""
        data = data.strip()
        if data == b"[DONE]":
            self.done = True
        return data in (b"", b"[DONE]")

    def _is_error(self, data: bytes) -> bool:
        """Whether a frame is an error; the first is noted."""
        if b'"error"' not in data:
            return False
        frame = _read(data)
        marked = b'"error"' in (bytes(frame.type), bytes(frame.object))
        if not marked and bytes(frame.error) in (b"", b"null"):
            return False
        if self.error is None:
            self.error = data.strip()
        return True


def _refuse_foreign(begun: bytes) -> None:
    """Raise GarbledError for what does not begin as a line of an event: data, event, id, retry, a comment, a BOM."""
    first = begun.lstrip(b"\r\n")[:1]
    if first and first not in b"deir:\xef":
        raise GarbledError("the engine sent what is no event of a stream")


def _refuse_garbled(frame: bytes, data: bytes) -> None:
    """The same for a whole frame, whose data must also not begin as an object and end as none."""
    _refuse_foreign(frame)
    if data[:1] == b"{" and not data.rstrip().endswith(b"}"):
        raise GarbledError("the engine sent a frame that is not JSON")


def _read(data: bytes) -> _Frame:
    """The members of a frame; none of what is not a JSON object."""
    try:
        return _FRAME.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _Frame()


def _member(raw: msgspec.Raw, name: str) -> Any:
    value = decoded(raw)
    return value.get(name) if isinstance(value, dict) else None


def _merged(*usages: object) -> dict[str, Any]:
    """Usage in instalments: the last word on each count."""
    return {
        name: count for usage in usages if isinstance(usage, dict) for name, count in usage.items() if count is not None
    }


def _has_text(choice: object) -> bool:
    """Whether a choice carries anything but the role: text, reasoning, calls."""
    if not isinstance(choice, dict):
        return False
    delta = choice.get("delta")
    said = isinstance(delta, dict) and any(value for name, value in delta.items() if name != "role")
    return said or bool(choice.get("text"))


def _is_aborted(choice: object) -> bool:
    return isinstance(choice, dict) and choice.get("finish_reason") == "abort"
