"""Decodes the messages in which vLLM and SGLang say what their prefix caches store and drop; pure.

A message is msgpack: the array `[timestamp, events, rank]`. An event is a map with a `type`, or in older versions
an array of the same values in a fixed order.
"""

import sys
from array import array
from collections.abc import Callable, Mapping
from itertools import chain

import msgspec

from engines.cache_events import (
    BlockKey,
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheEvent,
    EventBatch,
)

PlainRoot = Callable[[BlockKey, bytes], bool]
"""Of a prompt's first block: whether its hash follows from its content alone, which is given as the engine hashes it
(4-byte little endian integers)."""

# The order of the array form. SGLang's ends at `medium`, and has one map of what else there is after that.
_ORDER = {
    "BlockStored": (
        "block_hashes", "parent_block_hash", "token_ids", "block_size", "lora_id", "medium",
        "lora_name", "extra_keys", "group_idx", "kv_cache_spec_kind",
    ),
    "BlockRemoved": ("block_hashes", "medium", "group_idx"),
}  # fmt: skip
# A prefix is hit as far as these hold it. The other groups of a hybrid model keep only what they still need, and
# vLLM publishes theirs with gaps: fewer hashes than the tokens make.
_MAIN_KINDS = frozenset(("full_attention", "mla_attention", "sink_full_attention"))
_KEY_TYPES = frozenset((int, bytes))
_IDS, _ID_PAIRS = list[int], list[tuple[int, int]]
_TOKEN_BYTES = 4
_LARGEST_BLOCK = 2**20  # tokens; the largest pages are of some thousands

_Fields = Mapping[object, object]


class _UnreadableError(ValueError):
    """An event of a known kind whose values are not what they have to be."""


def read_event_batch(payload: bytes, is_plain_root: PlainRoot | None = None) -> EventBatch | None:
    """The events of one message; None for bytes that are no such message. Never raises.

    Left out without being counted as damaged: unknown kinds, empty events, and what vLLM stores in groups that do
    not decide on prefix hits. With `is_plain_root`, a prompt's first block that it denies makes the event opaque.
    """
    envelope = _decode(payload)
    if not isinstance(envelope, list) or len(envelope) < 2 or not isinstance(envelope[1], list):
        return None
    events, damaged = [], 0
    for value in envelope[1]:
        try:
            event = _read_event(_name_fields(value), is_plain_root)
        except _UnreadableError:
            damaged += 1
            continue
        if event is not None:
            events.append(event)
    rank = envelope[2] if len(envelope) > 2 else None
    return EventBatch(tuple(events), rank if type(rank) is int and rank >= 0 else None, damaged)


def _decode(payload: bytes) -> object:
    try:
        return msgspec.msgpack.decode(payload)
    except (ValueError, TypeError, OverflowError, RecursionError):  # msgspec's errors are ValueErrors
        return None


def _name_fields(value: object) -> _Fields:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        return {}
    kind, *values = value
    further = values.pop() if values and isinstance(values[-1], dict) else {}
    return {**further, **dict(zip(_ORDER.get(kind, ()), values, strict=False)), "type": kind}


def _read_event(fields: _Fields, is_plain_root: PlainRoot | None) -> CacheEvent | None:
    match fields.get("type"):
        case "BlockStored":
            return _read_stored(fields, is_plain_root)
        case "BlockRemoved":
            hashes = _read_keys(fields.get("block_hashes"))
            return BlocksRemoved(hashes, _read_text(fields, "medium"), _read_group(fields)) if hashes else None
        case "AllBlocksCleared":
            return BlocksCleared()
        case _:
            return None


def _read_stored(fields: _Fields, is_plain_root: PlainRoot | None) -> BlocksStored | None:
    kind = _read_text(fields, "kv_cache_spec_kind")
    if kind is not None and kind not in _MAIN_KINDS:
        return None
    hashes = _read_keys(fields.get("block_hashes"))
    tokens, content = _read_tokens(fields.get("token_ids"))
    if not hashes and not tokens:
        return None
    block_tokens = fields.get("block_size")
    if type(block_tokens) is not int or not 0 < block_tokens <= _LARGEST_BLOCK:
        raise _UnreadableError
    count = len(tokens) // _TOKEN_BYTES
    if not (len(hashes) - 1) * block_tokens < count <= len(hashes) * block_tokens:
        raise _UnreadableError
    parent = fields.get("parent_block_hash")
    parent = None if parent is None else _read_keys([parent])[0]
    adapter = _read_text(fields, "lora_name")
    said_salt = _read_text(fields, "cache_salt")
    salt, holds_more = _read_extra_keys(fields.get("extra_keys"), len(hashes), adapter, parent)
    first_block = content[: block_tokens * (len(content) // count)]
    return BlocksStored(
        hashes=hashes,
        parent=parent,
        tokens=tokens,
        block_tokens=block_tokens,
        medium=_read_text(fields, "medium"),
        adapter=adapter,
        salt=salt if said_salt is None else said_salt,
        group=_read_group(fields),
        kind=kind,
        opaque=holds_more
        or said_salt is not None
        or (adapter is None and fields.get("lora_id") is not None)  # an adapter without its name
        or (parent is None and is_plain_root is not None and not is_plain_root(hashes[0], first_block)),
    )


def _read_tokens(ids: object) -> tuple[bytes, bytes]:
    """The token ids, and all that the engine hashes: the same, or with speculative decoding each token with its next.

    Such a pair stands for its first token.
    """
    try:
        if isinstance(ids, list) and ids and isinstance(ids[0], list):
            pairs = array("I", chain.from_iterable(msgspec.convert(ids, _ID_PAIRS)))
            return _little_endian(pairs[::2]), _little_endian(pairs)
        tokens = _little_endian(array("I", msgspec.convert(ids, _IDS)))  # array alone would take booleans
    except (ValueError, OverflowError) as error:
        raise _UnreadableError from error
    return tokens, tokens


def _little_endian(ids: "array[int]") -> bytes:
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tobytes()


def _read_extra_keys(
    blocks: object, count: int, adapter: str | None, parent: BlockKey | None
) -> tuple[str | None, bool]:
    """The salt, and whether there is more than adapter and salt: from vLLM's list of what else is in each block's hash.

    The values are bare, so their place tells what they are: the adapter's name in each block, images and embeddings
    where they occur, the salt in the prompt's first block alone.
    """
    if blocks is None:
        return None, False
    if not isinstance(blocks, list):
        raise _UnreadableError
    salt = None
    for number, keys in enumerate(blocks):
        if keys is None:
            continue
        if not isinstance(keys, list):
            raise _UnreadableError
        others = list(keys)
        if adapter in others:
            others.remove(adapter)
        if number == 0 and parent is None and len(others) == 1 and isinstance(others[0], str):
            salt = others[0]
        elif others:
            return None, True
    return salt, salt is not None and len(blocks) != count  # with blocks left out, the first may not be the first


def _read_keys(values: object) -> tuple[BlockKey, ...]:
    if not isinstance(values, list) or not _KEY_TYPES.issuperset(map(type, values)):
        raise _UnreadableError
    return tuple(values)


def _read_text(fields: _Fields, name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        raise _UnreadableError
    return value or None


def _read_group(fields: _Fields) -> int | None:
    group = fields.get("group_idx")
    if group is not None and (type(group) is not int or group < 0):
        raise _UnreadableError
    return group
