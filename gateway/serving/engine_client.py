"""Pooled HTTP/1.1 connections to engines, on asyncio protocols and httptools; does I/O.

The hot path's half towards the engines: bytes are handed on as they come, nothing is decoded or copied
twice, and reading pauses while the reader is behind.
"""

import asyncio
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import inf
from typing import Final, cast
from urllib.parse import urlsplit

import httptools

Headers = Sequence[tuple[bytes, bytes]]

HIGH_WATER_BYTES: Final = 256 * 1024
IDLE_CONNECTIONS: Final = 256
"""Kept per engine; more may be open while in use."""
_LOOKS_PER_LIMIT: Final = 4
_DELIMITING: Final = frozenset((b"content-length", b"transfer-encoding"))


class EngineGoneError(Exception):
    """The engine could not be reached, broke off, stalled or did not speak HTTP; the message is one sentence."""


class EngineTimeoutError(EngineGoneError):
    """The engine took longer than a time limit."""


class EngineUnreachableError(EngineGoneError):
    """No connection could be made."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """Seconds for a connection to open, for a body to begin where the request says nothing else, between its bytes,
    and for the whole answer.
    """

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 60.0
    total_s: float = 3600.0


@dataclass(frozen=True)
class Origin:
    """Where an engine listens. `prefix` is the base URL's path, put before every target."""

    host: str
    port: int
    tls: bool
    prefix: str

    @cached_property
    def host_header(self) -> bytes:
        """The value of `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}".encode()


@lru_cache(maxsize=1024)
def origin_of(url: str) -> Origin:
    """The origin of a base URL such as `http://10.0.0.1:8000`."""
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    return Origin(parts.hostname or "", parts.port or (443 if tls else 80), tls, parts.path.rstrip("/"))


class EngineResponse:
    """A response whose head has arrived: `status`, `headers`, then its body by one of `read`, `body`, `pipe`.

    `sent_at`: when its request was (seconds on the event loop's clock).
    """

    __slots__ = ("_closed", "_connection", "headers", "sent_at", "status")

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self._closed = False
        self.status = connection.status
        self.headers = connection.headers
        self.sent_at = connection.sent_at

    def header(self, name: bytes) -> bytes:
        """The first value of a header (lower-case name), b"" without one."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    async def read(self) -> bytes:
        """The next bytes of the body as they came, b"" at its end. Raises EngineGoneError."""
        chunk = b"" if self._closed else await self._connection.read()
        if not chunk:
            self.close()
        return chunk

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises EngineGoneError, also when it is longer than the limit."""
        whole = None if self._closed else self._connection.whole()
        if whole is not None and len(whole) <= limit_bytes:  # nearly always, once the head is there
            self.close()
            return whole
        parts: list[bytes] = []
        size = 0
        while chunk := whole or await self.read():
            whole = None
            size += len(chunk)
            if size > limit_bytes:
                self.close()
                raise EngineGoneError(f"the engine's answer is longer than {limit_bytes} bytes")
            parts.append(chunk)
        return b"".join(parts)

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        """Call `sink` with the rest of the body as it comes, in the very moment; until the end, or `close`.

        Raises EngineGoneError, and what `sink` raises.
        """
        if not self._closed:
            await self._connection.pipe(sink)
            self.close()

    def pause(self) -> None:
        """Let the engine wait: what comes is not taken until `resume`."""
        self._connection.pause()

    def resume(self) -> None:
        """Take what comes again."""
        if not self._closed:
            self._connection.resume()

    def close(self) -> None:
        """Done with the response: an unfinished one breaks the connection, which aborts it at the engine."""
        if not self._closed:  # once only: the connection may serve another request by now
            self._closed = True
            self._connection.leave()


class _Engine:
    """One engine's address and its connections that wait for a next request."""

    __slots__ = ("idle", "keeps", "origin", "url")

    def __init__(self, url: str) -> None:
        self.url = url
        self.origin = origin_of(url)
        self.keeps = IDLE_CONNECTIONS
        self.idle: list[_Connection] = []


class EngineClient:
    """Sends requests to engines over kept-alive connections."""

    def __init__(self, limits: TimeLimits | None = None, tls: Callable[[str], ssl.SSLContext] | None = None) -> None:
        """`tls` gives the context of an https:// base URL."""
        self.limits = limits or TimeLimits()
        self._tls = tls or (lambda _url: ssl.create_default_context())
        self._engines: dict[str, _Engine] = {}
        self._open: set[_Connection] = set()
        self._look_later: asyncio.TimerHandle | None = None
        self._every_s = 1.0
        self._allow(min(self.limits.first_byte_s, self.limits.idle_s, self.limits.total_s))

    async def send(
        self, url: str, method: str, target: str, headers: Headers, body: bytes = b"", begin_s: float | None = None
    ) -> EngineResponse:
        """One request; returns when the response's head is there. Raises EngineGoneError.

        The body must begin within `begin_s` seconds (None: as the limits have it).

        A kept connection that the engine closed meanwhile is replaced once; nothing else is tried again here.
        """
        engine = self._engines.get(url)
        if engine is None:
            engine = self._engines[url] = _Engine(url)
        if begin_s is None:
            begin_s = self.limits.first_byte_s
        elif begin_s < self._every_s * _LOOKS_PER_LIMIT:
            self._allow(begin_s)
        head = _request_head(engine.origin, method, target, headers, len(body))
        while True:
            connection = _kept(engine)
            fresh = connection is None
            if connection is None:
                connection = await self._connected(engine)
            try:
                connection.begin(head, body, begin_s)
                await connection.head()
            except EngineGoneError as error:
                stale = not (fresh or connection.heard or isinstance(error, EngineTimeoutError))
                connection.leave()
                if not stale:
                    raise
            except BaseException:
                connection.leave()
                raise
            else:
                return EngineResponse(connection)

    def forget(self, url: str) -> None:
        """Close the connections to an engine that wait for a next request; those in use end by themselves."""
        engine = self._engines.pop(url, None)
        if engine is not None:
            engine.keeps = 0
            for connection in list(engine.idle):
                connection.abort()

    async def close(self) -> None:
        """Close every connection."""
        for connection in list(self._open):
            connection.abort()
        await asyncio.sleep(0)

    async def _connected(self, engine: _Engine) -> "_Connection":
        loop, origin = asyncio.get_running_loop(), engine.origin
        context = self._tls(engine.url) if origin.tls else None
        connection = _Connection(self, engine)
        try:
            async with asyncio.timeout(self.limits.connect_s):
                await loop.create_connection(lambda: connection, origin.host, origin.port, ssl=context)
        except asyncio.CancelledError:
            connection.unwanted()
            raise
        except TimeoutError as error:
            connection.unwanted()
            raise EngineUnreachableError(f"no connection within {self.limits.connect_s:g} s") from error
        except OSError as error:
            raise EngineUnreachableError(f"no connection: {error.strerror or error}") from error
        return connection

    def opened(self, connection: "_Connection") -> None:
        """A connection is open."""
        self._open.add(connection)
        if self._look_later is None:
            self._look()

    def closed(self, connection: "_Connection") -> None:
        """A connection is closed."""
        self._open.discard(connection)
        if not self._open and self._look_later is not None:
            self._look_later.cancel()
            self._look_later = None
        with suppress(ValueError):
            connection.engine.idle.remove(connection)

    def _allow(self, limit_s: float) -> None:
        """A limit so short is to be kept: look often enough."""
        self._every_s = min(self._every_s, limit_s / _LOOKS_PER_LIMIT)

    def _look(self) -> None:
        """Look for silent engines; one look at all connections costs less than a timer for each."""
        loop = asyncio.get_running_loop()
        self._look_later = loop.call_later(self._every_s, self._look)
        now = loop.time()
        for connection in list(self._open):
            connection.look(now)


def _kept(engine: _Engine) -> "_Connection | None":
    """A connection of the engine's that is free: the one used last, as it is the least likely to be closed."""
    idle = engine.idle
    while idle:
        connection = idle.pop()
        if connection.usable:
            return connection
    return None


class _Connection(asyncio.Protocol):
    """One connection: at most one request at a time, its response parsed as it arrives."""

    def __init__(self, client: EngineClient, engine: _Engine) -> None:
        self.engine = engine
        self.heard = False
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.sent_at = 0.0
        self._client = client
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()
        self._busy = False
        self._head_done = False
        self._complete = False
        self._reusable = False
        self._error: Exception | None = None
        self._chunks: list[bytes] = []
        self._buffered = 0
        self._paused = False
        self._sink: Callable[[bytes], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._heard_at = inf
        self._begin_s = self._ends_at = inf
        self._began = False
        self._parser = httptools.HttpResponseParser(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._transport.set_write_buffer_limits(high=0)  # what is written goes out at once
        self._client.opened(self)

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._heard_at = self._loop.time()
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._fail(EngineGoneError("the engine answered with something that is not HTTP"))
        except httptools.HttpParserUpgrade:
            self._fail(EngineGoneError("the engine asked for a protocol upgrade"))
        if self._sink is not None:
            self._deliver(self._sink)
            if self._complete:
                self._wake()
        else:
            if self._head_done:
                self._wake()
            if self._buffered > HIGH_WATER_BYTES:
                self.pause()

    def eof_received(self) -> None:
        return None  # close; connection_lost says what it meant

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.closed(self)
        self._transport = None
        if self._busy and not self._complete and self._error is None:
            delimited = any(name in _DELIMITING for name, _ in self.headers)
            if self._head_done and not delimited and exc is None:
                self._complete = True  # a body that ends with its connection
            else:
                self._error = EngineGoneError("the engine closed the connection before its answer was complete")
        self._wake()

    # httptools callbacks

    def on_message_begin(self) -> None:
        if self._complete:
            raise EngineGoneError("the engine answered more than it was asked")  # ends the connection, no answer
        self.headers = []

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._head_done:
            return  # what follows the body are trailers, which nobody needs
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self._head_done = self.status >= 200  # 100 Continue and its like are followed by the real head

    def on_body(self, body: bytes) -> None:
        self._began = True
        self._chunks.append(body)
        self._buffered += len(body)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            self._reusable = self._parser.should_keep_alive()  # asked later, it denies

    # one request

    @property
    def usable(self) -> bool:
        """Still open."""
        return self._transport is not None and not self._transport.is_closing()

    def begin(self, head: bytes, body: bytes, begin_s: float) -> None:
        """Send a request, whose answer's body must begin within so many seconds."""
        if self._transport is None:
            raise EngineGoneError("the connection was closed")
        self._busy = True
        self.heard = self._head_done = self._complete = self._began = False
        self._error = None
        self.sent_at = self._heard_at = now = self._loop.time()
        self._begin_s = begin_s
        self._ends_at = now + self._client.limits.total_s
        self._transport.writelines((head, body) if body else (head,))

    async def head(self) -> None:
        """Wait for the head of the response."""
        while not self._head_done:
            await self._wait()

    def whole(self) -> bytes | None:
        """The body, if it has come in one piece."""
        return self._take() if self._complete and len(self._chunks) == 1 else None

    async def read(self) -> bytes:
        while not self._chunks:
            if self._complete:
                return b""
            await self._wait()
        chunk = self._take()
        self.resume()
        return chunk

    async def pipe(self, sink: Callable[[bytes], None]) -> None:
        self._sink = sink
        self._deliver(sink)
        while self._busy and not self._complete:
            await self._wait()
        if self._error is not None:
            raise self._error

    def pause(self) -> None:
        if not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self._transport is not None:
            self._paused = False
            self._heard_at = self._loop.time()  # the silence was ours
            self._transport.resume_reading()

    def leave(self) -> None:
        """End of the request: keep the connection if the response was read whole, else break it."""
        if not self._busy:
            return
        self._busy = False
        self._heard_at = self._ends_at = inf
        if self._sink is not None:
            self._sink = None
            self._wake()
        idle = self.engine.idle
        whole = self._complete and self._reusable and not self._chunks and self._error is None
        if whole and self._transport is not None and len(idle) < self.engine.keeps:
            idle.append(self)
        else:
            self.abort()

    def unwanted(self) -> None:
        """Nobody waits for the connection any more. If it is open already, uvloop closes it and says nothing."""
        self.abort()
        self._client.closed(self)

    def abort(self) -> None:
        """Break the connection."""
        if self._transport is not None:
            self._transport.abort()

    def look(self, now: float) -> None:
        """Fail when nothing has been heard for too long; while paused it is the client who is slow."""
        limits = self._client.limits
        limit_s = limits.idle_s if self._began else self._begin_s
        if now >= self._ends_at:
            self._fail(EngineTimeoutError(f"the engine did not end its answer within {limits.total_s:g} s"))
        elif now - self._heard_at >= limit_s and not self._paused:
            what = "stopped in the middle of its answer" if self._began else "began no answer"
            self._fail(EngineTimeoutError(f"the engine {what} for {limit_s:g} s"))

    def _take(self) -> bytes:
        chunks = self._chunks
        chunk = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        self._chunks = []
        self._buffered = 0
        return chunk

    def _deliver(self, sink: Callable[[bytes], None]) -> None:
        if self._chunks:
            try:
                sink(self._take())
            except Exception as error:
                self._fail(error)

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None
        if self._error is not None and not self._chunks:
            raise self._error

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._wake()
        self.abort()


def _request_head(origin: Origin, method: str, target: str, headers: Headers, length: int) -> bytes:
    lines = [f"{method} {origin.prefix}{target} HTTP/1.1\r\nHost: ".encode() + origin.host_header]
    lines += [b"%b: %b" % pair for pair in headers]
    if length or method == "POST":
        lines.append(b"Content-Length: %d" % length)
    lines.append(b"\r\n")
    return b"\r\n".join(lines)
