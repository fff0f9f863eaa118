"""What the simulated model answers: each token is a function of the seed and of all text before it; pure.

So an answer that is cut and sent back as the beginning of another goes on as it would have: the model knows its own
words at the end of a prompt again, since each of them is what it would have said there.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
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
_OWN_TOKENS = frozenset((*_WORD_TOKENS, END_OF_THINKING))
_CONTENT = [Piece("content", word) for word in _WORDS]
_REASONING = [Piece("reasoning", word) for word in _WORDS]
_SILENT = Piece("silent", "")
_SILENCE = b"<.>\n"  # the token of an answer that had ended already


def plan_reply(prompt: bytes, wish: Wish, default_tokens: int, room_tokens: int, seed: str) -> Reply:
    """The answer to a prompt, or the rest of one that the prompt ends with.

    `room_tokens` is what the context leaves; `seed` tells models (and choices) apart. Without `max_tokens` the whole
    answer has `default_tokens`; else it ends by itself after 1 to 8 times as many, or at `max_tokens`, whichever
    comes first.
    """
    key = seed.encode()[:64]
    limit = room_tokens if wish.max_tokens is None else min(wish.max_tokens, room_tokens)
    if wish.tools:
        return _call_tool(_text(prompt, key, digest_size=16).digest(), wish.tools, limit)
    begun = _begun_tokens(prompt, key)
    start = len(prompt) - begun * tokens.TOKEN_BYTES
    text = _text(prompt[:start], key)
    limit += begun
    natural = default_tokens
    if wish.max_tokens is not None:
        natural += int.from_bytes(text.digest()[4:8], "little") % (7 * default_tokens + 1)
    if wish.ignore_eos:
        natural = limit if wish.max_tokens is not None else default_tokens
    length = max(1, min(max(natural, begun + wish.min_tokens), limit))
    if length <= begun:
        return Reply(_SILENCE, (_SILENT,), "stop")
    text.update(prompt[start:])
    # Reaching max_tokens counts as length even where the answer would have ended there.
    finish: Finish = "length" if wish.max_tokens is not None and length >= limit else "stop"
    return _speak(text, begun, length, finish, thinking=wish.thinking)


def _text(text: bytes, key: bytes, digest_size: int = 8) -> blake2b:
    """A text that can be added to; its digest decides on the token after it."""
    return blake2b(text, key=key, digest_size=digest_size)


def _begun_tokens(prompt: bytes, key: bytes) -> int:
    """How many tokens at the end of the prompt are what the model itself would have said there."""
    size = tokens.TOKEN_BYTES
    start = len(prompt)
    while start >= size and prompt[start - size : start] in _OWN_TOKENS:
        start -= size
    text = _text(prompt[:start], key)
    for at in range(start, len(prompt), size):
        token = prompt[at : at + size]
        if token not in (END_OF_THINKING, _WORD_TOKENS[text.digest()[0]]):
            start = at + size
        text.update(token)
    return (len(prompt) - start) // size


def _speak(text: blake2b, begun: int, length: int, finish: Finish, *, thinking: bool) -> Reply:
    """The tokens from the one after `begun` to the last of `length`."""
    words, pieces = [], []
    reasoning_tokens = length // 4 if thinking else 0
    for number in range(begun, length):
        if thinking and number == reasoning_tokens:
            token, piece = END_OF_THINKING, _SILENT
        else:
            word = text.digest()[0]
            token, piece = _WORD_TOKENS[word], (_REASONING if number < reasoning_tokens else _CONTENT)[word]
        text.update(token)
        words.append(token)
        pieces.append(piece)
    return Reply(b"".join(words), tuple(pieces), finish, max(reasoning_tokens - begun, 0))


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
