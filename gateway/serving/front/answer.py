"""The answer to one request: its head, its body in the framing that the client understands; does I/O."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from math import ceil
from typing import Final, Protocol

from gateway.errors import GatewayError
from gateway.serving.front.request import HttpRequest
from gateway.serving.headers import HeaderList

_STATUS_LINES: Final = {int(status): f"HTTP/1.1 {int(status)} {status.phrase}".encode() for status in HTTPStatus}
_BODILESS: Final = (204, 304)
_JSON: Final[HeaderList] = [(b"content-type", b"application/json")]


class Line(Protocol):
    """What an answer needs of its connection."""

    @property
    def date(self) -> bytes:
        """The value of `Date`."""
        ...

    @property
    def congested(self) -> bool:
        """Whether much of what was sent is kept, since the client does not take it."""
        ...

    def send(self, data: bytes) -> None:
        """Send bytes now, or keep them until the client takes them; nothing once it has left."""

    def cleared(self) -> "asyncio.Future[None]":
        """Done once little is kept, or the client has left."""
        ...


class Answer:
    """`start`, then `write` as often as there is something, then `end`; none of them waits."""

    __slots__ = (
        "_chunked", "_counts", "_line", "ended", "gone", "keep_alive", "more", "on_cleared", "request", "started",
    )  # fmt: skip

    def __init__(self, line: Line, request: HttpRequest) -> None:
        self.gone = False
        """Whether the client has closed its connection; its task is then cancelled."""
        self.started = False
        self.ended = False
        self.on_cleared: Callable[[], None] | None = None
        """Called when a client that was slow has taken most of what was sent."""
        self.more: HeaderList | None = None
        """Headers that the answer has whatever else it has."""
        self.keep_alive = request.keep_alive
        """Whether the connection goes on after this answer."""
        self.request = request
        self._line = line
        self._chunked = False
        self._counts = True  # whether a body is sent

    def start(self, status: int, headers: HeaderList, body: bytes = b"", length: int | None = None) -> None:
        """Send the head, and with it the first bytes of a body of `length` bytes; without that it is chunked.

        `headers` hold neither `date` nor anything about the body's framing.
        """
        self.started = True
        request = self.request
        request.body = b""  # is not asked for again, and is long
        lines = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status]
        lines += [b"%b: %b" % pair for pair in headers]
        if self.more is not None:
            lines += [b"%b: %b" % pair for pair in self.more]
        lines.append(b"date: " + self._line.date)
        if request.method == "HEAD" or status < 200 or status in _BODILESS:
            self._counts = False
        if length is not None:
            lines.append(b"content-length: %d" % length)
        elif not self._counts:
            pass
        elif request.http_1_0:
            self.keep_alive = False  # the body ends with the connection
        else:
            self._chunked = True
            lines.append(b"transfer-encoding: chunked")
        if not self.keep_alive:
            lines.append(b"connection: close")
        elif request.http_1_0:
            lines.append(b"connection: keep-alive")
        if not self._counts:
            body = b""
        elif self._chunked and body:
            body = b"%x\r\n%b\r\n" % (len(body), body)
        lines.append(b"\r\n" + body)
        self._line.send(b"\r\n".join(lines))

    def write(self, data: bytes) -> None:
        """Send bytes of the body."""
        if data and self._counts:
            self._line.send(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def end(self, data: bytes = b"") -> None:
        """Send the last bytes of the body."""
        self.write(data)
        self.ended = True
        if self._chunked:
            self._line.send(b"0\r\n\r\n")

    def whole(self, status: int, headers: HeaderList, body: bytes) -> None:
        """Send an answer in one piece."""
        self.start(status, headers, body, len(body))
        self.ended = True

    def error(self, error: GatewayError, headers: HeaderList = _JSON, body: bytes | None = None) -> None:
        """Send an error in OpenAI's shape or in the words of `body`; in a stream that has begun, as its last frame."""
        if self.started:
            self.end(error.sse_frame(self.request.path))
            return
        if error.retry_after_s is not None:
            headers = [*headers, (b"retry-after", b"%d" % max(1, ceil(error.retry_after_s)))]
        if error.status == 401:
            headers = [*headers, (b"www-authenticate", b"Bearer")]
        self.whole(error.status, headers, error.body() if body is None else body)

    @property
    def congested(self) -> bool:
        """Whether the client is slower than what is written."""
        return self._line.congested

    async def drained(self) -> None:
        """Wait while the client is slow."""
        if self._line.congested:
            await self._line.cleared()
