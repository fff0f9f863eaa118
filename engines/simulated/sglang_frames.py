"""Writes SGLang's chat and text completions, as recorded from real engines; pure."""

from engines.simulated.frames import (
    Choice,
    compact,
    count_cached_tokens,
    count_completion_tokens,
    count_prompt_tokens,
    sse,
)
from engines.simulated.openai_frames import Fields, OpenAiFrames, delta_of, tool_calls_of
from engines.simulated.replies import Piece


class _SglangFrames(OpenAiFrames):
    """Usage as SGLang reports it."""

    def _usage(self, choices: tuple[Choice, ...], generated: int | None = None) -> Fields:
        """Details are null without a hit, also when they are switched on."""
        prompt_tokens = count_prompt_tokens(choices)
        completion_tokens = count_completion_tokens(choices) if generated is None else generated
        cached = count_cached_tokens(choices) if self.terms.report_cached_tokens else 0
        reasoning = sum(min(c.reply.reasoning_tokens, c.sequence.generated_tokens) for c in choices)
        return {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached} if cached else None,
            "reasoning_tokens": reasoning,
        }

    def _running_usage(self, choice: Choice, generated: int) -> bytes:
        if not self.terms.continuous_usage:
            return b""
        return b',"usage":' + compact(self._usage((choice,), generated))

    def _usage_frame(self, choices: tuple[Choice, ...]) -> bytes:
        return sse({**self._base(self.chunk_name, []), "usage": self._usage(choices)})


class SglangChatFrames(_SglangFrames):
    """`/v1/chat/completions` of SGLang; the id is the `rid`."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def _first(self, choice: Choice) -> bytes:
        delta = b'"delta":{"reasoning_content":null,"role":"assistant","content":""},'
        return self._head(choice) + delta + self._tail(None) + self._running_usage(choice, 0) + b"}\n\n"

    def _token(self, choice: Choice, piece: Piece, generated: int, *, ends: bool) -> bytes:
        delta = delta_of(piece, f"call_{self.terms.id[-24:]}", "reasoning_content")
        usage = self._running_usage(choice, generated)
        frames = b""
        if delta is not None:
            shown = delta if piece.kind == "reasoning" else {"reasoning_content": None, **delta}
            frames = self._head(choice) + b'"delta":' + compact(shown) + b"," + self._tail(None) + usage + b"}\n\n"
        if ends:
            finish = b'"delta":{"reasoning_content":null},' + self._tail(choice.finish_reason)
            frames += self._head(choice) + finish + usage + b"}\n\n"
        return frames

    def _tail(self, finish: str | None) -> bytes:
        return b'"logprobs":null,"finish_reason":' + compact(finish) + b',"matched_stop":null}]'

    def whole(self, choices: tuple[Choice, ...]) -> bytes:
        """The unary body."""
        body = self._base(self.object_name, [self._message(choice) for choice in choices])
        return compact({**body, "usage": self._usage(choices), "metadata": {"weight_version": "default"}})

    def _message(self, choice: Choice) -> Fields:
        generated = choice.sequence.generated_tokens
        calls = tool_calls_of(choice, f"call_{self.terms.id[-24:]}")
        return {
            "index": choice.index,
            "message": {
                "role": "assistant",
                "content": None if calls else choice.reply.text("content", generated),
                "reasoning_content": choice.reply.text("reasoning", generated) or None,
                "tool_calls": calls or None,
            },
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "matched_stop": None,
        }


class SglangCompletionFrames(_SglangFrames):
    """`/v1/completions` of SGLang."""

    object_name = chunk_name = "text_completion"

    def _token(self, choice: Choice, piece: Piece, generated: int, *, ends: bool) -> bytes:
        usage = self._running_usage(choice, generated) or b',"usage":null'
        frame = self._head(choice) + b'"text":' + compact(piece.text) + self._tail(None) + usage + b"}\n\n"
        if ends:
            frame += self._head(choice) + b'"text":""' + self._tail(choice.finish_reason) + usage + b"}\n\n"
        return frame

    def _tail(self, finish: str | None) -> bytes:
        return b',"logprobs":null,"finish_reason":' + compact(finish) + b',"matched_stop":null}]'

    def whole(self, choices: tuple[Choice, ...]) -> bytes:
        """The unary body."""
        rows = [
            {
                "index": choice.index,
                "text": choice.reply.text("content", choice.sequence.generated_tokens),
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "matched_stop": None,
            }
            for choice in choices
        ]
        body = self._base(self.object_name, rows)
        return compact({**body, "usage": self._usage(choices), "metadata": {"weight_version": "default"}})
