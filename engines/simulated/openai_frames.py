"""Writes chat and text completions in each dialect's own words, as recorded from real engines; pure."""

from typing import Any, ClassVar

from engines.simulated.frames import (
    DONE,
    Choice,
    Terms,
    compact,
    count_cached_tokens,
    count_completion_tokens,
    count_prompt_tokens,
    sse,
)
from engines.simulated.replies import Piece

Fields = dict[str, Any]


class _OpenAiFrames:
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


class _VllmFrames(_OpenAiFrames):
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


class _SglangFrames(_OpenAiFrames):
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
