"""Writes vLLM's chat and text completions, as recorded from real engines; pure."""

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


class _VllmFrames(OpenAiFrames):
    """Usage and timing as vLLM reports them."""

    def _usage(self, choices: tuple[Choice, ...], *, whole: bool) -> Fields:
        """`created_cache_tokens` are those of the prompts' full blocks that were not cached before."""
        prompt_tokens, completion_tokens = count_prompt_tokens(choices), count_completion_tokens(choices)
        usage: Fields = {
            "prompt_tokens": prompt_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
            "completion_tokens": completion_tokens,
        }
        if self.terms.report_cached_tokens:
            block = self.terms.block_tokens
            full = sum(c.sequence.prompt_tokens // block * block for c in choices if c.sample == 0)
            cached = count_cached_tokens(choices)
            details = {"cached_tokens": cached, "created_cache_tokens": full - cached}
            usage["prompt_tokens_details"] = {**details, "multimodal_tokens": None} if whole else details
        elif whole:
            usage["prompt_tokens_details"] = None
        if whole:
            usage["completion_tokens_details"] = None
        return usage

    def _fingerprint(self) -> str:
        return f"vllm-{self.terms.version}-51f0a1e5"

    def _metrics(self, choices: tuple[Choice, ...]) -> Fields | None:
        """Times of a single choice in milliseconds; prefill is counted from when it was scheduled."""
        if not self.terms.per_request_metrics or len(choices) != 1:
            return None
        sequence = choices[0].sequence
        first, last, scheduled = sequence.first_token_at, sequence.last_token_at, sequence.scheduled_at
        if first is None or last is None or scheduled is None:
            return None
        decoding_s, further = last - first, sequence.generated_tokens - 1
        return {
            "time_to_first_token_ms": (first - scheduled) * 1000,
            "generation_time_ms": decoding_s * 1000,
            "queue_time_ms": max(0.0, scheduled - sequence.submitted_at) * 1000,
            "mean_itl_ms": decoding_s * 1000 / further if further else None,
            "tokens_per_second": sequence.generated_tokens / max(last - scheduled, 1e-9),
        }

    def _running_usage(self, choice: Choice, generated: int) -> bytes:
        # Only together with include_usage, and never with details.
        if not (self.terms.continuous_usage and self.terms.include_usage):
            return b""
        prompt_tokens = choice.sequence.prompt_tokens
        usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens + generated}
        return b',"usage":' + compact({**usage, "completion_tokens": generated})


class VllmChatFrames(_VllmFrames):
    """`/v1/chat/completions` of vLLM; ids are `chatcmpl-…`."""

    object_name = "chat.completion"
    chunk_name = "chat.completion.chunk"

    def _first(self, choice: Choice) -> bytes:
        delta = b'"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]'
        extras = b',"prompt_token_ids":null,"prompt_text":null}\n\n'
        return self._head(choice) + delta + self._running_usage(choice, 0) + extras

    def _token(self, choice: Choice, piece: Piece, generated: int, *, ends: bool) -> bytes:
        delta = delta_of(piece, f"chatcmpl-tool-{self.terms.id[-16:]}", "reasoning")
        if delta is None and not ends:
            return b""
        if ends:
            finish = f'"logprobs":null,"finish_reason":"{choice.finish_reason}","stop_reason":null,"token_ids":null}}]'
            tail = finish.encode()
        else:
            tail = b'"logprobs":null,"finish_reason":null,"token_ids":null}]'
        usage = self._running_usage(choice, generated)
        body = b'"delta":' + compact(delta or {"content": ""}) + b","
        return self._head(choice) + body + tail + usage + b"}\n\n"

    def _usage_frame(self, choices: tuple[Choice, ...]) -> bytes:
        frame = self._base(self.chunk_name, [])
        frame |= {"usage": self._usage(choices, whole=False), "system_fingerprint": self._fingerprint()}
        metrics = self._metrics(choices)
        return sse({**frame, "metrics": metrics} if metrics else frame)

    def whole(self, choices: tuple[Choice, ...]) -> bytes:
        """The unary body."""
        body = self._base(self.object_name, [self._message(choice) for choice in choices])
        body |= {"service_tier": None, "system_fingerprint": self._fingerprint()}
        body |= {"usage": self._usage(choices, whole=True), "prompt_logprobs": None, "prompt_token_ids": None}
        body |= {"prompt_text": None, "kv_transfer_params": None, "ec_transfer_params": None}
        return compact({**body, "metrics": self._metrics(choices)})

    def _message(self, choice: Choice) -> Fields:
        generated = choice.sequence.generated_tokens
        calls = tool_calls_of(choice, f"chatcmpl-tool-{self.terms.id[-16:]}")
        message: Fields = {
            "role": "assistant",
            "content": None if calls else choice.reply.text("content", generated),
            "refusal": None,
            "annotations": None,
            "audio": None,
            "function_call": None,
            "reasoning": choice.reply.text("reasoning", generated) or None,
        }
        return {
            "index": choice.index,
            "message": {**message, "tool_calls": calls} if calls else message,
            "logprobs": None,
            "finish_reason": choice.finish_reason,
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }


class VllmCompletionFrames(_VllmFrames):
    """`/v1/completions` of vLLM; ids are `cmpl-…`."""

    object_name = chunk_name = "text_completion"

    def _token(self, choice: Choice, piece: Piece, generated: int, *, ends: bool) -> bytes:
        finish = f'"{choice.finish_reason}"' if ends else "null"
        text = b'"text":' + compact(piece.text)
        tail = (
            f',"logprobs":null,"finish_reason":{finish},"stop_reason":null,"prompt_token_ids":null,"token_ids":null}}]'
        )
        usage = self._running_usage(choice, generated) or b',"usage":null'
        return self._head(choice) + text + tail.encode() + usage + b"}\n\n"

    def _usage_frame(self, choices: tuple[Choice, ...]) -> bytes:
        frame = self._base(self.chunk_name, [])
        metrics = self._metrics(choices)
        frame["usage"] = self._usage(choices, whole=False)
        return sse({**frame, "metrics": metrics} if metrics else frame)

    def whole(self, choices: tuple[Choice, ...]) -> bytes:
        """The unary body."""
        rows = [
            {
                "index": choice.index,
                "text": choice.reply.text("content", choice.sequence.generated_tokens),
                "logprobs": None,
                "finish_reason": choice.finish_reason,
                "stop_reason": None,
                "token_ids": None,
                "prompt_logprobs": None,
                "prompt_token_ids": None,
            }
            for choice in choices
        ]
        body = self._base(self.object_name, rows)
        body |= {"service_tier": None, "system_fingerprint": self._fingerprint()}
        body |= {"usage": self._usage(choices, whole=True), "kv_transfer_params": None}
        return compact({**body, "metrics": self._metrics(choices)})
