"""Prompts in the order in which engines render them, as bytes whose prefixes are the prompts' prefixes; pure.

Frame bytes are ones that never occur in UTF-8, so no content can forge a boundary. Nothing is counted or
closed at the end of a turn: the text of a conversation is a byte prefix of the text of the same one with more
turns. The grammar:

    text  = {field} {turn}                      fields: tools, documents …
    turn  = TURN (role {field} [CONTENT value] {field} | block)
    field = FIELD name VALUE value
    value = UTF-8 | part {PART part} | OPAQUE JSON
    part  = UTF-8 | block | OPAQUE digest
    block = BLOCK type {field} END
"""

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from xxhash import xxh3_128_hexdigest

TURN: Final = b"\xff"
CONTENT: Final = b"\xfe"
FIELD: Final = b"\xfd"
VALUE: Final = b"\xfc"
PART: Final = b"\xfb"
OPAQUE: Final = b"\xfa"
BLOCK: Final = b"\xf9"
END: Final = b"\xf8"

MAX_TOKEN_ID: Final = 2**32 - 2
"""The largest token id that can be packed: the next one parts the prompts of a batch."""
_NEXT_IDS: Final = b"\xff\xff\xff\xff"

_TEXT_PARTS: Final = frozenset({"text", "input_text", "output_text", "summary_text", "reasoning_text"})
_BLOCKS: Final[Mapping[str, tuple[str, ...]]] = {
    "thinking": ("thinking",),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id", "content"),
    "reasoning": ("summary", "content", "encrypted_content"),
    "function_call": ("call_id", "name", "arguments"),
    "function_call_output": ("call_id", "output"),
    "custom_tool_call": ("call_id", "name", "input"),
    "custom_tool_call_output": ("call_id", "output"),
}
"""Blocks that engines render as text, and the fields that they render, in our order."""


class CanonicalPrompt(msgspec.Struct, frozen=True, gc=False):
    """A prompt for the hash chain: equal texts under different namespaces share no cache.

    `namespace` holds everything that makes caches disjoint (model, adapter, salt, thinking mode and effort);
    `text` is the prompt in rendered order, or token ids as 4-byte little endian under a namespace of their own.
    """

    namespace: bytes
    text: bytes

    def salted(self, salt: str) -> "CanonicalPrompt":
        """The prompt in a cache of its own."""
        return CanonicalPrompt(self.namespace + FIELD + b"salt" + VALUE + salt.encode(), self.text)


def namespace(fields: Iterable[tuple[str, object]]) -> bytes:
    """The fields that are set, as unambiguous bytes; None and empty containers are not set."""
    return b"".join(
        FIELD + name.encode() + VALUE + (value.encode() if isinstance(value, str) else OPAQUE + _json(value))
        for name, value in fields
        if value is not None and value not in ({}, [])
    )


def field(name: str, value: object) -> bytes:
    """One named value, or nothing when it is None."""
    return b"" if value is None else FIELD + name.encode() + VALUE + _value(value)


def raw_field(name: str, raw: msgspec.Raw) -> bytes:
    """One named value as the client wrote it, or nothing when it is absent, null or an empty array."""
    value = bytes(raw)
    return b"" if value in (b"", b"null", b"[]") else FIELD + name.encode() + VALUE + value


def turn(role: str, content: object, before: bytes = b"", after: bytes = b"") -> bytes:
    """One turn of a conversation: `content` is a string, a list of parts or None; the rest are fields."""
    body = b"" if content is None else CONTENT + _value(content)
    return b"".join((TURN, role.encode(), before, body, after))


def item_turn(item: Mapping[str, object]) -> bytes:
    """One item of a Responses input: a message is a turn, anything else a turn of one block."""
    role = item.get("role")
    return turn(role, item.get("content")) if isinstance(role, str) else TURN + _part(item)


def listed(values: Sequence[object]) -> bytes:
    """Several texts (a batch of prompts, a list of documents) in one."""
    return PART.join(map(_part, values))


def pack_ids(prompts: Iterable[Sequence[int]]) -> bytes:
    """Prompts of token ids as 4-byte little endian. OverflowError for an id that is negative or too large."""
    packed = []
    for ids in prompts:
        if ids and not 0 <= min(ids) <= max(ids) <= MAX_TOKEN_ID:
            raise OverflowError(f"token ids must lie between 0 and {MAX_TOKEN_ID}")
        packed.append(struct.pack(f"<{len(ids)}I", *ids))
    return _NEXT_IDS.join(packed)


def digest(value: object) -> bytes:
    """16 bytes in hex that stand for a JSON value, whatever its key order, white space and escapes."""
    return xxh3_128_hexdigest(_json(value)).encode()


def _value(value: object) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, list):
        return PART.join(map(_part, value))
    return OPAQUE + _json(value)


def _part(part: object) -> bytes:
    """Text as itself, blocks by the fields that engines render, all else (images, audio, files) as a digest.

    A client's cache breakpoints wander from turn to turn and are no part of the prompt.
    """
    if isinstance(part, str):
        return part.encode()
    if isinstance(part, Mapping):
        kind, text = part.get("type"), part.get("text")
        if isinstance(kind, str):  # what clients write here need not be one, nor be hashable
            if isinstance(text, str) and kind in _TEXT_PARTS:
                return text.encode()
            if kind in _BLOCKS:
                return b"".join((BLOCK, kind.encode(), *(field(name, part.get(name)) for name in _BLOCKS[kind]), END))
        part = {name: value for name, value in part.items() if name != "cache_control"}
    return OPAQUE + digest(part)


def _json(value: object) -> bytes:
    return msgspec.json.encode(value, order="sorted")
