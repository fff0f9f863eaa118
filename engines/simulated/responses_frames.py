"""Writes answers of OpenAI's Responses API, as both engines do; pure."""

from typing import Any

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

_ITEM_OF_PIECE = {
    "content": "message",
    "reasoning": "reasoning",
    "tool_name": "function_call",
    "tool_arguments": "function_call",
}
_PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc"}

Fields = dict[str, Any]


class ResponsesFrames:
    """`/v1/responses`: numbered events around the items of one response, or the response itself."""

    def __init__(self, terms: Terms, previous_response_id: str | None, instructions: str | None) -> None:
        self.terms = terms
        self._previous = previous_response_id
        self._instructions = instructions
        self._number = 0
        self._item: str | None = None
        self._item_index = -1
        self._text = ""
        self._name = ""

    def opening(self) -> bytes:
        """The response is created and in progress before there is any token."""
        response = self._response("in_progress", [], None)
        return self._event("response.created", response=response) + self._event(
            "response.in_progress", response=response
        )

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        """Deltas, within items that open and close as the kind of text changes."""
        return b"".join([self._piece(piece) for piece in choice.reply.pieces[start:stop]])

    def aborted(self, choice: Choice) -> bytes:  # noqa: ARG002 - the interface
        """Nothing: `closing` says how it ended."""
        return b""

    def closing(self, choices: tuple[Choice, ...]) -> bytes:
        """The last item's end, and the whole response."""
        done = self._close_item()
        record = self.record(choices)
        return done + self._event(f"response.{record['status']}", response=record)

    def whole(self, choices: tuple[Choice, ...]) -> bytes:
        """The unary body."""
        return compact(self.record(choices))

    def record(self, choices: tuple[Choice, ...]) -> Fields:
        """The finished response, as it is stored."""
        choice = choices[0]
        generated = choice.sequence.generated_tokens
        items: list[Fields] = []
        for kind, text in (
            ("reasoning", choice.reply.text("reasoning", generated)),
            ("message", choice.reply.text("content", generated)),
        ):
            if text:
                items.append(self._describe(kind, len(items), text, "", "completed"))
        for call in tool_calls_of(choice, f"call_{self.terms.id[-16:]}"):
            function = call["function"]
            items.append(
                self._describe("function_call", len(items), function["arguments"], function["name"], "completed")
            )
        status = {"length": "incomplete", "abort": "cancelled"}.get(choice.finish_reason, "completed")
        return self._response(status, items, self._usage(choices))

    def _usage(self, choices: tuple[Choice, ...]) -> Fields:
        cached = count_cached_tokens(choices) if self.terms.report_cached_tokens else 0
        prompt_tokens, completion_tokens = count_prompt_tokens(choices), count_completion_tokens(choices)
        return {
            "input_tokens": prompt_tokens,
            "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": completion_tokens,
            "output_tokens_details": {"reasoning_tokens": sum(c.reply.reasoning_tokens for c in choices)},
            "total_tokens": prompt_tokens + completion_tokens,
        }

    def _response(self, status: str, items: list[Fields], usage: Fields | None) -> Fields:
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": self.terms.id,
            "created_at": self.terms.created,
            "incomplete_details": incomplete,
            "instructions": self._instructions,
            "metadata": None,
            "model": self.terms.model,
            "object": "response",
            "output": items,
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "background": False,
            "previous_response_id": self._previous,
            "status": status,
            "usage": usage,
            "user": None,
        }

    def _describe(self, kind: str, index: int, text: str, name: str, status: str) -> Fields:
        item: Fields = {"id": f"{_PREFIXES[kind]}_{self.terms.id[-16:]}{index}", "type": kind, "status": status}
        if kind == "message":
            part: Fields = {"type": "output_text", "text": text, "annotations": [], "logprobs": None}
            return {**item, "role": "assistant", "content": [part] if text else []}
        if kind == "reasoning":
            part = {"type": "reasoning_text", "text": text}
            return {**item, "summary": [], "content": [part] if text else []}
        return {**item, "call_id": f"call_{self.terms.id[-16:]}", "name": name, "arguments": text}

    def _piece(self, piece: Piece) -> bytes:
        kind = _ITEM_OF_PIECE.get(piece.kind)
        if kind is None:
            return b""
        opened = b"" if kind == self._item else self._close_item() + self._open_item(kind, piece)
        if piece.kind == "tool_name":
            return opened
        self._text += piece.text
        if kind == "function_call":
            place = {"item_id": self._item_id(), "output_index": self._item_index}
            return opened + self._event("response.function_call_arguments.delta", **place, delta=piece.text)
        more: Fields = {"logprobs": []} if kind == "message" else {}
        return opened + self._event(f"{self._text_event()}.delta", **self._place(), delta=piece.text, **more)

    def _open_item(self, kind: str, piece: Piece) -> bytes:
        self._item = kind
        self._item_index += 1
        self._text = ""
        self._name = piece.text if piece.kind == "tool_name" else ""
        item = self._describe(kind, self._item_index, "", self._name, "in_progress")
        events = self._event("response.output_item.added", output_index=self._item_index, item=item)
        if kind == "message":
            events += self._event("response.content_part.added", **self._place(), part=self._part())
        return events

    def _close_item(self) -> bytes:
        if self._item is None:
            return b""
        events = b""
        if self._item == "function_call":
            place = {"item_id": self._item_id(), "output_index": self._item_index, "name": self._name}
            events += self._event("response.function_call_arguments.done", **place, arguments=self._text)
        else:
            more: Fields = {"logprobs": []} if self._item == "message" else {}
            events += self._event(f"{self._text_event()}.done", **self._place(), text=self._text, **more)
        if self._item == "message":
            events += self._event("response.content_part.done", **self._place(), part=self._part())
        item = self._describe(self._item, self._item_index, self._text, self._name, "completed")
        events += self._event("response.output_item.done", output_index=self._item_index, item=item)
        self._item = None
        return events

    def _text_event(self) -> str:
        return "response.output_text" if self._item == "message" else "response.reasoning_text"

    def _place(self) -> Fields:
        return {"item_id": self._item_id(), "output_index": self._item_index, "content_index": 0}

    def _part(self) -> Fields:
        return {"type": "output_text", "text": self._text, "annotations": [], "logprobs": []}

    def _item_id(self) -> str:
        return f"{_PREFIXES[self._item or 'message']}_{self.terms.id[-16:]}{self._item_index}"

    def _event(self, name: str, /, **fields: Any) -> bytes:
        frame = named_sse(name, {"type": name, "sequence_number": self._number, **fields})
        self._number += 1
        return frame
