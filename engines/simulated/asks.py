"""Reads the bodies of the four generating APIs into one kind of request; pure.

Responses and Messages bodies are turned into chat messages first, as both engines do.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from engines.simulated import tokens
from engines.simulated.refusals import Refusal, invalid_field
from engines.simulated.rendering import Message, render_begun, render_chat
from engines.simulated.replies import Tool, Wish

Body = Mapping[str, Any]
Api = Literal["chat", "completions", "responses", "messages"]


@dataclass(frozen=True, slots=True)
class Ask:
    """A request to generate: `samples` answers to each prompt."""

    api: Api
    model: str
    prompts: tuple[bytes, ...]
    wish: Wish
    samples: int = 1
    stream: bool = False
    include_usage: bool = False
    continuous_usage: bool = False
    request_id: str | None = None
    """SGLang's `rid` or vLLM's `request_id` of the body."""
    cache_salt: str | None = None
    messages: tuple[Message, ...] = ()
    """The conversation, for answers that are stored."""
    store: bool = False


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """How an engine reads bodies: whether it thinks unless told otherwise, and whether it calls tools by itself.

    `refuses_both_flags`: whether an answer cannot both be begun by `add_generation_prompt` (the default) and be gone
    on with by `continue_final_message`.
    """

    thinks_by_default: bool = False
    eager_tools: bool = False
    refuses_both_flags: bool = False


def read_chat(body: Body, rules: ReadingRules) -> Ask:
    """`/v1/chat/completions`. Raises Refusal."""
    messages = _read_messages(body)
    mode, thinking = _read_mode(body, rules)
    max_tokens = _count(body, "max_completion_tokens")
    return _ask(
        "chat",
        body,
        (_render_asked(body, messages, mode, rules),),
        wish=Wish(
            max_tokens=_count(body, "max_tokens") if max_tokens is None else max_tokens,
            min_tokens=_count(body, "min_tokens") or 0,
            ignore_eos=bool(body.get("ignore_eos")),
            thinking=thinking,
            tools=_tools_to_call(body, messages, rules),
        ),
        messages=messages,
    )


def read_completion(body: Body, rules: ReadingRules) -> Ask:  # noqa: ARG001 - one signature for all readers
    """`/v1/completions`: a text, texts, token ids, or lists of token ids. Raises Refusal."""
    if "prompt" not in body:
        raise invalid_field("prompt", "missing", "Field required")
    prompt = body["prompt"]
    many = isinstance(prompt, list) and any(isinstance(one, (str, list)) for one in prompt)
    wish = Wish(
        max_tokens=_count(body, "max_tokens"),
        min_tokens=_count(body, "min_tokens") or 0,
        ignore_eos=bool(body.get("ignore_eos")),
    )
    return _ask("completions", body, tuple(read_prompt(one) for one in (prompt if many else [prompt])), wish=wish)


def read_responses(body: Body, rules: ReadingRules, history: Sequence[Message] = ()) -> Ask:
    """`/v1/responses`; `history` is the stored conversation of `previous_response_id`. Raises Refusal."""
    if "input" not in body:
        raise invalid_field("input", "missing", "Field required")
    messages = (*history, *_messages_of_input(body["input"]))
    instructions = body.get("instructions")
    shown = ({"role": "system", "content": instructions}, *messages) if instructions else messages
    effort = _object(body, "reasoning").get("effort")
    mode, thinking = _read_mode({**body, **({"reasoning_effort": effort} if effort else {})}, rules)
    tools = [_nested_tool(tool) for tool in _objects(body, "tools")]
    chat = {"tools": tools, "tool_choice": _nested_tool(body.get("tool_choice"))}
    return _ask(
        "responses",
        body,
        (render_chat(shown, tools, mode),),
        wish=Wish(
            max_tokens=_count(body, "max_output_tokens"),
            ignore_eos=bool(body.get("ignore_eos")),
            thinking=thinking,
            tools=_tools_to_call(chat, messages, rules),
        ),
        messages=messages,
        store=body.get("store", True) is not False,
    )


def read_anthropic(body: Body, rules: ReadingRules) -> Ask:
    """`/v1/messages`. Raises Refusal."""
    messages = _messages_of_anthropic(body)
    tools = [
        {
            "type": "function",
            "function": {
                "name": tool.get("name", ""),
                "description": tool.get("description"),
                "parameters": tool.get("input_schema") or {},
            },
        }
        for tool in _objects(body, "tools")
    ]
    choice = _object(body, "tool_choice")
    named = {"type": "function", "function": {"name": choice.get("name")}}
    chat = {"tools": tools, "tool_choice": {"any": "required", "tool": named}.get(str(choice.get("type")))}
    wanted = _object(body, "thinking").get("type")
    kwargs = {} if wanted is None else {"chat_template_kwargs": {"thinking": wanted != "disabled"}}
    mode, thinking = _read_mode({**body, **kwargs}, rules)
    return _ask(
        "messages",
        body,
        (render_chat(messages, tools, mode),),
        wish=Wish(
            max_tokens=_count(body, "max_tokens"),
            ignore_eos=bool(body.get("ignore_eos")),
            thinking=thinking,
            tools=_tools_to_call(chat, messages, rules),
        ),
        messages=messages,
    )


def read_prompt(prompt: Any) -> bytes:
    """The tokens of a text or of a list of token ids; an empty one is one token. Raises Refusal."""
    if isinstance(prompt, str):
        return tokens.tokenise(prompt) or tokens.from_ids([0])
    if isinstance(prompt, list):
        try:
            return tokens.from_ids(prompt or [0])
        except ValueError as error:
            raise invalid_field("prompt", "int_type", str(error)) from error
    raise invalid_field("prompt", "string_type", "Input should be a valid string", prompt)


def render_body(body: Body, rules: ReadingRules) -> bytes:
    """The tokens of `/tokenize`: of `messages` rendered, else of `prompt`. Raises Refusal."""
    if "messages" not in body:
        return read_prompt(body.get("prompt", ""))
    mode, _ = _read_mode(body, rules)
    return _render_asked(body, _read_messages(body), mode, rules)


def _render_asked(body: Body, messages: Sequence[Message], mode: str, rules: ReadingRules) -> bytes:
    """The conversation as the body's flags want it: to be answered, to be gone on with, or as it is."""
    tools = _objects(body, "tools")
    answer_follows = body.get("add_generation_prompt", True) is not False
    if not body.get("continue_final_message"):
        return render_chat(messages, tools, mode, answer_follows=answer_follows)
    if answer_follows and rules.refuses_both_flags:
        message = "Cannot set both `continue_final_message` and `add_generation_prompt` to True."
        raise Refusal(400, "invalid", message, "continue_final_message")
    if messages[-1].get("role") != "assistant":
        raise Refusal(400, "invalid", "The final message is not of the assistant.", "continue_final_message")
    return render_begun(messages, tools, mode)


def _ask(
    api: Api,
    body: Body,
    prompts: tuple[bytes, ...],
    *,
    wish: Wish,
    messages: tuple[Message, ...] = (),
    store: bool = False,
) -> Ask:
    options = _object(body, "stream_options")
    return Ask(
        api=api,
        model=str(body.get("model") or ""),
        prompts=prompts,
        wish=wish,
        samples=_count(body, "n") or 1,
        stream=bool(body.get("stream")),
        include_usage=bool(options.get("include_usage")),
        continuous_usage=bool(options.get("continuous_usage_stats")),
        request_id=_word(body.get("rid")) or _word(body.get("request_id")),
        cache_salt=None if api == "messages" else _read_salt(body),  # real engines read none there
        messages=messages,
        store=store,
    )


def _read_messages(body: Body) -> tuple[Message, ...]:
    messages = body.get("messages")
    if messages is None:
        raise invalid_field("messages", "missing", "Field required")
    if not _objects(body, "messages"):
        raise invalid_field("messages", "too_short", "List should have at least 1 item after validation, not 0", [])
    for message in messages:
        for call in _objects(message, "tool_calls"):
            _object(call, "function")
    return tuple(messages)


def _object(body: Body, field: str) -> dict[str, Any]:
    """A field that is an object, or empty when it is absent."""
    value = body.get(field)
    if value is not None and not isinstance(value, dict):
        raise invalid_field(field, "dict_type", "Input should be a valid dictionary", value)
    return value or {}


def _objects(body: Body, field: str) -> list[dict[str, Any]]:
    """A field that is a list of objects, or empty when it is absent."""
    value = body.get(field)
    if value is not None and not (isinstance(value, list) and all(isinstance(one, dict) for one in value)):
        raise invalid_field(field, "list_type", "Input should be a valid list", value)
    return value or []


def _count(body: Body, field: str) -> int | None:
    value = body.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise invalid_field(field, "int_parsing", "Input should be a valid integer", value)
    if value < (0 if field == "min_tokens" else 1):
        raise Refusal(400, "invalid", f"{field} must be at least 1, got {value}.", field)
    return value


def _word(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _read_salt(body: Body) -> str | None:
    """`cache_salt`, joined with SGLang's `extra_key` when that is there too."""
    words = [_word(body.get(field)) for field in ("cache_salt", "extra_key")]
    return "\0".join(word for word in words if word) or None


def _read_mode(body: Body, rules: ReadingRules) -> tuple[str, bool]:
    """The thinking mode of the prompt, and whether the answer shows its thoughts: only when they were asked for.

    Default and effort tiers are those of the engines' DeepSeek-V4 renderers.
    """
    kwargs = _object(body, "chat_template_kwargs")
    asked = kwargs.get("thinking", kwargs.get("enable_thinking"))
    effort = body.get("reasoning_effort") or kwargs.get("reasoning_effort") or "high"
    if not (rules.thinks_by_default if asked is None else asked) or effort == "none":
        return "chat", False
    tier = {"max": "max", "low": "low", "minimal": "low", "medium": "low"}.get(str(effort), "high")
    return f"think-{tier}", bool(asked)


def _tools_to_call(body: Body, messages: Sequence[Message], rules: ReadingRules) -> tuple[Tool, ...]:
    """The tools of which one must be called: those of the choice, or all; none for an answer in words."""
    functions = [_object(tool, "function") for tool in _objects(body, "tools")]
    tools = tuple(Tool(str(function.get("name")), _object(function, "parameters")) for function in functions)
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        name = _object(choice, "function").get("name")
        return tuple(tool for tool in tools if tool.name == name) or tools
    # A model that calls tools by itself answers in words once it has a result.
    eager = rules.eager_tools and choice in (None, "auto") and messages and messages[-1].get("role") != "tool"
    return tools if choice == "required" or eager else ()


def _nested_tool(tool: Any) -> Any:
    """Responses' flat form of a function tool, or choice, in chat's nested form."""
    if not isinstance(tool, dict) or "function" in tool or tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {key: value for key, value in tool.items() if key != "type"}}


def _messages_of_input(given: Any) -> tuple[Message, ...]:
    if isinstance(given, str):
        return ({"role": "user", "content": given},)
    messages: list[Message] = []
    for item in _objects({"input": given}, "input"):
        kind = item.get("type", "message")
        if kind == "function_call":
            function = {"name": item.get("name"), "arguments": item.get("arguments", "")}
            messages.append({"role": "assistant", "tool_calls": [{"type": "function", "function": function}]})
        elif kind == "function_call_output":
            messages.append({"role": "tool", "content": item.get("output")})
        elif kind == "message":
            messages.append({"role": item.get("role", "user"), "content": item.get("content")})
    return tuple(messages)


def _messages_of_anthropic(body: Body) -> tuple[Message, ...]:
    messages: list[Message] = []
    if body.get("system"):
        messages.append({"role": "system", "content": body["system"]})
    for message in _read_messages(body):
        content = message.get("content")
        if isinstance(content, list):
            messages += _messages_of_blocks(str(message.get("role", "user")), _objects(message, "content"))
        else:
            messages.append(message)
    return tuple(messages)


def _messages_of_blocks(role: str, blocks: Sequence[Mapping[str, Any]]) -> list[Message]:
    """Tool results become messages of their own, before the rest."""
    results: list[Message] = []
    parts: list[Mapping[str, Any]] = []
    calls: list[Mapping[str, Any]] = []
    thoughts: list[str] = []
    for block in blocks:
        kind = block.get("type")
        if kind == "tool_result":
            results.append({"role": "tool", "content": block.get("content")})
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, separators=(",", ":"))
            calls.append({"type": "function", "function": {"name": block.get("name"), "arguments": arguments}})
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking", "")))
        else:
            parts.append({key: value for key, value in block.items() if key != "cache_control"})
    if parts or calls or thoughts:
        message = {"role": role, "content": parts, "reasoning": "".join(thoughts), "tool_calls": calls}
        results.append(message)
    return results
