"""A publisher of cache events for tests: PUB and ROUTER on free ports, messages that can be lost, and a plain dialect.

A message here is msgpack of a list of words: `+7` stores block 7, `-7` drops it, `0` drops all, `?` is damaged.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from engines.cache_events import BlocksCleared, BlocksRemoved, BlocksStored, CacheEvent, EventBatch, EventSource
from gateway.routing.facts import CacheEvents, CacheFenced, CacheLost, CacheSynced, Fact

END = b"\xff" * 8


class PlainDialect:
    """Reads the messages of tests, and nothing else."""

    def read_events(self, payload: bytes) -> EventBatch | None:
        try:
            words = msgspec.msgpack.decode(payload, type=list[str])
            events = tuple(_event(word) for word in words if word != "?")
        except (msgspec.MsgspecError, ValueError):
            return None
        return EventBatch(events, damaged=words.count("?"))


def _event(word: str) -> CacheEvent:
    if word == "0":
        return BlocksCleared()
    block = int(word[1:])
    return BlocksStored((block,), None, b"", 1) if word[0] == "+" else BlocksRemoved((block,))


def message(*words: str) -> bytes:
    return msgspec.msgpack.encode(words)


class Believer:
    """Believes the facts as a router does: `blocks` are what the rank has, None while that is not known."""

    def __init__(self) -> None:
        self.facts: list[Fact] = []
        self._known: set[int | bytes] = set()
        self._live = False

    @property
    def blocks(self) -> set[int | bytes] | None:
        return set(self._known) if self._live else None

    def observe(self, fact: Fact) -> None:
        self.facts.append(fact)
        match fact:
            case CacheSynced():
                self._live = True
            case CacheFenced():
                assert self._live, "a fence where nothing was believed"
                self._live = False
            case CacheLost():
                self._live = False
                self._known.clear()
            case CacheEvents(events=events):
                for event in events:
                    self._apply(event)

    def _apply(self, event: CacheEvent) -> None:
        if isinstance(event, BlocksStored):
            self._known.update(event.hashes)
        elif isinstance(event, BlocksRemoved):
            self._known.difference_update(event.hashes)
        else:
            self._known.clear()

    def names(self, since: int = 0) -> list[str]:
        """The facts' kinds, of events those in between left out."""
        names = [type(fact).__name__.removeprefix("Cache") for fact in self.facts[since:]]
        return [name for number, name in enumerate(names) if name != "Events" or names[number - 1 : number] != [name]]


class Publisher:
    """One engine's publisher. `layout` is how it replays: "new" with a topic frame, "old" without, None not at all.

    `mute`: replays are asked for and not answered.
    """

    def __init__(
        self, layout: str | None = "new", topic: bytes = b"", kept: int = 10_000, host: str = "127.0.0.1"
    ) -> None:
        self.host = host
        self.layout = layout
        self.topic = topic
        self.kept = kept
        self.port = self.replay_port = 0
        self.asked: list[int] = []
        self.mute = False
        self.left_out: set[int] = set()
        """Numbers that replays leave out, as an engine does that outruns its connection."""
        self._running = False

    @property
    def source(self) -> EventSource:
        replay = f"tcp://{self.host}:{self.replay_port}" if self.layout else None
        return EventSource(0, f"tcp://{self.host}:{self.port}", replay, self.topic.decode())

    def start(self, first: int = 0, history: Iterable[bytes] = ()) -> None:
        """A new process, on the ports of the one before."""
        self.next = first
        self._buffer: deque[tuple[int, bytes]] = deque(maxlen=self.kept)
        self._context = zmq.asyncio.Context()
        self._pub = zmq.Socket(self._context, zmq.PUB)
        self._pub.setsockopt(zmq.SNDHWM, 100_000)
        self.port = self._bind(self._pub, self.port)
        self._router = self._context.socket(zmq.ROUTER)
        self._router.setsockopt(zmq.SNDHWM, 0)
        self.replay_port = self._bind(self._router, self.replay_port)
        self._task = asyncio.create_task(self._replay())
        self._running = True
        for payload in history:
            self.publish(payload)

    async def stop(self) -> None:
        """The process ends, and its connections with it."""
        if self._running:
            self._running = False
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._pub.close(linger=0)
            self._router.close(linger=0)
            self._context.term()

    def begin_anew(self) -> None:
        """A new process behind a proxy that keeps the connections."""
        self._buffer.clear()
        self.next = 0

    def forget_last(self) -> None:
        """No replay gives the last message any more."""
        self._buffer.pop()

    def cut(self) -> None:
        """The connections to subscribers break; the process goes on."""
        self._pub.unbind(f"tcp://{self.host}:{self.port}")
        self._pub.close(linger=0)

    def mend(self) -> None:
        """It listens again after `cut`."""
        self._pub = zmq.Socket(self._context, zmq.PUB)
        self._pub.setsockopt(zmq.SNDHWM, 100_000)
        for _ in range(100):
            try:
                self._bind(self._pub, self.port)
            except zmq.ZMQError:  # the socket before it is closed in the background
                continue
            return

    def publish(self, payload: bytes, *, lose: bool = False) -> None:
        """The next message; a lost one is kept for replays, but not sent."""
        number = self.next
        self.next += 1
        self._buffer.append((number, payload))
        if not lose:
            self.send(number, payload)

    def send(self, number: int, payload: bytes) -> None:
        self.send_frames(self.topic, number.to_bytes(8, "big"), payload)

    def send_frames(self, *frames: bytes) -> None:
        self._pub.send_multipart(frames)

    async def _replay(self) -> None:
        while True:
            client, _, first = await self._router.recv_multipart()
            self.asked.append(int.from_bytes(first, "big"))
            if self.mute:
                continue
            topic = [self.topic] if self.layout == "new" else []
            for number, payload in list(self._buffer):
                if number >= self.asked[-1] and number not in self.left_out:
                    await self._router.send_multipart([client, b"", *topic, number.to_bytes(8, "big"), payload])
            await self._router.send_multipart([client, b"", *([b""] if topic else []), END, b""])

    def _bind(self, socket: Any, port: int) -> int:
        socket.setsockopt(zmq.IPV6, 1)
        socket.bind(f"tcp://{self.host}:{port or '*'}")
        return int(socket.getsockopt(zmq.LAST_ENDPOINT).rpartition(b":")[2].rstrip(b"\0"))


@asynccontextmanager
async def publishing(
    layout: str | None = "new",
    history: Iterable[bytes] = (),
    *,
    topic: bytes = b"",
    kept: int = 10_000,
    host: str = "127.0.0.1",
) -> AsyncIterator[Publisher]:
    """A publisher that runs."""
    publisher = Publisher(layout, topic, kept, host)
    publisher.start(history=history)
    try:
        yield publisher
    finally:
        await publisher.stop()
