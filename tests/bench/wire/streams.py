"""Clients of many streams at once: each byte of each is counted, and a stream that differs from the others is told."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import cast
from zlib import crc32

import httptools


@dataclass(slots=True)
class Tally:
    """Of all streams together. `bodies`: how many ended with the same bytes, by their number and checksum."""

    begun: int = 0
    reads: int = 0
    body_bytes: int = 0
    bodies: Counter[tuple[int, int]] = field(default_factory=Counter)
    refused: int = 0
    dropped: int = 0

    async def all_begun(self, count: int) -> None:
        """Wait until so many have begun, or will not."""
        while self.begun + self.dropped < count:  # noqa: ASYNC110 - thousands of them have no one event
            await asyncio.sleep(0.05)


class _Stream(asyncio.Protocol):
    """One connection and its one stream."""

    __slots__ = ("_checksum", "_done", "_parser", "_request", "_size", "_status", "_tally", "_transport")

    def __init__(self, request: bytes, tally: Tally, done: "asyncio.Future[None]") -> None:
        self._request = request
        self._tally = tally
        self._done = done
        self._size = self._checksum = self._status = 0
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type
        self._transport.write(self._request)
        self._request = b""

    def data_received(self, data: bytes) -> None:
        self._tally.reads += 1
        self._parser.feed_data(data)

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._tally.dropped += 1
            self._done.set_result(None)

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._tally.begun += 1

    def on_body(self, body: bytes) -> None:
        self._size += len(body)
        self._tally.body_bytes += len(body)
        self._checksum = crc32(body, self._checksum)

    def on_message_complete(self) -> None:
        if self._status == 200:
            self._tally.bodies[self._size, self._checksum] += 1
        else:
            self._tally.refused += 1
        self._done.set_result(None)
        self._transport.close()


async def open_streams(port: int, source: Iterator[bytes], count: int, tally: Tally) -> "list[asyncio.Future[None]]":
    """Open so many streams, one soon after the other; a future for the end of each."""
    loop = asyncio.get_running_loop()
    ends = []
    for request in (next(source) for _ in range(count)):
        done: asyncio.Future[None] = loop.create_future()
        ends.append(done)
        await loop.create_connection(
            lambda done=done, request=request: _Stream(request, tally, done), "127.0.0.1", port
        )
    return ends
