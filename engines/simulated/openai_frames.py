"""What chat and text completions have in common in both dialects; pure."""

from typing import Any, ClassVar

from engines.simulated.frames import (
    DONE,
    Choice,
    Terms,
    sse,
)
from engines.simulated.replies import Piece

Fields = dict[str, Any]


class OpenAiFrames:
    """Common to both dialects and APIs: a frame is a fixed head, the token's own part, and a fixed tail."""

    object_name: ClassVar[str]
    chunk_name: ClassVar[str]

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._heads: dict[int, bytes] = {}

    def opening(self) -> bytes:
        """Nothing: the first frame comes with the first token."""
        return b""

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        """A frame a token, and what the dialect sends before the first and after the last."""
        parts = [self._first(choice)] if start == 0 and stop else []
        last = choice.sequence.generated_tokens if choice.sequence.finish in ("stop", "length") else -1
        pieces = choice.reply.pieces
        parts += [self._token(choice, pieces[n - 1], n, ends=n == last) for n in range(start + 1, stop + 1)]
        return b"".join(parts)

    def aborted(self, choice: Choice) -> bytes:
        """A last frame without text, whose finish reason is `abort`."""
        return self._token(choice, Piece("silent", ""), choice.sequence.generated_tokens, ends=True)

    def closing(self, choices: tuple[Choice, ...]) -> bytes:
        """The usage frame when it was asked for, and the end mark."""
        return (self._usage_frame(choices) if self.terms.include_usage else b"") + DONE

    def _first(self, choice: Choice) -> bytes:  # noqa: ARG002 - text completions begin with their first token
        return b""

    def _token(self, choice: Choice, piece: Piece, generated: int, *, ends: bool) -> bytes:
        raise NotImplementedError

    def _usage_frame(self, choices: tuple[Choice, ...]) -> bytes:
        raise NotImplementedError

    def _base(self, object_name: str, choices: list[Fields]) -> Fields:
        terms = self.terms
        return {
            "id": terms.id,
            "object": object_name,
            "created": terms.created,
            "model": terms.model,
            "choices": choices,
        }

    def _head(self, choice: Choice) -> bytes:
        """Everything before what differs from token to token: up to the choice's index."""
        head = self._heads.get(choice.index)
        if head is None:
            whole = sse(self._base(self.chunk_name, [{"index": choice.index}]))
            head = self._heads[choice.index] = whole.removesuffix(b"}]}\n\n") + b","
        return head

    def _running_usage(self, choice: Choice, generated: int) -> bytes:
        """`,"usage":{…}` of a frame in the middle, when the request wants it."""
        raise NotImplementedError


def delta_of(piece: Piece, call_id: str, reasoning_key: str) -> Fields | None:
    """The delta that shows a piece in a chat stream; None for one that shows nothing."""
    if piece.kind == "content":
        return {"content": piece.text}
    if piece.kind == "reasoning":
        return {reasoning_key: piece.text}
    if piece.kind == "tool_name":
        function = {"name": piece.text, "arguments": ""}
        return {"tool_calls": [{"id": call_id, "type": "function", "index": 0, "function": function}]}
    if piece.kind == "tool_arguments":
        return {"tool_calls": [{"index": 0, "function": {"arguments": piece.text}}]}
    return None


def tool_calls_of(choice: Choice, call_id: str) -> list[Fields]:
    """The finished tool calls of a choice."""
    name = choice.reply.text("tool_name", choice.sequence.generated_tokens)
    if not name:
        return []
    arguments = choice.reply.text("tool_arguments", choice.sequence.generated_tokens)
    return [{"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}]
