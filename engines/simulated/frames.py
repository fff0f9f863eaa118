"""What every API's frames are made of: the choices of a request, its terms, and the shape of a writer; pure."""

from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from engines.simulated.replies import Reply
from engines.simulated.sequences import Sequence

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Terms:
    """What is fixed when an answer begins. `created` is seconds since the epoch."""

    id: str
    model: str
    created: int
    version: str
    include_usage: bool = False
    continuous_usage: bool = False
    report_cached_tokens: bool = True
    per_request_metrics: bool = False
    block_tokens: int = 256


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer: what will be said, and how far its sequence has come. `sample` 0 is the first of its prompt."""

    index: int
    sample: int
    reply: Reply
    sequence: Sequence

    @property
    def finish_reason(self) -> str:
        """In OpenAI's words, once the sequence has ended."""
        finish = self.sequence.finish or "stop"
        return "tool_calls" if self.reply.calls_tool and finish == "stop" else finish


class FrameWriter(Protocol):
    """Writes the answer of one request in one API and dialect."""

    def opening(self) -> bytes:
        """Frames sent when the request is accepted, before any token."""

    def tokens(self, choice: Choice, start: int, stop: int) -> bytes:
        """Frames of the tokens from `start` to before `stop` (counts from 0) of one choice."""

    def aborted(self, choice: Choice) -> bytes:
        """Frames that end a choice which was aborted by the engine."""

    def closing(self, choices: tuple[Choice, ...]) -> bytes:
        """Frames after the last token of all choices."""

    def whole(self, choices: tuple[Choice, ...]) -> bytes:
        """The body of an answer that is not streamed."""


def compact(value: Any) -> bytes:
    """JSON without blanks, keys in the order given."""
    return msgspec.json.encode(value)


def sse(value: Any) -> bytes:
    """One frame of an event stream."""
    return b"data: " + compact(value) + b"\n\n"


def named_sse(event: str, value: Any) -> bytes:
    """One frame with an event name."""
    return f"event: {event}\n".encode() + sse(value)


def count_prompt_tokens(choices: tuple[Choice, ...]) -> int:
    """Prompt tokens of a request, each prompt once."""
    return sum(choice.sequence.prompt_tokens for choice in choices if choice.sample == 0)


def count_completion_tokens(choices: tuple[Choice, ...]) -> int:
    """Tokens generated so far."""
    return sum(choice.sequence.generated_tokens for choice in choices)


def count_cached_tokens(choices: tuple[Choice, ...]) -> int:
    """Cached prompt tokens of a request, each prompt once."""
    return sum(choice.sequence.cached_tokens for choice in choices if choice.sample == 0)
