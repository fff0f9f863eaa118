"""KV events on the wire: encodings of both engines, sequence numbers, replay, and that they tell the whole cache."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest
import zmq
import zmq.asyncio

from engines.simulated.cache import hash_blocks, root_of
from engines.simulated.kv_events import event_encoder
from engines.simulated.sequences import BlocksCleared, BlocksRemoved, BlocksStored
from engines.simulated.tokens import from_ids

HIGH = b"\xff" * 32
LOW = b"\x01" * 32
STORED = BlocksStored(LOW, (HIGH,), from_ids([5, 6]), None, None)
SALTED = BlocksStored(None, (LOW, HIGH), from_ids([1, 2, 3, 4]), "s", None)
ONES = 0x0101010101010101


def test_vllm_maps() -> None:
    encode = event_encoder("vllm", "map", 2)
    assert encode(STORED) == {
        "type": "BlockStored",
        "block_hashes": [2**64 - 1],
        "parent_block_hash": ONES,
        "token_ids": [5, 6],
        "block_size": 2,
        "lora_id": None,
        "medium": "GPU",
        "lora_name": None,
        "extra_keys": [None],
        "group_idx": 0,
        "kv_cache_spec_kind": "mla_attention",
    }
    salted = encode(SALTED)
    assert isinstance(salted, dict)
    assert salted["extra_keys"] == [["s"], None]
    adapted = encode(BlocksStored(None, (LOW, HIGH), from_ids([1, 2, 3, 4]), "s", "lora"))
    assert isinstance(adapted, dict)
    assert (adapted["lora_name"], adapted["extra_keys"]) == ("lora", [["lora", "s"], ["lora"]])
    removed = {"type": "BlockRemoved", "block_hashes": [2**64 - 1], "medium": "GPU", "group_idx": 0}
    assert encode(BlocksRemoved(HIGH)) == removed
    assert encode(BlocksCleared()) == {"type": "AllBlocksCleared"}


def test_sglang_maps() -> None:
    encode = event_encoder("sglang", "map", 2)
    plain = {"type": "BlockStored", "block_hashes": [-1], "parent_block_hash": ONES, "token_ids": [5, 6]}
    assert encode(STORED) == {**plain, "block_size": 2, "lora_id": None, "medium": "GPU"}
    salted = encode(SALTED)
    assert isinstance(salted, dict)
    assert salted["cache_salt"] == "s"
    assert encode(BlocksRemoved(HIGH)) == {"type": "BlockRemoved", "block_hashes": [-1], "medium": "GPU"}


def test_arrays() -> None:
    sglang, vllm = event_encoder("sglang", "array", 2), event_encoder("vllm", "array", 2)
    assert sglang(STORED) == ["BlockStored", [-1], ONES, [5, 6], 2, None, "GPU"]
    assert sglang(SALTED)[7] == {"cache_salt": "s"}  # type: ignore[index]
    assert sglang(BlocksCleared()) == ["AllBlocksCleared"]
    tail = [None, [None], 0, "mla_attention"]
    assert vllm(STORED) == ["BlockStored", [2**64 - 1], ONES, [5, 6], 2, None, "GPU", *tail]
    assert vllm(BlocksRemoved(LOW)) == ["BlockRemoved", [ONES], "GPU", 0]


async def find_ports(client: httpx.AsyncClient, dialect: str) -> tuple[int, int]:
    """Ports of events and replay, from where the engine says them."""
    if dialect == "vllm":
        source = (await client.get("/kv_event_sources")).json()["0"]
        return int(source["endpoint"].rpartition(":")[2]), int(source["replay_endpoint"].rpartition(":")[2])
    events = (await client.get("/server_info")).json()["kv_events"]
    return events["endpoint_port_base"], events["replay_endpoint_port_base"]


async def replay(port: int, first: int) -> list[list[bytes]]:
    """All batches from a sequence number on, as topic, number, payload."""
    with zmq.asyncio.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.setsockopt(zmq.LINGER, 0)
        dealer.connect(f"tcp://127.0.0.1:{port}")
        await dealer.send_multipart([b"", b"too", b"many", b"frames"])
        await dealer.send_multipart([b"", first.to_bytes(8, "big")])
        batches = []
        while (frames := await asyncio.wait_for(dealer.recv_multipart(), 30))[2] != b"\xff" * 8:
            assert frames[0] == b""
            batches.append(frames[1:])
        assert frames[1:] == [b"", b"\xff" * 8, b""]
        return batches


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_the_events_of_a_server_tell_its_whole_cache(dialect: str, connect: Any) -> None:
    ports = {"kv_events_port": 0, "kv_events_replay_port": 0, "kv_events_topic": "kv@here"}
    small = {"block_tokens": 4, "kv_tokens": 4096, "chunk_tokens": 8192, "default_output_tokens": 8}
    async with connect(dialect=dialect, **ports, **small) as client:
        prompt = list(range(40))
        for body in ({"prompt": prompt}, {"prompt": prompt, "cache_salt": "s"}):
            answer = await client.post("/v1/completions", json={**body, "max_tokens": 3})
            assert answer.status_code == 200
        cleared = await client.post("/reset_prefix_cache" if dialect == "vllm" else "/flush_cache")
        assert cleared.status_code == 200
        _, replay_port = await find_ports(client, dialect)
        batches = await replay(replay_port, 0)
        later = await replay(replay_port, 1)
    assert [number for _, number, _ in batches] == [n.to_bytes(8, "big") for n in range(len(batches))]
    assert later == batches[1:]
    assert {topic for topic, _, _ in batches} == {b"kv@here"}
    events = []
    for _, _, payload in batches:
        timestamp, batch, rank = msgspec.msgpack.decode(payload)
        assert timestamp > 1.6e9
        assert rank == 0
        events += batch
    assert [event["type"] for event in events] == ["BlockStored", "BlockStored", "AllBlocksCleared"]
    for event, salt in zip(events, (None, "s"), strict=False):
        chain = hash_blocks(from_ids(prompt), 4, root_of(salt, None))
        numbers = [int.from_bytes(block[:8], "big", signed=dialect == "sglang") for block in chain]
        assert event["block_hashes"] == numbers
        assert event["token_ids"] == prompt
        assert event["parent_block_hash"] is None


async def test_a_subscriber_hears_of_what_is_evicted(connect: Any) -> None:
    small = {"block_tokens": 4, "kv_tokens": 64, "kv_events_port": 0, "kv_events_replay_port": 0}
    async with connect(**small) as client:
        port, _ = await find_ports(client, "vllm")
        with zmq.asyncio.Context() as context, context.socket(zmq.SUB) as subscriber:
            subscriber.setsockopt(zmq.LINGER, 0)
            subscriber.subscribe(b"")
            subscriber.connect(f"tcp://127.0.0.1:{port}")
            kinds: set[str] = set()
            number = 0
            while "BlockRemoved" not in kinds:  # a subscription takes effect some time after it is made
                number += 1
                body = {"prompt": list(range(number * 100, number * 100 + 40)), "max_tokens": 2}
                assert (await client.post("/v1/completions", json=body)).status_code == 200
                while await subscriber.poll(20):
                    _, _, payload = await subscriber.recv_multipart()
                    kinds |= {event["type"] for event in msgspec.msgpack.decode(payload)[1]}
    assert kinds == {"BlockStored", "BlockRemoved"}


async def test_without_a_port_there_are_no_events(connect: Any) -> None:
    async with connect() as client:
        assert (await client.get("/kv_event_sources")).json() == {}
    async with connect(dialect="sglang") as client:
        assert (await client.get("/server_info")).json()["kv_events"] is None


async def test_a_taken_port_is_said_clearly(connect: Any) -> None:
    async with connect(kv_events_port=0, kv_events_replay_port=0) as client:
        port, _ = await find_ports(client, "vllm")
        with pytest.raises(RuntimeError, match="Address already in use"):
            async with connect(kv_events_port=port):
                pass
