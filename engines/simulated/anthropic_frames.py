"""Writes answers of the Anthropic Messages API, as both engines translate them from chat; pure."""

from typing import Any

import msgspec

from engines.simulated.frames import (
    Choice,
    Terms,
    compact,
    count_cached_tokens,
    count_completion_tokens,
    count_prompt_tokens,
    named_sse,
)
from engines.simulated.openai_frames import tool_calls_of
from engines.simulated.replies import Piece

_STOP_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "abort": "end_turn"}
_BLOCK_OF_PIECE = {"content": "text", "reasoning": "thinking", "tool_name": "tool_use", "tool_arguments": "tool_use"}


class AnthropicFrames:
    """`/v1/messages`: a stream of named events, or one message."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self._open_block: str | None = None
        self._block_index = 0

    def opening(self) -> bytes:
        """Nothing: the message begins with its first token."""
        return b""

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        """Deltas, within blocks that open and close as the kind of text changes."""
        parts = [self._message_start(choice)] if start == 0 and stop else []
        parts += [self._piece(piece) for piece in choice.reply.pieces[start:stop]]
        return b"".join(parts)

    def aborted(self, choice: Choice) -> bytes:  # noqa: ARG002 - the interface
        """Nothing: `closing` says how it ended."""
        return b""

    def closing(self, choices: tuple[Choice, ...]) -> bytes:
        """The last block's end, the stop reason with the usage, and the message's end."""
        delta = {"stop_reason": _STOP_REASONS[choices[0].finish_reason], "stop_sequence": None}
        message_delta = {"type": "message_delta", "delta": delta, "usage": self._usage(choices)}
        stop = named_sse("message_stop", {"type": "message_stop"})
        return self._close_block() + named_sse("message_delta", message_delta) + stop

    def whole(self, choices: tuple[Choice, ...]) -> bytes:
        """The unary body."""
        choice = choices[0]
        generated = choice.sequence.generated_tokens
        content: list[dict[str, Any]] = []
        if reasoning := choice.reply.text("reasoning", generated):
            content.append({"type": "thinking", "thinking": reasoning, "signature": "simulated"})
        if text := choice.reply.text("content", generated):
            content.append({"type": "text", "text": text})
        for call in tool_calls_of(choice, f"toolu_{self.terms.id[-24:]}"):
            arguments = call["function"]["arguments"]
            block = {"type": "tool_use", "id": call["id"], "name": call["function"]["name"]}
            content.append({**block, "input": _read_arguments(arguments)})
        message = self._message(content, _STOP_REASONS[choice.finish_reason])
        return compact({**message, "usage": self._usage(choices)})

    def _message(self, content: list[dict[str, Any]], stop_reason: str | None) -> dict[str, Any]:
        return {
            "id": self.terms.id,
            "type": "message",
            "role": "assistant",
            "content": content,
            "model": self.terms.model,
            "stop_reason": stop_reason,
            "stop_sequence": None,
        }

    def _usage(self, choices: tuple[Choice, ...]) -> dict[str, int]:
        usage = {
            "input_tokens": count_prompt_tokens(choices),
            "output_tokens": count_completion_tokens(choices),
        }
        if self.terms.report_cached_tokens:
            usage["cache_read_input_tokens"] = count_cached_tokens(choices)
        return usage

    def _message_start(self, choice: Choice) -> bytes:
        message = self._message([], None)
        usage = {**self._usage((choice,)), "output_tokens": 0}
        return named_sse("message_start", {"type": "message_start", "message": {**message, "usage": usage}})

    def _piece(self, piece: Piece) -> bytes:
        kind = _BLOCK_OF_PIECE.get(piece.kind)
        if kind is None:
            return b""
        opened = b"" if kind == self._open_block else self._close_block() + self._start_block(kind, piece)
        if piece.kind == "tool_name":
            return opened
        delta = {
            "text": {"type": "text_delta", "text": piece.text},
            "thinking": {"type": "thinking_delta", "thinking": piece.text},
            "tool_use": {"type": "input_json_delta", "partial_json": piece.text},
        }[kind]
        event = {"type": "content_block_delta", "index": self._block_index, "delta": delta}
        return opened + named_sse("content_block_delta", event)

    def _start_block(self, kind: str, piece: Piece) -> bytes:
        self._open_block = kind
        blocks: dict[str, dict[str, Any]] = {
            "text": {"type": "text", "text": ""},
            "thinking": {"type": "thinking", "thinking": "", "signature": ""},
            "tool_use": {"type": "tool_use", "id": f"toolu_{self.terms.id[-24:]}", "name": piece.text, "input": {}},
        }
        event = {"type": "content_block_start", "index": self._block_index, "content_block": blocks[kind]}
        return named_sse("content_block_start", event)

    def _close_block(self) -> bytes:
        if self._open_block is None:
            return b""
        self._open_block = None
        event = {"type": "content_block_stop", "index": self._block_index}
        self._block_index += 1
        return named_sse("content_block_stop", event)


def _read_arguments(arguments: str) -> Any:
    try:
        return msgspec.json.decode(arguments)
    except msgspec.DecodeError:  # cut off by max_tokens
        return {}
