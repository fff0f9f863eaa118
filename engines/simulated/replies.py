"""What the simulated model answers: a pure function of prompt, seed and position, one piece per token; pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, shake_256
from typing import Any, Literal, NamedTuple

from engines.simulated import tokens
from engines.simulated.rendering import END_OF_THINKING, render_tool_call
from engines.simulated.sequences import Finish

PieceKind = Literal["content", "reasoning", "tool_name", "tool_arguments", "silent"]


class Piece(NamedTuple):
    """What one token shows to the client: text of a kind, or nothing (a token that a parser swallows)."""

    kind: PieceKind
    text: str


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that may be called: its name and the JSON schema of its arguments."""

    name: str
    parameters: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks of its answer. `tools` are those that must be called: empty for an answer in words."""

    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    thinking: bool = False
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer: `tokens` as they enter the cache, `pieces` as they are shown, one a token."""

    tokens: bytes
    pieces: tuple[Piece, ...]
    finish: Finish
    reasoning_tokens: int = 0
    calls_tool: bool = False

    def text(self, kind: PieceKind, generated_tokens: int | None = None) -> str:
        """All text of a kind within the first `generated_tokens`."""
        return "".join(piece.text for piece in self.pieces[:generated_tokens] if piece.kind == kind)


_WORDS = [f" {a}{b}{c}" for a in "bcdfghlmnprstvwz" for b in "aeio" for c in "lnrt"]  # 256 of four bytes each
_WORD_TOKENS = [word.encode() for word in _WORDS]
_CONTENT = [Piece("content", word) for word in _WORDS]
_REASONING = [Piece("reasoning", word) for word in _WORDS]
_SILENT = Piece("silent", "")


def plan_reply(prompt: bytes, wish: Wish, default_tokens: int, room_tokens: int, seed: str) -> Reply:
    """The answer to a prompt. `room_tokens` is what the context leaves; `seed` tells models (and choices) apart.

    Without `max_tokens` the answer has `default_tokens`; else it ends by itself after 1 to 8 times as many,
    or at `max_tokens`, whichever comes first.
    """
    digest = blake2b(prompt, key=seed.encode()[:64], digest_size=16).digest()
    limit = room_tokens if wish.max_tokens is None else min(wish.max_tokens, room_tokens)
    if wish.tools:
        return _call_tool(digest, wish.tools, limit)
    natural = default_tokens
    if wish.max_tokens is not None:
        natural += int.from_bytes(digest[:4], "little") % (7 * default_tokens + 1)
    if wish.ignore_eos:
        natural = limit if wish.max_tokens is not None else default_tokens
    length = max(1, min(max(natural, wish.min_tokens), limit))
    # Reaching max_tokens counts as length even where the answer would have ended there.
    finish: Finish = "length" if wish.max_tokens is not None and length >= limit else "stop"
    return _speak(digest, length, finish, thinking=wish.thinking)


def _speak(digest: bytes, length: int, finish: Finish, *, thinking: bool) -> Reply:
    stream = shake_256(digest).digest(length)
    words = [_WORD_TOKENS[byte] for byte in stream]
    pieces = [_CONTENT[byte] for byte in stream]
    reasoning_tokens = length // 4 if thinking else 0
    if thinking:
        pieces[:reasoning_tokens] = [_REASONING[byte] for byte in stream[:reasoning_tokens]]
        words[reasoning_tokens] = END_OF_THINKING
        pieces[reasoning_tokens] = _SILENT
    return Reply(b"".join(words), tuple(pieces), finish, reasoning_tokens)


def _call_tool(digest: bytes, tools: Sequence[Tool], limit: int) -> Reply:
    tool = tools[digest[4] % len(tools)]
    arguments = json.dumps(_example(tool.parameters, digest.hex()), separators=(",", ":"))
    head, tail = render_tool_call(tool.name, arguments)
    pieces = [_SILENT] * (tokens.count(head) - 1) + [Piece("tool_name", tool.name)]
    for start in range(0, len(tail), tokens.TOKEN_BYTES):
        # The padding of the last token is no part of the arguments.
        text = arguments[start : start + tokens.TOKEN_BYTES]
        pieces.append(Piece("tool_arguments", text) if text else _SILENT)
    whole = head + tail
    length = max(1, min(len(pieces), limit))
    finish: Finish = "stop" if length == len(pieces) else "length"
    return Reply(whole[: length * tokens.TOKEN_BYTES], tuple(pieces[:length]), finish, calls_tool=True)


def _example(schema: Mapping[str, Any], word: str) -> Any:
    """A value that fits a JSON schema of the everyday kind; of an object, the required properties."""
    if "const" in schema:
        return schema["const"]
    for choices in (schema.get("enum"), schema.get("anyOf"), schema.get("oneOf")):
        if isinstance(choices, list) and choices:
            return _example(choices[0], word) if isinstance(choices[0], dict) else choices[0]
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0] if kind else "null"
    if kind == "object":
        properties = _schema(schema.get("properties"))
        required = schema.get("required")
        names = required if isinstance(required, list) and required else list(properties)
        return {str(name): _example(_schema(properties.get(str(name))), word) for name in names}
    if kind == "array":
        return [_example(_schema(schema.get("items")), word)]
    simple: dict[str, Any] = {"integer": 1, "number": 1.5, "boolean": True, "null": None}
    return simple.get(str(kind), word[:8])


def _schema(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
