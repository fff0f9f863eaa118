"""How a question is put to an engine, and how its answer is read; pure."""

from typing import Any, Final

import msgspec

from gateway.probe.answered import Answered
from gateway.probe.questions import Question

DEFAULT_MAX_TOKENS: Final = 2048
_TASK: Final = (
    "Solve the problem step by step, and be brief. End with one line that says #### and then the answer as a plain "
    "number, without a unit.\n\n"
)


class Manner(msgspec.Struct, frozen=True):
    """`thinking` is always sent, since engines' own defaults differ."""

    thinking: bool = False
    max_tokens: int = DEFAULT_MAX_TOKENS
    seed: int = 0


def request_body(question: Question, model: str, manner: Manner, *, tokens: bool) -> bytes:
    """A chat completion at temperature 0; `tokens` also asks for the tokens of the answer one by one."""
    body: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": _TASK + question.question}],
        "temperature": 0,
        "seed": manner.seed,
        "max_tokens": manner.max_tokens,
        "chat_template_kwargs": {"thinking": manner.thinking, "enable_thinking": manner.thinking},
    }
    if tokens:
        body["logprobs"] = True
    return msgspec.json.encode(body)


class _Token(msgspec.Struct):
    token: str = ""


class _Logprobs(msgspec.Struct):
    content: list[_Token] | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None
    logprobs: _Logprobs | None = None


class _Usage(msgspec.Struct):
    completion_tokens: int = 0


class _Completion(msgspec.Struct):
    choices: list[_Choice]
    usage: _Usage | None = None


_COMPLETION: Final = msgspec.json.Decoder(_Completion)


def with_answer(asked: Answered, body: bytes) -> Answered:
    """`asked` with what the body says; with an error where it is no chat completion."""
    try:
        read = _COMPLETION.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return msgspec.structs.replace(asked, error=f"the answer is no chat completion: {error}")
    if not read.choices:
        return msgspec.structs.replace(asked, error="the answer has no choice")
    choice = read.choices[0]
    told = choice.logprobs.content if choice.logprobs is not None else None
    return msgspec.structs.replace(
        asked,
        text=choice.message.content or "",
        thoughts=choice.message.reasoning or choice.message.reasoning_content or "",
        tokens=tuple(one.token for one in told or ()),
        finish=choice.finish_reason or "",
        completion_tokens=read.usage.completion_tokens if read.usage is not None else 0,
    )
