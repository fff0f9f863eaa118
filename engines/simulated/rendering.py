"""Turns a conversation into prompt tokens, so that an answer sent back as a message extends the cached prefix; pure.

Every marker and every text is padded to whole tokens: what was generated renders to the same tokens again.
Order: thinking mode, tools, messages; so each mode and each set of tools is a cache namespace of its own, as with
the real encoder. Reasoning of earlier turns is dropped unless the request has tools.
"""

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec

from engines.simulated import tokens

Message = Mapping[str, Any]
"""A chat message in OpenAI's form."""

BEGIN_OF_THINKING = b"<t>\n"
END_OF_THINKING = b"</t>"
_END_OF_TURN = b"</e>"
_CALL = b"<|call|>"
_TEXT_TYPES = ("text", "input_text", "output_text", "refusal")


def render_chat(messages: Sequence[Message], tools: Sequence[Any], mode: str, *, answer_follows: bool = True) -> bytes:
    """Prompt tokens of a conversation. `mode` is `chat` or `think-` and the effort."""
    return b"".join(_render_turns(messages, tools, mode, answer_follows=answer_follows))


def render_begun(messages: Sequence[Message], tools: Sequence[Any], mode: str) -> bytes:
    """The same where the last message is the beginning of the answer: the model goes on where it ends."""
    *before, begun = messages
    parts = _render_turns(before, tools, mode, answer_follows=True)
    reasoning = _reasoning_of(begun)
    if mode != "chat" and reasoning:
        parts += [_text(str(reasoning)), END_OF_THINKING]
    return b"".join([*parts, _render_content(begun.get("content"))])


def _render_turns(messages: Sequence[Message], tools: Sequence[Any], mode: str, *, answer_follows: bool) -> list[bytes]:
    parts = [_marker(f"begin {mode}")]
    if tools:
        parts += [_marker("tools"), _spaced(msgspec.json.encode(tools))]
    for message in messages:
        parts += _render_message(message, keep_reasoning=bool(tools))
    if not answer_follows and messages and messages[-1].get("role") == "assistant":
        parts.append(_END_OF_TURN)  # as templates say that the last answer is over, and not to be gone on with
    if answer_follows:
        parts.append(_marker("assistant"))
        if mode != "chat":
            parts.append(BEGIN_OF_THINKING)
    return parts


def render_tool_call(name: str, arguments: str) -> tuple[bytes, bytes]:
    """Tokens of a tool call: the marker with the name, and the arguments."""
    return _CALL + _text(name), _text(arguments)


def _render_message(message: Message, *, keep_reasoning: bool) -> list[bytes]:
    parts = [_marker(str(message.get("role", "user")))]
    reasoning = _reasoning_of(message)
    if keep_reasoning and reasoning:
        parts += [BEGIN_OF_THINKING, _text(str(reasoning)), END_OF_THINKING]
    parts.append(_render_content(message.get("content")))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        parts += render_tool_call(str(function.get("name", "")), _canonical(function.get("arguments", "")))
    return parts


def _reasoning_of(message: Message) -> Any:
    return message.get("reasoning") or message.get("reasoning_content")


def _render_content(content: Any) -> bytes:
    if content is None:
        return b""
    if isinstance(content, str):
        return _text(content)
    if isinstance(content, list):
        return b"".join(_render_part(part) for part in content)
    return _spaced(msgspec.json.encode(content))


def _render_part(part: Any) -> bytes:
    """Text as it is; anything else (an image, audio, a file) by a digest of what it holds."""
    if isinstance(part, str):
        return _text(part)
    if isinstance(part, dict) and part.get("type") in _TEXT_TYPES:
        return _text(str(part.get("text") or part.get("refusal") or ""))
    digest = blake2b(msgspec.json.encode(part), digest_size=16).hexdigest()
    return _marker(f"media {digest}")


def _canonical(arguments: Any) -> str:
    """Arguments in the compact form in which they are generated, whatever a client made of them."""
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            return str(arguments)
    return json.dumps(arguments, separators=(",", ":"))


def _marker(name: str) -> bytes:
    return _spaced(f"<|{name}|>\n".encode("utf-8", "replace"))


def _text(text: str) -> bytes:
    return _spaced(text.encode("utf-8", "surrogatepass"))


def _spaced(raw: bytes) -> bytes:
    return tokens.pad(raw, b" ")
