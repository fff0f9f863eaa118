"""What a client was sent of a stream, kept as bytes and read only when the stream has to go on elsewhere; pure."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from gateway.wire.request import Endpoint
from gateway.wire.sse import FrameCutter, payload

TRANSCRIPT_BYTES: Final = 1024 * 1024
"""Of one stream; one that has sent more cannot go on elsewhere."""

Fields = dict[str, Any]


class Transcript:
    """The pieces that went to the client. The relay appends them itself: it does so for every piece of every stream."""

    __slots__ = ("pieces", "room")

    def __init__(self, limit_bytes: int = TRANSCRIPT_BYTES) -> None:
        self.pieces: list[bytes] = []
        self.room = limit_bytes

    @property
    def whole(self) -> bool:
        """Whether all that was sent is kept."""
        return self.room >= 0


@dataclass(slots=True)
class Said:
    """What a stream has said so far.

    `head` are the members that all its frames share. `frames` are the lengths of `text` after each frame that added
    to it, which is about one a token; `thoughts` counts those of `reasoning`. `usage` is the engine's running count,
    where the client asked for that.
    """

    head: Fields = field(default_factory=dict)
    text: str = ""
    reasoning: str = ""
    frames: list[int] = field(default_factory=list)
    thoughts: int = 0
    usage: Fields | None = None
    finish_reason: str | None = None
    calls_tool: bool = False
    usage_sent: bool = False
    """Whether the frame with the final usage has passed."""
    odd: bool = False
    """Whether there was something that is not understood."""

    def tokens_of(self, text: str) -> int:
        """How many tokens a beginning of the text is, counted by frames."""
        return sum(length <= len(text) for length in self.frames)


_HEAD: Final = ("id", "object", "created", "model")


def read_said(endpoint: Endpoint, pieces: list[bytes]) -> Said:
    """Read the frames of chat or text completions."""
    said = Said()
    for frame in _frames(pieces):
        if not said.head:
            said.head = {name: frame[name] for name in _HEAD if name in frame}
        choices, usage = frame.get("choices"), frame.get("usage")
        if isinstance(usage, dict):
            said.usage = usage
            said.usage_sent |= choices == []
        if not isinstance(choices, list) or len(choices) > 1 or not all(isinstance(one, dict) for one in choices):
            said.odd = True
            break
        for choice in choices:
            _read_choice(said, endpoint, choice)
    return said


def _read_choice(said: Said, endpoint: Endpoint, choice: Fields) -> None:
    delta = choice if endpoint is Endpoint.COMPLETIONS else choice.get("delta")
    if not isinstance(delta, dict):
        said.odd = True
        return
    text = delta.get("text" if endpoint is Endpoint.COMPLETIONS else "content")
    reasoning = delta.get("reasoning") or delta.get("reasoning_content")
    if isinstance(text, str) and text:
        said.text += text
        said.frames.append(len(said.text))
    if isinstance(reasoning, str):
        said.reasoning += reasoning
        said.thoughts += 1
    said.calls_tool |= bool(delta.get("tool_calls") or delta.get("function_call"))
    said.finish_reason = choice.get("finish_reason") or said.finish_reason


def _frames(pieces: list[bytes]) -> Iterator[Fields]:
    for _, frame in FrameCutter().cut(b"".join(pieces)):
        data = payload(frame).strip()
        if data in (b"", b"[DONE]"):
            continue
        try:
            read = msgspec.json.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            read = None
        yield read if isinstance(read, dict) else {"choices": None}
