"""What an engine's reply says of its tokens, in the words of each API, and of its times; pure.

Cached tokens are part of `prompt_tokens` everywhere but in Anthropic's API: there `input_tokens` leaves out
what was read from the cache or written to it, and the prompt is the sum of the three. vLLM and SGLang follow
that; before they did, they gave the whole prompt as `input_tokens`, vLLM without any cache fields, SGLang with
`cache_read_input_tokens` beside it: such an SGLang's hits are counted twice, in prompt tokens only.

Times are vLLM's `metrics` (with `--enable-per-request-metrics`), beside the usage of chat and text completions:
`time_to_first_token_ms` is counted from when the request was scheduled, `queue_time_ms` is its wait until then.
"""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from engines.reports import RequestTiming, Usage
from gateway.wire.request import Endpoint, token_count


class Reply(msgspec.Struct, frozen=True):
    """A whole reply: `usage` and `timing` where the engine gave them, `response_id` of a Responses object."""

    usage: Usage | None = None
    response_id: str | None = None
    timing: RequestTiming | None = None


class _Body(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw()
    usage: Any = None
    metrics: Any = None


class _RawBody(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()
    metrics: msgspec.Raw = msgspec.Raw()


_LONGEST_MS: Final = 1e9

_BODY: Final = msgspec.json.Decoder(_Body)
_RAW_BODY: Final = msgspec.json.Decoder(_RawBody)


def read_reply(endpoint: Endpoint, body: bytes) -> Reply | None:
    """Read the body of a reply that is not a stream; None when it is not a JSON object."""
    try:
        read = _BODY.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _read_odd_reply(endpoint, body)
    return _reply(endpoint, read.id, read.usage, read.metrics)


def _read_odd_reply(endpoint: Endpoint, body: bytes) -> Reply | None:
    """One of whose members may be such as no number can hold: what can be read is."""
    try:
        read = _RAW_BODY.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return _reply(endpoint, read.id, decoded(read.usage), decoded(read.metrics))


def _reply(endpoint: Endpoint, name: msgspec.Raw, usage: object, metrics: object) -> Reply:
    response_id = decoded(name) if endpoint is Endpoint.RESPONSES else None
    return Reply(
        read_usage(endpoint, usage),
        response_id if isinstance(response_id, str) else None,
        None if metrics is None else read_timing(metrics),
    )


def read_usage(endpoint: Endpoint, usage: object) -> Usage | None:
    """A `usage` object, already decoded; None when it does not tell the prompt's tokens."""
    if not isinstance(usage, Mapping):
        return None
    if endpoint is Endpoint.MESSAGES:
        read, written = (
            token_count(usage.get("cache_read_input_tokens")),
            token_count(usage.get("cache_creation_input_tokens")),
        )
        uncached = token_count(usage.get("input_tokens"))
        prompt = None if uncached is None else uncached + (read or 0) + (written or 0)
        return _usage(prompt, usage.get("output_tokens"), read)
    if endpoint is Endpoint.RESPONSES:
        cached = _cached(usage.get("input_tokens_details"))
        return _usage(token_count(usage.get("input_tokens")), usage.get("output_tokens"), cached)
    cached = _cached(usage.get("prompt_tokens_details"))
    return _usage(token_count(usage.get("prompt_tokens")), usage.get("completion_tokens"), cached)


def read_timing(metrics: object) -> RequestTiming | None:
    """A `metrics` object, already decoded; None when it does not tell the time of the prefill."""
    if not isinstance(metrics, Mapping):
        return None
    prefill_ms = _duration_ms(metrics.get("time_to_first_token_ms"))
    return None if prefill_ms is None else RequestTiming(prefill_ms, _duration_ms(metrics.get("queue_time_ms")))


def decoded(raw: msgspec.Raw) -> Any:
    """A raw JSON value; None for one that is absent or cannot be read."""
    try:
        return msgspec.json.decode(raw) if raw else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _duration_ms(value: object) -> float | None:
    """A duration of believable length; NaN is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= _LONGEST_MS else None


def _usage(prompt: int | None, completion: object, cached: int | None) -> Usage | None:
    if prompt is None:
        return None
    believable = cached is not None and cached <= prompt
    return Usage(prompt, token_count(completion) or 0, cached if believable else None)


def _cached(details: object) -> int | None:
    return token_count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
