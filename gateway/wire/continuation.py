"""The request that lets another engine go on where one broke off, or why there is none; pure."""

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Raw

from engines.dialect import Continued
from gateway.wire.request import Endpoint
from gateway.wire.sampling import Obstacle
from gateway.wire.transcript import Said

ChatContinuation = Callable[[str, str], Continued | None]
"""A dialect's, from the content and the reasoning so far."""

_LIMITS: Final = ("max_tokens", "max_completion_tokens")
_BODY: Final = msgspec.json.Decoder(dict[str, Raw])


class Continuation(NamedTuple):
    """The body for the second engine, which will say `expected` first if all is as before.

    `tokens` of the answer are in that body. `ended`: nothing of the text is missing, only how many tokens it had;
    the body then asks for one token, as there is no asking for none. `as_text`: it is of text completions although
    the stream was of a chat.
    """

    body: bytes
    expected: str
    tokens: int
    ended: bool = False
    as_text: bool = False


def begun_text(endpoint: Endpoint, said: Said) -> str:
    """What the second engine is given: of a message not the blanks at its end, which templates strip."""
    return said.text if endpoint is Endpoint.COMPLETIONS else said.text.rstrip()


def answer_in(endpoint: Endpoint, body: bytes, text: str) -> str:
    """The part of the text that the model said: all but a prompt that was echoed."""
    given = _BODY.decode(body)
    if endpoint is not Endpoint.COMPLETIONS or not _flag(given.get("echo")):
        return text
    return text.removeprefix(msgspec.json.decode(given["prompt"]))


def obstacle_in(said: Said, stops: list[str]) -> Obstacle | None:
    """Why what was said cannot be gone on with, whatever the request."""
    if said.odd or not said.head:
        return Obstacle.UNREADABLE
    if said.calls_tool:
        return Obstacle.TOOL_CALL
    if said.reasoning and not said.text.strip():
        return Obstacle.REASONING
    if said.finish_reason is None and any(_ends_with_part(said.text, stop) for stop in stops):
        return Obstacle.STOP
    return None


def stops_of(body: bytes) -> list[str]:
    """The request's stop strings."""
    raw = _BODY.decode(body).get("stop")
    stop = None if raw is None else msgspec.json.decode(raw)
    stops = stop if isinstance(stop, list) else [stop]
    return [one for one in stops if isinstance(one, str)]


def continuation(
    endpoint: Endpoint, body: bytes, said: Said, tokens: int, continue_chat: ChatContinuation
) -> Continuation | Obstacle:
    """The request of `body`, to be gone on with after `said`, of which `tokens` are begun."""
    given = _BODY.decode(body)
    text = begun_text(endpoint, said)
    left = [limit - tokens for name in _LIMITS if (limit := _count(given.get(name))) is not None]
    ended = said.finish_reason is not None or any(count <= 0 for count in left)
    changes: dict[str, Any] = {}
    if text:
        begins = _begin(endpoint, given, text, said.reasoning, continue_chat)
        if isinstance(begins, Obstacle):
            return begins
        changes |= begins
    for name in (*_LIMITS, "min_tokens"):
        count = _count(given.get(name))
        if count is not None:
            changes[name] = max(count - tokens, 0 if name == "min_tokens" else 1)
    if ended:
        changes |= dict.fromkeys([name for name in _LIMITS if name in changes] or ["max_tokens"], 1)
        changes["min_tokens"] = 0
    return Continuation(_encoded(given, changes), said.text[len(text) :], tokens, ended)


def _begin(
    endpoint: Endpoint, given: dict[str, Raw], text: str, reasoning: str, continue_chat: ChatContinuation
) -> dict[str, Any] | Obstacle:
    """The fields that make an engine go on with `text`."""
    if endpoint is Endpoint.COMPLETIONS:
        prompt = msgspec.json.decode(given["prompt"])
        if _flag(given.get("echo")):
            return {"prompt": text, "echo": False} if text.startswith(prompt) else Obstacle.UNREADABLE
        return {"prompt": prompt + text}
    messages = msgspec.json.decode(given["messages"], type=list[Raw])
    if _flag(given.get("continue_final_message")):
        text = msgspec.json.decode(messages.pop(), type=_Content).content + text
    continued = continue_chat(text, reasoning)
    if continued is None:
        return Obstacle.REASONING
    message, flags = continued
    return {"messages": [*messages, message], **flags}


def as_text(made: Continuation, ids: list[int], room: int | None) -> Continuation | Obstacle:
    """The continuation of a chat as a text completion of its prompt's token ids; `room` is what the context leaves."""
    given = _BODY.decode(made.body)
    limits = [limit for name in reversed(_LIMITS) if (limit := _count(given.get(name))) is not None]
    limit = limits[0] if limits else room
    if limit is None or limit < 1:
        return Obstacle.NO_LIMIT
    kept = {name: value for name, value in given.items() if name not in _OF_CHATS}
    return made._replace(body=_encoded(kept, {"prompt": ids, "max_tokens": limit}), as_text=True)


_OF_CHATS: Final = frozenset(
    (
        "messages", "continue_final_message", "add_generation_prompt", "add_special_tokens", "chat_template",
        "chat_template_kwargs", "documents", "echo", "include_reasoning", "logprobs", "max_completion_tokens",
        "parallel_tool_calls", "reasoning_effort", "response_format", "tool_choice", "tools", "top_logprobs",
    )
)  # fmt: skip


class _Content(msgspec.Struct):
    content: str


def _encoded(given: dict[str, Raw], changes: dict[str, Any]) -> bytes:
    """The body with its changes; what stays is as the client wrote it."""
    return msgspec.json.encode({**given, **changes})


def _count(raw: Raw | None) -> int | None:
    value = None if raw is None else msgspec.json.decode(raw)
    return value if type(value) is int else None


def _flag(raw: Raw | None) -> bool:
    return raw is not None and bool(msgspec.json.decode(raw))


def _ends_with_part(text: str, stop: str) -> bool:
    """Whether the text ends with the beginning of a stop string."""
    return any(text.endswith(stop[:length]) for length in range(1, len(stop)))
