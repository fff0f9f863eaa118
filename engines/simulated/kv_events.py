"""Publishes what happens to the prefix cache as KV events over ZMQ, in each engine's own encoding; does I/O."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from engines.simulated import tokens
from engines.simulated.published import Engine
from engines.simulated.sequences import BlocksRemoved, BlocksStored, CacheEvent
from engines.simulated.settings import EventEncoding

_BUFFER_BATCHES = 10_000
_HIGH_WATER_MARK = 100_000
_END_OF_REPLAY = (-1).to_bytes(8, "big", signed=True)

Event = dict[str, Any] | list[Any]


def event_encoder(engine: Engine, encoding: EventEncoding, block_tokens: int) -> Callable[[CacheEvent], Event]:
    """How this engine puts one cache event on the wire, before msgpack.

    vLLM: hashes are unsigned, one group of blocks (`group_idx` 0). SGLang: hashes are signed. Arrays are what both
    sent before maps; their missing tail fields are left out as the engines do.
    """
    write = _write_vllm if engine == "vllm" else _write_sglang

    def encode(event: CacheEvent) -> Event:
        fields = write(event, block_tokens)
        if encoding == "map":
            return fields
        # Arrays are positional: SGLang's has its extras as one map at the end, and only when there are any.
        values = [fields.pop(name) for name in tuple(fields) if name != "cache_salt"]
        return [*values, fields] if fields else values

    return encode


def _write_vllm(event: CacheEvent, block_tokens: int) -> dict[str, Any]:
    if isinstance(event, BlocksStored):
        extra: list[list[str] | None] = [[event.adapter] if event.adapter else None for _ in event.hashes]
        if event.cache_salt is not None and event.parent is None:
            extra[0] = [*(extra[0] or ()), event.cache_salt]
        return {
            "type": "BlockStored",
            "block_hashes": [_hash_number(block, signed=False) for block in event.hashes],
            "parent_block_hash": None if event.parent is None else _hash_number(event.parent, signed=False),
            "token_ids": tokens.to_ids(event.tokens),
            "block_size": block_tokens,
            "lora_id": None,
            "medium": "GPU",
            "lora_name": event.adapter,
            "extra_keys": extra,
            "group_idx": 0,
            "kv_cache_spec_kind": "mla_attention",
        }
    if isinstance(event, BlocksRemoved):
        hashes = [_hash_number(event.block, signed=False)]
        return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU", "group_idx": 0}
    return {"type": "AllBlocksCleared"}


def _write_sglang(event: CacheEvent, block_tokens: int) -> dict[str, Any]:
    if isinstance(event, BlocksStored):
        salted = {} if event.cache_salt is None else {"cache_salt": event.cache_salt}
        return {
            "type": "BlockStored",
            "block_hashes": [_hash_number(block, signed=True) for block in event.hashes],
            "parent_block_hash": None if event.parent is None else _hash_number(event.parent, signed=True),
            "token_ids": tokens.to_ids(event.tokens),
            "block_size": block_tokens,
            "lora_id": None,
            "medium": "GPU",
            **salted,
        }
    if isinstance(event, BlocksRemoved):
        hashes = [_hash_number(event.block, signed=True)]
        return {"type": "BlockRemoved", "block_hashes": hashes, "medium": "GPU"}
    return {"type": "AllBlocksCleared"}


def _hash_number(block: bytes, *, signed: bool) -> int:
    return int.from_bytes(block[:8], "big", signed=signed)


class KvEventPublisher:
    """A PUB socket for batches of events, and a ROUTER socket that replays the last 10,000 of them.

    A batch is three frames: topic, sequence number (8 bytes, big-endian, from 0), msgpack of `[ts, events, rank]`.
    """

    def __init__(
        self, host: str, port: int, replay_port: int | None, topic: str, encode: Callable[[CacheEvent], Event]
    ) -> None:
        self._topic = topic.encode()
        self._encode = encode
        self._next_number = 0
        self._to_lose = 0
        self._buffer: deque[tuple[bytes, bytes]] = deque(maxlen=_BUFFER_BATCHES)
        self._context = zmq.asyncio.Context()
        self._publisher = zmq.Socket(self._context, zmq.PUB)
        self._replayer: zmq.asyncio.Socket | None = None
        self._replay_task: asyncio.Task[None] | None = None
        try:
            self._publisher.setsockopt(zmq.SNDHWM, _HIGH_WATER_MARK)
            self.port = _bind(self._publisher, host, port)
            self.replay_port = None
            if replay_port is not None:
                self._replayer = self._context.socket(zmq.ROUTER)
                self.replay_port = _bind(self._replayer, host, replay_port)
                self._replay_task = asyncio.create_task(self._replay(self._replayer))
        except zmq.ZMQError:
            self._close_sockets()
            raise

    def publish(self, events: Sequence[CacheEvent]) -> None:
        """Send the events of one step as one batch; nothing for none. Never waits: a slow subscriber loses batches."""
        if not events:
            return
        payload = msgspec.msgpack.encode([time.time(), [self._encode(event) for event in events], 0])
        number = self._next_number.to_bytes(8, "big")
        self._next_number += 1
        self._buffer.append((number, payload))
        if self._to_lose:
            self._to_lose -= 1
            return
        self._publisher.send_multipart([self._topic, number, payload])

    def lose(self, batches: int) -> None:
        """Fault injection: this many of the next batches reach no subscriber; a replay still has them."""
        self._to_lose = batches

    async def close(self) -> None:
        """Close both sockets; what is still on its way is dropped."""
        if self._replay_task is not None:
            self._replay_task.cancel()
            await asyncio.gather(self._replay_task, return_exceptions=True)
        self._close_sockets()

    def _close_sockets(self) -> None:
        self._publisher.close(linger=0)
        if self._replayer is not None:
            self._replayer.close(linger=0)
        self._context.term()

    async def _replay(self, router: zmq.asyncio.Socket) -> None:
        """Answer requests of `[client, b"", first number]` with every batch from there on, then the end marker."""
        while True:
            frames = await router.recv_multipart()
            if len(frames) != 3 or len(frames[2]) != 8:
                continue
            client, _, first = frames
            for number, payload in list(self._buffer):
                if number >= first:
                    await router.send_multipart([client, b"", self._topic, number, payload])
            await router.send_multipart([client, b"", b"", _END_OF_REPLAY, b""])


def _bind(socket: Any, host: str, port: int) -> int:
    """Bind a TCP port (0: a free one) and return its number."""
    address = "*" if host in ("0.0.0.0", "::") else host  # noqa: S104 - what the user asked for
    socket.bind(f"tcp://{address}:{port or '*'}")
    return int(socket.getsockopt(zmq.LAST_ENDPOINT).rpartition(b":")[2].rstrip(b"\0"))
