"""Turns the frames of the engine that goes on with a stream into the rest of the stream that was begun; pure."""

from typing import Any, Final

import msgspec

from gateway.wire.continuation import Continuation
from gateway.wire.request import Endpoint
from gateway.wire.sse import FrameCutter, payload
from gateway.wire.stream import StreamWatcher
from gateway.wire.transcript import Said

Fields = dict[str, Any]

_LENGTH: Final = "length"


class StrayedError(Exception):
    """The second engine does not go on with what was said; the message is one sentence."""


class Splicer:
    """The frames of chat or text completions get the id, model and time of those before, and no second role.

    Usage is of the whole: the tokens of the prompt alone, and all that were generated, of which `continuation.tokens`
    by the engine before. What was cached is the first engine's word where it gave one, else the second's, of the
    prompt. With `wants_usage` False no usage passes, as the client asked for none.
    """

    def __init__(self, endpoint: Endpoint, said: Said, continuation: Continuation, *, wants_usage: bool) -> None:
        self._key = "text" if endpoint is Endpoint.COMPLETIONS else "content"
        self._is_chat = endpoint is not Endpoint.COMPLETIONS
        self._said = said
        self._expected = continuation.expected
        self._tokens = continuation.tokens
        self._ended = continuation.ended
        self._as_text = continuation.as_text
        self._finished = said.finish_reason is not None
        self._wants_usage = wants_usage
        self._cutter = FrameCutter()

    def splice(self, whole_frames: bytes) -> bytes:
        """The frames as the client gets them. Raises StrayedError."""
        pairs = self._cutter.cut(whole_frames)
        rest, _ = self._cutter.rest()
        return b"".join([*(self._frame(piece) for piece, _ in pairs), rest])

    def _frame(self, piece: bytes) -> bytes:
        data = payload(piece).strip()
        if data in (b"", b"[DONE]"):
            return piece
        try:
            frame = msgspec.json.decode(data)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            raise _odd() from None
        if not isinstance(frame, dict) or frame.get("error"):
            return piece
        choices = frame.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise _odd()
        counts = self._count(frame)
        if choices and not any(self._says(choice) for choice in choices):
            return b""
        if counts and not choices and not self._wants_usage:
            return b""
        return b"data: " + msgspec.json.encode({**frame, **self._said.head}) + b"\n\n"

    def _says(self, choice: Fields) -> bool:
        """Make a choice one of the stream before; whether there is anything in it for the client."""
        if self._finished:
            return False
        if self._as_text:
            choice["delta"] = {"content": choice.pop("text", "")}
        delta = choice.get("delta") if self._is_chat else choice
        if not isinstance(delta, dict) or not isinstance(delta.get(self._key), str | None):
            raise _odd()
        delta.pop("role", None)
        if self._said.text and (delta.get("reasoning") or delta.get("reasoning_content")):
            raise StrayedError("the engine that went on with the stream took its text for thoughts")
        if self._ended:
            delta[self._key], choice["finish_reason"] = "", _LENGTH
        elif self._expected and delta.get(self._key):
            delta[self._key] = self._unsaid(delta[self._key])
        self._finished = choice.get("finish_reason") is not None
        said = any(value for name, value in delta.items() if name == self._key or (self._is_chat and name != "role"))
        return said or self._finished

    def _unsaid(self, text: str) -> str:
        """The text without what the client has already: as much of it as is the same."""
        expected, self._expected = self._expected, ""
        same = next(
            (n for n, (one, other) in enumerate(zip(text, expected, strict=False)) if one != other),
            min(len(text), len(expected)),
        )
        if same == len(text):
            self._expected = expected[same:]
        return text[same:]

    def _count(self, frame: Fields) -> bool:
        """Make usage that of the whole; whether there is any."""
        usage = frame.get("usage")
        if not isinstance(usage, dict):
            return False
        first = self._said.usage or {}
        prompt, completion = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if not isinstance(prompt, int) or not isinstance(completion, int):
            return True
        prompt = first.get("prompt_tokens") or max(prompt - self._tokens, 0)
        completion = self._tokens + (0 if self._ended else completion)
        usage |= {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        details, told = usage.get("prompt_tokens_details"), first.get("prompt_tokens_details")
        if isinstance(told, dict):
            usage["prompt_tokens_details"] = told
        elif isinstance(details, dict) and isinstance(details.get("cached_tokens"), int):
            usage["prompt_tokens_details"] = {**details, "cached_tokens": min(details["cached_tokens"], prompt)}
        return True


def _odd() -> StrayedError:
    return StrayedError("the engine that went on with the stream sent a frame that cannot be read")


class SplicedWatcher(StreamWatcher):
    """Watches the second engine's stream, and passes it on spliced."""

    __slots__ = ("_splicer",)

    def __init__(self, endpoint: Endpoint, splicer: Splicer) -> None:
        super().__init__(endpoint, strip_usage=False, whole_frames=True)
        self._splicer = splicer

    def feed(self, chunk: bytes) -> bytes:
        """Take the next bytes. Raises StrayedError."""
        return self._splicer.splice(super().feed(chunk))

    def finish(self) -> bytes:
        """What was still held. Raises StrayedError."""
        return self._splicer.splice(super().finish())
