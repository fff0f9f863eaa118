"""Calls of an engine's own /tokenize: the bodies that it takes, and its answer; does I/O."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from engines.dialect import TokeniseFields
from gateway.serving.engine_client import EngineClient, EngineGoneError, Headers
from gateway.tokens.conversation import Messages
from gateway.tokens.encoder import pack
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.prompt import ChatPrompt, TextPrompt, check_vllm_fields
from gateway.wire.canonical import MAX_TOKEN_ID

ANSWER_BYTES: Final = 64 * 1024 * 1024

Fields = dict[str, Any]


class Site(NamedTuple):
    """A replica to ask: its base URL and the headers with the pool's credentials."""

    url: str
    headers: Headers = ()


class Answer(NamedTuple):
    """What came back: packed ids for 200, else the status; 0 when nothing came in time."""

    status: int
    tokens: bytes = b""


class Form(NamedTuple):
    """How one kind of engine wants to be asked. Each raises InexactError for what it cannot be asked exactly.

    `chat` gives all fields but the messages.
    """

    chat: Callable[[ChatPrompt], Fields]
    messages: Callable[[Messages], Messages]
    text: Callable[[TextPrompt], Fields]


def _template_call(prompt: ChatPrompt) -> Fields:
    """For a /tokenize that knows less than a chat completion: what the template gets is given as its arguments."""
    check_vllm_fields(prompt)
    arguments = prompt.template_arguments()
    if prompt.documents is not None:
        arguments["documents"] = prompt.documents
    return {
        "model": prompt.model,
        "tools": prompt.tools,
        "chat_template_kwargs": arguments or None,
        "add_generation_prompt": prompt.add_generation_prompt,
        "continue_final_message": prompt.continue_final_message,
        "add_special_tokens": prompt.special,
    }


def _one_reasoning(messages: Messages) -> Messages:
    """A chat completion takes either name of the reasoning, this /tokenize only one."""
    return [
        {**message, "reasoning": message["reasoning_content"]}
        if message.get("reasoning") is None and message.get("reasoning_content") is not None
        else message
        for message in messages
    ]


def _text_call(prompt: TextPrompt) -> Fields:
    return {"model": prompt.model, "prompt": prompt.text, "add_special_tokens": prompt.special}


def _chat_call(prompt: ChatPrompt) -> Fields:
    """For a /tokenize that does with a chat request what a chat completion does: the client's own fields.

    The flags that chat completions of such an engine do not know are left out here too.
    """
    if "reasoning_effort" in prompt.template_kwargs:  # moved by some of its models, and not by others
        raise InexactError(Reason.FIELD)
    return {
        "model": prompt.model,
        "tools": prompt.tools,
        "chat_template_kwargs": dict(prompt.template_kwargs) or None,
        "reasoning_effort": prompt.reasoning_effort,
        "documents": prompt.documents,
        "continue_final_message": prompt.continue_final_message or None,
        **prompt.more,
    }


def _plain_text_call(prompt: TextPrompt) -> Fields:
    """As `_text_call`, for an engine whose completions always add the special tokens."""
    if not prompt.special:
        raise InexactError(Reason.FIELD)
    return {"model": prompt.model, "prompt": prompt.text}


FORMS: Final[Mapping[TokeniseFields, Form]] = {
    "template": Form(_template_call, _one_reasoning, _text_call),
    "chat": Form(_chat_call, lambda messages: messages, _plain_text_call),
}
"""By what a dialect says that its `tokenise_takes`."""


class _Tokens(msgspec.Struct):
    tokens: list[int]


def body_of(fields: Fields, messages: Messages | None = None) -> bytes:
    """A /tokenize body; fields that are None are left out."""
    given = {name: value for name, value in fields.items() if value is not None}
    return msgspec.json.encode(given if messages is None else {**given, "messages": messages})


async def ask(engines: EngineClient, site: Site, body: bytes, limit_s: float) -> Answer:
    """POST /tokenize once, within `limit_s`; raises nothing."""
    headers = [(b"content-type", b"application/json"), *site.headers]
    try:
        async with asyncio.timeout(limit_s):
            response = await engines.send(site.url, "POST", "/tokenize", headers, body)
            try:
                answer = await response.body(ANSWER_BYTES)
            finally:
                response.close()
    except (EngineGoneError, TimeoutError):
        return Answer(0)
    if response.status != 200:
        return Answer(response.status)
    try:
        tokens = msgspec.json.decode(answer, type=_Tokens).tokens
    except msgspec.MsgspecError:
        return Answer(501)  # it answers something else under this name
    if tokens and not 0 <= min(tokens) <= max(tokens) <= MAX_TOKEN_ID:
        return Answer(501)
    return Answer(200, pack(tokens))
