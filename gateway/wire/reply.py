"""What an engine's reply says of its tokens, in the words of each API; pure.

Cached tokens are part of `prompt_tokens` everywhere but in Anthropic's API: there `input_tokens` leaves out
what was read from the cache or written to it, and the prompt is the sum of the three. vLLM and SGLang follow
that; before they did, they gave the whole prompt as `input_tokens`, vLLM without any cache fields, SGLang with
`cache_read_input_tokens` beside it: such an SGLang's hits are counted twice, in prompt tokens only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from engines.reports import Usage
from gateway.wire.request import Endpoint, token_count


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply: `usage` where the engine gave it, `response_id` of a Responses object."""

    usage: Usage | None = None
    response_id: str | None = None


class _Body(msgspec.Struct):
    id: msgspec.Raw = msgspec.Raw()
    usage: msgspec.Raw = msgspec.Raw()


_BODY: Final = msgspec.json.Decoder(_Body)


def read_reply(endpoint: Endpoint, body: bytes) -> Reply | None:
    """Read the body of a reply that is not a stream; None when it is not a JSON object."""
    try:
        read = _BODY.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    response_id = decoded(read.id) if endpoint is Endpoint.RESPONSES else None
    return Reply(
        usage=read_usage(endpoint, decoded(read.usage)),
        response_id=response_id if isinstance(response_id, str) else None,
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


def decoded(raw: msgspec.Raw) -> Any:
    """A raw JSON value; None for one that is absent or cannot be read."""
    try:
        return msgspec.json.decode(raw) if raw else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


def _usage(prompt: int | None, completion: object, cached: int | None) -> Usage | None:
    if prompt is None:
        return None
    believable = cached is not None and cached <= prompt
    return Usage(prompt, token_count(completion) or 0, cached if believable else None)


def _cached(details: object) -> int | None:
    return token_count(details.get("cached_tokens")) if isinstance(details, Mapping) else None
