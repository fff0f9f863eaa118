"""Chat messages in the form in which engines hand them to a chat template; pure.

The rules are vLLM's (its `renderers/chat_utils.py`, 0.32): which fields of a message survive, in which order,
and what becomes of content parts and tool calls.
"""

import json
from typing import Any, Final

Messages = list[dict[str, Any]]

BILLING_LINE: Final = "x-anthropic-billing-header"
"""Claude Code's: new in every request, and dropped by engines."""

TEXT_FIELDS: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
    "thinking": "thinking",
}
"""The content parts that are text, by their type: the field that holds it."""

_PART_FIELDS: Final = frozenset(
    (
        "type",
        "text",
        "refusal",
        "thinking",
        "closed",
        "name",
        "uuid",
        "data",
        "image_url",
        "audio_url",
        "video_url",
        "input_audio",
        "file",
        "image_pil",
        "image_embeds",
        "audio_embeds",
        "video_embeds",
        "prompt_cache_breakpoint",
    )
)
"""The fields of content parts that vLLM knows; all others reach a template that takes lists of parts."""


def conversation(messages: Messages, *, parts: bool) -> Messages:
    """The messages, checked before (see `prompt`), as new dicts; `parts`: content is a list of text parts."""
    return [_message(message, parts=parts) for message in messages]


def without_developers(messages: Messages) -> Messages:
    """Developers as systems, for a template that knows none; then one system message that leads."""
    if not any(message["role"] == "developer" for message in messages):
        return messages
    messages = [_as_system(message) if message["role"] == "developer" else message for message in messages]
    systems = [message for message in messages if message["role"] == "system"]
    if len(systems) == 1 and messages[0] is systems[0]:
        return messages
    texts = [_joined(message["content"]) for message in systems]
    leading = {"role": "system", "content": "\n\n".join(text for text in texts if text)}
    return [leading, *(message for message in messages if message["role"] != "system")]


def _as_system(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in {**message, "role": "system"}.items() if name != "tools"}


def _message(message: dict[str, Any], *, parts: bool) -> dict[str, Any]:
    role = message["role"]
    given = _parts(message.get("content"))
    if role == "system":
        given = _without_billing(given)
    texts = [_text_part(part) for part in given]
    made: dict[str, Any] = {"role": role, "content": texts}
    if not parts:
        made["content"] = "\n".join(part["text"] for part in texts if part["text"])  # empty parts leave no line
    elif role == "tool":
        made["content"] = _joined(texts)  # reaches every template as text, here with lines of empty parts
    if role == "assistant":
        if message.get("tool_calls"):
            made["tool_calls"] = [_call(call) for call in message["tool_calls"]]
        reasoning = message.get("reasoning")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:
            made["reasoning"] = made["reasoning_content"] = reasoning
    elif role == "tool" and "tool_call_id" in message:
        made["tool_call_id"] = message["tool_call_id"]
    for name in ("name", "task"):
        if isinstance(message.get(name), str):
            made[name] = message[name]
    if role == "developer":
        made["tools"] = None
    return made


def _parts(content: Any) -> list[Any]:
    if content is None:
        return []
    return [content] if isinstance(content, str) else content


def _without_billing(parts: list[Any]) -> list[Any]:
    """System parts without Claude Code's first line; a part that is nothing else goes."""
    kept = []
    for part in parts:
        billed = part if isinstance(part, str) else part.get("text") if part["type"] == "text" else ""
        if not billed.startswith(BILLING_LINE):
            kept.append(part)
        elif rest := billed.partition("\n")[2]:
            kept.append(rest if isinstance(part, str) else {**part, "text": rest})
    return kept


def _text_part(part: Any) -> dict[str, Any]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    extra = {name: value for name, value in part.items() if name not in _PART_FIELDS}
    return {"type": "text", "text": part[TEXT_FIELDS[part["type"]]], **extra}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    """A tool call with its fields in vLLM's order and its arguments as an object, {} when they are none."""
    function = call["function"]
    arguments = function["arguments"]
    try:
        read = json.loads(arguments) if arguments else {}
    except json.JSONDecodeError:
        read = {}
    made = {"arguments": read if isinstance(read, dict) else {}, "name": function["name"]}
    return {"id": call["id"], "function": {**made, **_but(function, made)}, "type": "function", **_but(call, _CALL)}


_CALL: Final = ("id", "function", "type")


def _but(fields: dict[str, Any], known: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in known}


def _joined(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)
