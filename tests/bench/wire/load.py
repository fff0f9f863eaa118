"""A load generator that is not the bottleneck: closed-loop connections that send ready bytes and look for the end."""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random
from typing import cast

from wire.upstream import MODEL

MOST_S = 300.0
"""For all requests of one call: a router that hangs ends the benchmark."""
_END_OF_CHUNKS = b"0\r\n\r\n"


@dataclass(slots=True)
class Outcome:
    """What came of the requests: seconds each took, chunks of streams, and answers other than 200."""

    seconds: list[float] = field(default_factory=list)
    chunks: int = 0
    refused: list[bytes] = field(default_factory=list)


def requests(size: int, seed: int, *, stream: bool = False) -> Iterator[bytes]:
    """Chat requests whose bodies are about `size` bytes: a system prompt that all share, then what none shares."""
    rng = Random(seed)
    shared = words(Random(0), max(size // 2 - 100, 50))
    own = max(size - len(shared) - 150, 50)
    flag = b'"stream":true,' if stream else b""
    while True:
        system, user = b'{"role":"system","content":"%b"}' % shared, b'{"role":"user","content":"%b"}' % words(rng, own)
        yield posted(b'%b"max_tokens":64,"messages":[%b,%b]' % (flag, system, user))


def posted(fields: bytes, headers: bytes = b"") -> bytes:
    """A whole request; `fields` are of its body, beside the model, `headers` whole lines."""
    body = b'{"model":"%b",%b}' % (MODEL.encode(), fields)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: bench\r\ncontent-type: application/json\r\n" + headers
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def words(rng: Random, size: int) -> bytes:
    """Text of about so many bytes, that does not repeat."""
    return rng.randbytes(size // 2 + 1).hex(" ", 3).encode()[:size]


class _Client(asyncio.Protocol):
    """One connection, one request at a time, until there are none left."""

    def __init__(self, source: Iterator[bytes], outcome: Outcome, done: asyncio.Future[None]) -> None:
        self._source = source
        self._outcome = outcome
        self._done = done
        self._answer = bytearray()
        self._expected: int | None = None
        self._began = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type
        self._next()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("closed amid the benchmark"))

    def _next(self) -> None:
        request = next(self._source, None)
        if request is None:
            self._done.set_result(None)
            self._transport.close()
            return
        self._answer.clear()
        self._expected = None
        self._began = time.perf_counter()
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        answer += data
        if self._expected is None:
            end = answer.find(b"\r\n\r\n")
            if end < 0:
                return
            head = bytes(answer[:end]).lower()
            at = head.find(b"\r\ncontent-length:")
            self._expected = 0 if at < 0 else end + 4 + int(head[at + 17 :].split(b"\r\n", 1)[0])
            if not answer.startswith(b"HTTP/1.1 200"):
                self._outcome.refused.append(bytes(answer[:300]))
        if len(answer) >= self._expected if self._expected else answer.endswith(_END_OF_CHUNKS):
            self._outcome.seconds.append(time.perf_counter() - self._began)
            self._outcome.chunks += answer.count(b"data: ")
            self._next()


async def send(port: int, source: Iterator[bytes], connections: int) -> Outcome:
    """Send all requests of `source` over so many connections at a time."""
    loop = asyncio.get_running_loop()
    outcome = Outcome()
    ends = []
    for _ in range(connections):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        await loop.create_connection(lambda done=done: _Client(source, outcome, done), "127.0.0.1", port)
    async with asyncio.timeout(MOST_S):
        await asyncio.gather(*ends)
    return outcome
