"""KV events on the wire: the recorded messages, both encodings of both engines, hidden salts, damage, hostile bytes."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.cache_events import BlocksCleared, BlocksRemoved, BlocksStored, EventBatch
from engines.dialect import Dialect
from engines.kv_events import read_event_batch
from engines.registry import DIALECTS
from engines.sglang import SglangDialect
from engines.simulated import sequences
from engines.simulated.cache import hash_blocks, root_of
from engines.simulated.kv_events import event_encoder
from engines.simulated.settings import EventEncoding
from engines.vllm import VllmDialect

FIXTURES = Path(__file__).parents[1] / "fixtures"
VLLM, SGLANG = VllmDialect(), SglangDialect()

STORED = {
    "type": "BlockStored", "block_hashes": [11, 12], "parent_block_hash": None, "token_ids": [1, 2, 3, 4],
    "block_size": 2, "lora_id": None, "medium": "GPU", "lora_name": None,
}  # fmt: skip


def message(*events: Any, rank: Any = 0) -> bytes:
    return msgspec.msgpack.encode([1795484234.9, list(events), rank])


def read(engine: Dialect, *events: Any) -> EventBatch:
    batch = engine.read_events(message(*events))
    assert batch is not None
    return batch


def stored(engine: Dialect, event: Any) -> BlocksStored:
    batch = read(engine, event)
    assert batch.damaged == 0
    assert isinstance(batch.events[0], BlocksStored)
    return batch.events[0]


def pack(*ids: int) -> bytes:
    return b"".join(token.to_bytes(4, "little") for token in ids)


def signed_hash(content: bytes) -> int:
    """SGLang's name of a first block."""
    return int.from_bytes(sha256(content).digest()[:8], "big", signed=True)


def recorded(folder: str) -> list[tuple[int, bytes]]:
    """The recorded messages as sequence number and payload."""
    parts = json.loads((FIXTURES / folder / "kv_events.json").read_text())
    assert {topic for topic, _, _ in parts} == {b"kv".hex()}
    return [(int(number, 16), bytes.fromhex(payload)) for _, number, payload in parts]


@pytest.mark.parametrize(
    ("engine", "folder", "numbers", "events", "blocks", "tokens"),
    [
        (VLLM, "vllm-0.25.0", range(2), 2, 58, 928),
        (VLLM, "vllm-0.32.0", range(2, 9), 7, 46, 5888),
        (SGLANG, "sglang-0.5.16", range(1, 7), 965, 965, 965),
    ],
)
def test_recorded_messages_are_read_without_loss(
    engine: Dialect, folder: str, numbers: range, events: int, blocks: int, tokens: int
) -> None:
    messages = recorded(folder)
    assert [number for number, _ in messages] == list(numbers)
    seen: list[BlocksStored] = []
    for _, payload in messages:
        batch = engine.read_events(payload)
        assert batch is not None
        assert (batch.rank, batch.damaged) == (0, 0)
        plain = msgspec.msgpack.decode(payload)[1]
        assert len(plain) == len(batch.events)
        for fields, event in zip(plain, batch.events, strict=True):
            assert isinstance(event, BlocksStored)
            hashes, parent, ids, block_size = (
                fields[1:5] if isinstance(fields, list) else [fields[name] for name in list(STORED)[1:5]]
            )
            assert (event.hashes, event.parent, event.block_tokens) == (tuple(hashes), parent, block_size)
            assert event.tokens == pack(*ids)
            assert event.medium == "GPU"
            assert not event.opaque
            seen.append(event)
    assert len(seen) == events
    assert sum(len(event.hashes) for event in seen) == blocks
    assert sum(len(event.tokens) // 4 for event in seen) == tokens


def test_recorded_vllm_says_salt_and_group() -> None:
    for folder, salts in (("vllm-0.25.0", [None, "t1"]), ("vllm-0.32.0", [None, "t1", *[None] * 5])):
        events = [stored(VLLM, msgspec.msgpack.decode(payload)[1][0]) for _, payload in recorded(folder)]
        assert [event.salt for event in events] == salts
        assert {(event.group, event.kind, event.adapter) for event in events} == {(0, "full_attention", None)}


def test_recorded_sglang_hashes_are_a_chain_of_sha256_without_a_seed() -> None:
    digests: dict[Any, bytes] = {None: b""}
    for _, payload in recorded("sglang-0.5.16"):
        batch = SGLANG.read_events(payload)
        assert batch is not None
        for event in batch.events:
            assert isinstance(event, BlocksStored)
            digest = sha256(digests[event.parent] + event.tokens).digest()
            assert isinstance(event.hashes[0], int)
            assert event.hashes[0] % 2**64 == int.from_bytes(digest[:8], "big")
            digests[event.hashes[0]] = digest


def test_recorded_sglang_salt_cannot_be_seen() -> None:
    """0.5.16 publishes a salted prompt under the very names of the unsalted one: the recording has the prompt twice."""
    roots = [
        event
        for _, payload in recorded("sglang-0.5.16")
        for event in read_event_batch(payload).events  # type: ignore[union-attr]
        if isinstance(event, BlocksStored) and event.parent is None and event.tokens == pack(1)
    ]
    assert len(roots) == 2
    assert roots[0] == roots[1]


def test_map_form() -> None:
    event = STORED | {
        "parent_block_hash": b"\x00" * 32, "block_hashes": [2**64 - 1, -1], "medium": "CPU", "lora_name": "lora",
        "lora_id": 1, "extra_keys": [["lora"], ["lora"]], "group_idx": 3, "kv_cache_spec_kind": "mla_attention",
        "kv_cache_spec_sliding_window": None, "session_id": "s", "lookahead_token_ids": [9], "locality": "LOCAL",
    }  # fmt: skip
    assert stored(VLLM, event) == BlocksStored(
        (2**64 - 1, -1), b"\x00" * 32, pack(1, 2, 3, 4), 2, "CPU", "lora", None, 3, "mla_attention"
    )
    removed = {"type": "BlockRemoved", "block_hashes": [b"ab", 7], "medium": "GPU", "group_idx": 3}
    batch = read(VLLM, removed, {"type": "AllBlocksCleared"})
    assert batch.events == (BlocksRemoved((b"ab", 7), "GPU", 3), BlocksCleared())


@pytest.mark.parametrize(
    "tail",
    [
        [],
        [None],
        [None, None],
        ["lora", [["lora"], ["lora"]]],
        [None, None, 2, "full_attention", None, "of the future"],
    ],
)
def test_array_form_of_vllm(tail: list[Any]) -> None:
    named = dict(zip(("adapter", "-", "group", "kind"), tail, strict=False))
    event = stored(VLLM, ["BlockStored", [11, 12], 10, [1, 2, 3, 4], 2, None, "GPU", *tail])
    assert (event.hashes, event.parent, event.tokens) == ((11, 12), 10, pack(1, 2, 3, 4))
    assert (event.adapter, event.group, event.kind) == (named.get("adapter"), named.get("group"), named.get("kind"))
    batch = read(VLLM, ["BlockRemoved", [11], "GPU", 2], ["BlockRemoved", [12]], ["AllBlocksCleared"])
    assert batch.events == (BlocksRemoved((11,), "GPU", 2), BlocksRemoved((12,)), BlocksCleared())


def test_array_form_of_sglang() -> None:
    root = signed_hash(pack(1, 2))
    assert stored(SGLANG, ["BlockStored", [root], None, [1, 2], 2, None, "GPU"]) == BlocksStored(
        (root,), None, pack(1, 2), 2, "GPU"
    )
    # the oldest ended before the medium
    assert stored(SGLANG, ["BlockStored", [root], None, [1, 2], 2, None]).medium is None
    salted = stored(SGLANG, ["BlockStored", [5], 4, [1, 2], 2, None, "GPU", {"cache_salt": "s"}])
    assert (salted.salt, salted.adapter, salted.opaque) == ("s", None, True)
    assert stored(SGLANG, ["BlockStored", [root], None, [1, 2], 2, None, "GPU", {}]).opaque is False
    early = stored(SGLANG, ["BlockStored", [5], 4, [1, 2], 2, {"cache_salt": "s"}])
    assert (early.salt, early.medium) == ("s", None)


def test_tokens_are_32_bits_little_endian() -> None:
    ids = [0, 1, 0x01020304, 2**32 - 1]
    assert stored(VLLM, STORED | {"token_ids": ids}).tokens == pack(*ids)


def test_a_last_block_may_be_shorter() -> None:
    assert stored(VLLM, STORED | {"token_ids": [1, 2, 3]}).tokens == pack(1, 2, 3)
    assert stored(VLLM, STORED | {"block_hashes": [1], "token_ids": [1]}).tokens == pack(1)


@pytest.mark.parametrize(
    ("extra_keys", "adapter", "parent", "salt", "opaque"),
    [
        (None, None, None, None, False),
        ([None, None], None, None, None, False),
        ([["lora"], ["lora"]], "lora", None, None, False),
        ([["salt"], None], None, None, "salt", False),
        ([["lora", "salt"], ["lora"]], "lora", None, "salt", False),
        ([["same", "same"], ["same"]], "same", None, "same", False),  # the adapter's name as the salt
        ([["other"], ["lora"]], "lora", None, "other", False),
        ([[], []], None, None, None, False),
        ([None, ["salt"]], None, None, None, True),
        ([["salt"], ["salt"]], None, None, None, True),
        ([["salt"], None], None, 10, None, True),
        ([["one", "two"], None], None, None, None, True),
        ([[["image", 0]], None], None, None, None, True),
        ([["salt", ["image", -3]], None], None, None, None, True),
        ([None, [["image", 5]]], None, 10, None, True),
        ([[b"digest"], None], None, None, None, True),
        ([[17], None], None, None, None, True),
        ([["salt"]], None, None, "salt", True),  # of which block?
    ],
)
def test_what_else_vllm_hashes(
    extra_keys: Any, adapter: str | None, parent: int | None, salt: str | None, opaque: bool
) -> None:
    event = stored(
        VLLM, STORED | {"extra_keys": extra_keys, "lora_name": adapter, "parent_block_hash": parent, "lora_id": None}
    )
    assert (event.salt, event.opaque, event.adapter) == (salt, opaque, adapter)


def test_an_adapter_without_its_name_is_opaque() -> None:
    assert stored(VLLM, STORED | {"lora_id": 3}).opaque
    assert not stored(VLLM, STORED | {"lora_id": 3, "lora_name": "lora"}).opaque


def test_sglang_salts_show_in_the_first_hash() -> None:
    plain = signed_hash(pack(1, 2))
    seed = sha256(b"sglang-cache-salt-v1\0tenant").digest()
    salted = signed_hash(seed + pack(1, 2))
    event = {"type": "BlockStored", "token_ids": [1, 2, 3, 4], "block_size": 2, "lora_id": None, "medium": "GPU"}
    for root, opaque in ((plain, False), (plain % 2**64, False), (salted, True), (b"12345678", True)):
        assert stored(SGLANG, event | {"block_hashes": [root, 5], "parent_block_hash": None}).opaque is opaque
    # only a root can be checked; what follows one is as its parent is
    assert not stored(SGLANG, event | {"block_hashes": [4, 5], "parent_block_hash": salted}).opaque
    told = stored(SGLANG, event | {"block_hashes": [plain, 5], "parent_block_hash": None, "cache_salt": "tenant"})
    assert (told.salt, told.opaque) == ("tenant", True)
    short = stored(
        SGLANG, event | {"block_hashes": [signed_hash(pack(9))], "parent_block_hash": None, "token_ids": [9]}
    )
    assert not short.opaque


def test_sglang_pairs_stand_for_their_first_token() -> None:
    pairs = [[1, 2], [2, 3], [3, 4], [4, 2**32 - 1]]
    root = signed_hash(pack(1, 2, 2, 3))
    event = ["BlockStored", [root, 7], None, pairs, 2, None, "GPU"]
    assert stored(SGLANG, event).tokens == pack(1, 2, 3, 4)
    assert not stored(SGLANG, event).opaque
    event[1] = [signed_hash(pack(1, 2)), 7]
    assert stored(SGLANG, event).opaque


@pytest.mark.parametrize("encoding", ["map", "array"])
@pytest.mark.parametrize(("salt", "adapter"), [(None, None), ("s", None), (None, "lora"), ("s", "lora")])
def test_the_simulated_engines_are_understood(encoding: EventEncoding, salt: str | None, adapter: str | None) -> None:
    tokens = pack(1, 2, 3, 4)
    blocks = tuple(hash_blocks(tokens, 2, root_of(salt, adapter)))
    event = sequences.BlocksStored(None, blocks, tokens, salt, adapter)
    seen = stored(VLLM, event_encoder("vllm", encoding, 2)(event))
    assert (seen.tokens, seen.salt, seen.adapter, seen.opaque) == (tokens, salt, adapter, False)
    seen = stored(SGLANG, event_encoder("sglang", encoding, 2)(event))
    assert (seen.tokens, seen.salt, seen.opaque) == (tokens, salt, (salt, adapter) != (None, None))
    for engine, name in ((VLLM, "vllm"), (SGLANG, "sglang")):
        encode = event_encoder(name, encoding, 2)  # type: ignore[arg-type]
        batch = read(engine, encode(sequences.BlocksRemoved(blocks[0])), encode(sequences.BlocksCleared()))
        assert [type(event) for event in batch.events] == [BlocksRemoved, BlocksCleared]


def test_envelopes() -> None:
    encode = msgspec.msgpack.encode
    assert VLLM.read_events(encode([1.0, []])) == EventBatch(())
    assert VLLM.read_events(encode([1.0, [["AllBlocksCleared"]], 3, "more"])) == EventBatch((BlocksCleared(),), 3)
    for rank in (None, -1, True, "0", 1.5):
        assert VLLM.read_events(message(rank=rank)) == EventBatch(())
    others: list[Any] = [None, {}, [], [1.0], [1.0, {}], [1.0, None, 0], {"events": []}, "text", 5]
    assert [VLLM.read_events(encode(other)) for other in others] == [None] * len(others)
    for bytes_ in (b"", b"\xc1", b"{}", message() + b"\x00", message()[:-1]):
        assert VLLM.read_events(bytes_) is None


def test_unknown_kinds_are_left_out() -> None:
    events = [
        {"type": "BlockMoved", "block_hashes": [1]}, ["BlockMoved", [1]], {"type": ["BlockStored"]}, {}, [], [[]], 5,
        None, "BlockStored", ["AllBlocksCleared"],
    ]  # fmt: skip
    assert read(VLLM, *events) == EventBatch((BlocksCleared(),), 0)


def test_empty_events_say_nothing() -> None:
    empty = STORED | {"block_hashes": [], "token_ids": []}
    assert read(VLLM, empty, {"type": "BlockRemoved", "block_hashes": []}) == EventBatch((), 0)


def test_other_groups_of_a_hybrid_model_are_left_out() -> None:
    sparse = STORED | {"block_hashes": [11], "token_ids": list(range(64)), "group_idx": 1}
    for kind in ("sliding_window", "sliding_window_mla", "mamba", "chunked_local_attention"):
        assert read(VLLM, sparse | {"kv_cache_spec_kind": kind}) == EventBatch((), 0)
    for kind in ("full_attention", "mla_attention", "sink_full_attention"):
        assert stored(VLLM, STORED | {"kv_cache_spec_kind": kind}).kind == kind
        assert read(VLLM, sparse | {"kv_cache_spec_kind": kind}) == EventBatch((), 0, damaged=1)
    assert read(VLLM, sparse) == EventBatch((), 0, damaged=1)


DAMAGED: list[dict[str, Any]] = [
    {"block_hashes": None}, {"block_hashes": 11}, {"block_hashes": {}}, {"block_hashes": [11, 12.5]},
    {"block_hashes": [11, "12"]}, {"block_hashes": [True, 12]}, {"block_hashes": [11, None]}, {"block_hashes": []},
    {"block_hashes": [11]}, {"block_hashes": [11, 12, 13]}, {"parent_block_hash": "10"}, {"parent_block_hash": 1.5},
    {"parent_block_hash": [10]}, {"token_ids": None}, {"token_ids": "1234"}, {"token_ids": b"1234"}, {"token_ids": []},
    {"token_ids": [1, 2, 3, 4, 5]}, {"token_ids": [1, 2]}, {"token_ids": [1, 2, 3, -4]},
    {"token_ids": [1, 2, 3, 2**32]}, {"token_ids": [1, 2, 3, True]}, {"token_ids": [1, 2, 3, 4.5]},
    {"token_ids": [1, 2, 3, float("nan")]}, {"token_ids": [1, 2, 3, [4, 5]]}, {"token_ids": [[1, 2], [2, 3], [3], 4]},
    {"token_ids": [[1, 2, 3], [2, 3, 4], [3, 4, 5]]}, {"token_ids": [[1, 2], [2, 2**40], [3, 4]]},
    {"block_size": 0}, {"block_size": -2}, {"block_size": None}, {"block_size": 2.0}, {"block_size": True},
    {"block_size": "2"}, {"block_size": 2**62, "block_hashes": [11]}, {"medium": 0}, {"lora_name": 5},
    {"extra_keys": "salt"}, {"extra_keys": [None, "salt"]}, {"cache_salt": 1}, {"group_idx": -1}, {"group_idx": "0"},
    {"group_idx": False}, {"kv_cache_spec_kind": 3},
]  # fmt: skip


@pytest.mark.parametrize("change", DAMAGED, ids=repr)
def test_damage_is_counted_and_costs_one_event(change: dict[str, Any]) -> None:
    batch = read(VLLM, STORED | change, {"type": "AllBlocksCleared"})
    assert batch == EventBatch((BlocksCleared(),), 0, damaged=1)


@pytest.mark.parametrize("field", ["block_hashes", "token_ids", "block_size"])
def test_a_missing_field_is_damage(field: str) -> None:
    assert read(VLLM, {name: value for name, value in STORED.items() if name != field}).damaged == 1


@pytest.mark.parametrize("removed", [["BlockRemoved"], ["BlockRemoved", 5], ["BlockRemoved", [1], 5]])
def test_a_damaged_removal_is_counted(removed: list[Any]) -> None:
    assert read(VLLM, removed) == EventBatch((), 0, damaged=1)


@pytest.mark.parametrize(
    "payload",
    [
        b"\x91" * 100_000,
        b"\x93\x01" * 50_000,
        b"\x93\x01\x91\x82\xa4type\xabBlockStored\xa9token_ids" + b"\x91" * 50_000,
        b"\xdd\xff\xff\xff\xff",
        b"\x93\x01\xdd\x7f\xff\xff\xff\xc0",
        b"\x93\x01\x91\xdf\xff\xff\xff\xff",
        b"\x92\x01\xdb\xff\xff\xff\xff",
        b"\x92\x01\x91\x81\x80\x01",  # a map as a key
        b"\x92\xc7\x0c\xff" + b"\xff" * 12,  # a timestamp with too many nanoseconds
        b"\x92\x01\x91\xa1\xff",  # text that is not UTF-8
    ],
)
def test_hostile_bytes_are_no_message(payload: bytes) -> None:
    for engine in DIALECTS.values():
        assert engine.read_events(payload) is None


# What passes for a message may hold anything, under the names and in the places that are read.
NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.sampled_from([-1, 0, 1, 2, 3, 4, 2**32 - 1, 2**32])
LEAVES = (
    NUMBERS | st.none() | st.booleans() | st.floats() | st.binary(max_size=9)
    | st.sampled_from(["", "GPU", "salt", "mla_attention", "mamba", "BlockStored", "BlockRemoved", "AllBlocksCleared"])
)  # fmt: skip
LISTS = st.lists(NUMBERS, max_size=5) | st.lists(st.tuples(NUMBERS, NUMBERS), max_size=5)
VALUES = st.recursive(
    LEAVES | LISTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(list(STORED)), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.sampled_from([*STORED, "extra_keys", "group_idx", "kv_cache_spec_kind", "cache_salt", "of_the_future"])
LIKE_STORED = st.dictionaries(NAMES, VALUES, max_size=3).map(lambda fields: STORED | fields)
LIKE_ARRAYS = st.tuples(
    st.sampled_from(["BlockStored", "BlockRemoved", "AllBlocksCleared", "Other"]), st.lists(VALUES, max_size=11)
).map(lambda parts: [parts[0], *parts[1]])
EVENTS = LIKE_STORED | LIKE_ARRAYS | VALUES
REAL = [payload for folder in ("vllm-0.25.0", "vllm-0.32.0", "sglang-0.5.16") for _, payload in recorded(folder)]


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A recorded message, some of its bits flipped, perhaps cut short; near the start, where the structure is."""
    payload = bytearray(draw(st.sampled_from(REAL)))
    bits = st.integers(0, min(len(payload), 2000) * 8 - 1) | st.integers(0, 600)
    for bit in draw(st.lists(bits, max_size=6)):
        payload[bit // 8] ^= 1 << bit % 8
    return bytes(payload[: draw(st.none() | st.integers(0, len(payload)))])


PAYLOADS = (
    st.lists(EVENTS, max_size=4).map(lambda events: message(*events))
    | VALUES.map(msgspec.msgpack.encode)
    | st.binary(max_size=60)
    | broken()
)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=400)
@given(payload=PAYLOADS)
def test_whatever_arrives_nothing_raises(name: str, payload: bytes) -> None:
    batch = DIALECTS[name].read_events(payload)
    if batch is None:
        return
    assert batch.damaged >= 0
    assert batch.rank is None or batch.rank >= 0
    for event in batch.events:
        if isinstance(event, BlocksCleared):
            continue
        assert event.hashes
        assert all(type(key) in (int, bytes) for key in event.hashes)
        assert event.medium is None or isinstance(event.medium, str)
        assert event.group is None or event.group >= 0
        if isinstance(event, BlocksStored):
            tokens, rest = divmod(len(event.tokens), 4)
            assert rest == 0
            assert (len(event.hashes) - 1) * event.block_tokens < tokens <= len(event.hashes) * event.block_tokens
            assert type(event.parent) in (int, bytes, type(None))
            assert {type(text) for text in (event.adapter, event.salt, event.kind)} <= {str, type(None)}
