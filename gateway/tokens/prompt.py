"""Request bodies as prompts that can be tokenised exactly, or the reason why this one cannot; pure.

What an engine would refuse may be read here all the same: such a request is never prefilled.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from gateway.tokens.conversation import TEXT_FIELDS, Messages
from gateway.tokens.encoder import pack
from gateway.tokens.errors import InexactError, Reason
from gateway.wire.canonical import MAX_TOKEN_ID
from gateway.wire.request import Endpoint

_ROLES: Final = frozenset(("system", "user", "assistant", "tool"))
_EFFORTS: Final = frozenset(("none", "minimal", "low", "medium", "high", "xhigh", "max"))
_RESERVED: Final = frozenset(
    (
        "conversation",
        "messages",
        "tools",
        "documents",
        "chat_template",
        "tokenize",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
    )
)
"""Template arguments that would change how the template is called."""

_UNREADABLE: Final = (
    "chat_template",
    "truncate_prompt_tokens",
    "input_ids",
    "input_embeds",
    "prompt_embeds",
    "suffix",
    "kv_transfer_params",
    "functions",
)
"""Fields that make a prompt of other tokens than the rest of the body says, or of some on one engine only."""

MORE_FIELDS: Final = ("tool_choice", "response_format", "reasoning", "task")
"""Fields that some engines render into a chat's prompt."""


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """One text; `special`: with the tokens that a tokenizer puts around a prompt, such as a BOS."""

    text: str
    special: bool
    model: str | None
    shape: str


@dataclass(frozen=True, slots=True)
class IdsPrompt:
    """Token ids as 4-byte little endian, as the client gave them."""

    tokens: bytes
    shape: str = "ids"


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """A conversation as the client wrote it, checked so far that it is text and nothing else.

    `shape` names the kind of request in a word, out of a bounded set: prompts of one shape are rendered alike,
    so a disagreement with an engine about one of them speaks against all of that shape and no others.
    """

    messages: Messages
    tools: list[dict[str, Any]] | None
    template_kwargs: Mapping[str, Any]
    reasoning_effort: Any
    documents: list[dict[str, str]] | None
    more: Mapping[str, Any]
    add_generation_prompt: bool
    continue_final_message: bool
    special: bool
    model: str | None
    shape: str

    def template_arguments(self) -> dict[str, Any]:
        """What vLLM gives a template beside messages, tools and documents.

        A request's effort turns thinking on or off; null and "auto" are as good as absent.
        """
        arguments = dict(self.template_kwargs)
        if self.reasoning_effort is not None:
            arguments.setdefault("enable_thinking", self.reasoning_effort != "none")
            arguments["reasoning_effort"] = self.reasoning_effort
        return {name: value for name, value in arguments.items() if value is not None and value != "auto"}

    def engine_tools(self) -> list[dict[str, Any]] | None:
        """The tools as vLLM gives them to a template: known fields in its order, absent ones as null."""
        return None if self.tools is None else [_tool(tool) for tool in self.tools]


Prompt = ChatPrompt | TextPrompt | IdsPrompt


def read(endpoint: Endpoint, body: bytes) -> Prompt:
    """The prompt of a body that `wire` has parsed. InexactError if no one could tell its token ids exactly."""
    if endpoint not in (Endpoint.CHAT, Endpoint.COMPLETIONS):
        raise InexactError(Reason.ENDPOINT)
    try:
        fields = msgspec.json.decode(body)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        raise InexactError(Reason.MALFORMED) from None
    _require(isinstance(fields, dict), Reason.MALFORMED)
    _require(all(fields.get(name) is None for name in _UNREADABLE), Reason.FIELD)
    return _chat(fields) if endpoint is Endpoint.CHAT else _completion(fields)


def _completion(fields: dict[str, Any]) -> TextPrompt | IdsPrompt:
    prompt: Any = fields.get("prompt")
    if isinstance(prompt, str):
        special = _flag(fields, "add_special_tokens", default=True)
        return TextPrompt(prompt, special, _model(fields), "text" if special else "text+bare")
    _require(isinstance(prompt, list) and bool(prompt), Reason.MALFORMED)
    _require(all(type(item) is int for item in prompt), Reason.BATCH)
    _require(0 <= min(prompt) <= max(prompt) <= MAX_TOKEN_ID, Reason.MALFORMED)
    return IdsPrompt(pack(prompt))


def _chat(fields: dict[str, Any]) -> ChatPrompt:
    messages: Any = fields.get("messages")
    _require(isinstance(messages, list) and bool(messages), Reason.MALFORMED)
    traits: set[str] = set()
    for place, message in enumerate(messages):
        _check_message(message, place, traits)
    kwargs = fields.get("chat_template_kwargs") or {}
    _require(isinstance(kwargs, dict), Reason.MALFORMED)
    _require(not _RESERVED & kwargs.keys(), Reason.FIELD)
    documents, effort = fields.get("documents"), fields.get("reasoning_effort")
    _require(documents is None or isinstance(documents, list), Reason.MALFORMED)
    tools = fields.get("tools")
    if tools is not None:
        _require(isinstance(tools, list) and bool(tools), Reason.MALFORMED)
        _require(fields.get("tool_choice") != "none", Reason.FIELD)  # whether tools are shown then is a server's flag
        for tool in tools:
            _check_tool(tool)
        traits.add("tools")
    opens = _flag(fields, "add_generation_prompt", default=True)
    continues = _flag(fields, "continue_final_message", default=False)
    special = _flag(fields, "add_special_tokens", default=False)
    if kwargs or documents is not None or effort is not None:
        traits.add("kwargs")
    if continues or special or not opens or messages[-1]["role"] == "assistant":
        traits.add("tail")
    return ChatPrompt(
        messages=messages,
        tools=tools,
        template_kwargs={name: value for name, value in kwargs.items() if name not in _OVERRIDDEN},
        reasoning_effort=effort,
        documents=documents,
        more={name: fields[name] for name in MORE_FIELDS if fields.get(name) is not None},
        add_generation_prompt=opens,
        continue_final_message=continues,
        special=special,
        model=_model(fields),
        shape="+".join(["chat", *(trait for trait in _TRAITS if trait in traits)]),
    )


_OVERRIDDEN: Final = frozenset(("add_generation_prompt", "continue_final_message"))
"""Template arguments that the body's own fields of that name always win over."""

_TRAITS: Final = ("tools", "calls", "parts", "reasoning", "kwargs", "roles", "tail")
"""What a chat's shape tells apart, so there are at most 2^7; few occur."""


def check_vllm_fields(prompt: ChatPrompt) -> None:
    """InexactError if the body holds what vLLM ignores or refuses, and another engine may render."""
    _require(prompt.more.keys() <= {"tool_choice", "response_format"}, Reason.FIELD)
    _require(prompt.reasoning_effort is None or prompt.reasoning_effort in _EFFORTS, Reason.FIELD)
    for document in prompt.documents or ():
        texts = isinstance(document, dict) and all(isinstance(value, str) for value in document.values())
        _require(texts, Reason.MALFORMED)


def _check_message(message: Any, place: int, traits: set[str]) -> None:
    """That a message is text and of known form; adds what its shape tells apart to `traits`."""
    _require(isinstance(message, dict), Reason.MALFORMED)
    role, content = message.get("role"), message.get("content")
    _require(isinstance(role, str), Reason.MALFORMED)
    if isinstance(content, list):
        traits.add("parts")
        for part in content:
            _check_part(part)
    else:
        _require(content is None or isinstance(content, str), Reason.MALFORMED)
    _require(message.get("function_call") is None, Reason.FIELD)
    _require(message.get("tools") is None, Reason.FIELD)
    if role == "assistant":
        _check_assistant(message, traits)
    elif role == "tool":
        traits.add("calls")
        _require(isinstance(message.get("tool_call_id", ""), (str, type(None))), Reason.MALFORMED)
    elif role not in _ROLES or (role == "system" and place > 0):
        traits.add("roles")
    for name in ("name", "task"):
        _require(isinstance(message.get(name, ""), str), Reason.MALFORMED)


def _check_assistant(message: dict[str, Any], traits: set[str]) -> None:
    for name in ("reasoning", "reasoning_content"):
        reasoning = message.get(name)
        _require(reasoning is None or isinstance(reasoning, str), Reason.MALFORMED)
        if reasoning is not None:
            traits.add("reasoning")
    calls = message.get("tool_calls")
    _require(calls is None or isinstance(calls, list), Reason.MALFORMED)
    for call in calls or ():
        traits.add("calls")
        function: Any = call.get("function") if isinstance(call, dict) else None
        _require(isinstance(function, dict) and call.get("type") == "function", Reason.MALFORMED)
        texts = (call.get("id"), function.get("name"), function.get("arguments"))
        _require(all(isinstance(text, str) for text in texts), Reason.MALFORMED)


def _check_part(part: Any) -> None:
    if isinstance(part, str):
        return
    kind: Any = part.get("type") if isinstance(part, dict) else None
    _require(isinstance(kind, str) and kind in TEXT_FIELDS, Reason.CONTENT)
    _require(part.get("uuid") is None and isinstance(part.get(TEXT_FIELDS[kind]), str), Reason.CONTENT)


def _check_tool(tool: Any) -> None:
    function: Any = tool.get("function") if isinstance(tool, dict) else None
    _require(isinstance(function, dict) and tool.get("type", "function") == "function", Reason.MALFORMED)
    _require(isinstance(function.get("name"), str), Reason.MALFORMED)
    _require(isinstance(function.get("description"), (str, type(None))), Reason.MALFORMED)
    _require(isinstance(function.get("parameters"), (dict, type(None))), Reason.MALFORMED)
    for holder, name in ((function, "strict"), (function, "defer_loading"), (tool, "defer_loading")):
        _require(isinstance(holder.get(name), (bool, type(None))), Reason.MALFORMED)


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    given = tool["function"]
    function = {name: given.get(name) for name in ("name", "description", "parameters")}
    made: dict[str, Any] = {"type": "function", "function": function}
    deferred = tool.get("defer_loading")
    if given.get("strict") is not None:
        function["strict"] = given["strict"]
    inner = deferred if given.get("defer_loading") is None else given["defer_loading"]
    if inner is not None:
        function["defer_loading"] = inner
    if deferred is not None:
        made["defer_loading"] = deferred
    return made


def _model(fields: dict[str, Any]) -> str | None:
    model = fields.get("model")
    return model if isinstance(model, str) else None


def _flag(fields: dict[str, Any], name: str, *, default: bool) -> bool:
    value = fields.get(name, default)
    _require(isinstance(value, bool), Reason.MALFORMED)
    return bool(value)


def _require(good: bool, reason: Reason) -> None:
    if not good:
        raise InexactError(reason)
