"""A request turned into one that only prefills its prompt: the same prompt, one token of answer, no stream; pure."""

from typing import Any, Final

import msgspec

from gateway.wire.request import Endpoint

_LIMITS: Final = {
    Endpoint.CHAT: "max_tokens",
    Endpoint.COMPLETIONS: "max_tokens",
    Endpoint.MESSAGES: "max_tokens",
    Endpoint.RESPONSES: "max_output_tokens",
}
_LEFT_OUT: Final = (
    *("max_completion_tokens", "min_tokens", "stream_options", "n", "best_of", "use_beam_search"),
    *("logprobs", "top_logprobs", "prompt_logprobs", "echo", "response_format", "store", "background"),
    *("rid", "request_id"),
)
"""What asks for more of an answer, or names the request: no part of the prompt."""


def prefill_only(endpoint: Endpoint, body: bytes) -> bytes | None:
    """The body to send; None where the prompt is not all in it, or the endpoint has none."""
    limit = _LIMITS.get(endpoint)
    if limit is None:
        return None
    try:
        members: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if not isinstance(members, dict) or members.get("previous_response_id") is not None:
        return None
    for name in _LEFT_OUT:
        members.pop(name, None)
    if endpoint is Endpoint.RESPONSES:
        members["store"] = False
    return msgspec.json.encode({**members, limit: 1, "stream": False})
