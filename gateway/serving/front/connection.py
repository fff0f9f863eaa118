"""One client's connection: bytes become requests, which are answered in order, one at a time; does I/O.

An `asyncio.Protocol` that uvicorn is given in place of its own, so that a request's bytes cross as few layers as
can be. Whoever serves the requests is the connection's `Port`.
"""

import asyncio
from collections import deque
from math import inf
from typing import Final, cast

import httptools
from uvicorn import Config as UvicornConfig
from uvicorn.server import ServerState

from gateway.errors import GatewayError, Origin, bad_request
from gateway.serving.front.answer import Answer
from gateway.serving.front.port import Port
from gateway.serving.front.request import HttpRequest

HEAD_BYTES: Final = 64 * 1024
"""The longest head of a request."""
LINGER_S: Final = 2.0
"""How long a client that was cut off may take to read why."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(asyncio.Protocol):
    """Reads requests, has each served by a task of its own, and ends that task when the client leaves."""

    def __init__(
        self, port: Port, config: UvicornConfig, server_state: ServerState, app_state: object, _loop: object = None
    ) -> None:
        del config, app_state, _loop
        self.deadline = inf
        """When the client has taken too long for what it is doing, by the loop's clock."""
        self.congested = False
        self._port = port
        self._state = server_state
        self._loop = port.loop
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._request: HttpRequest | None = None  # the one being read
        self._parts: list[bytes] = []
        self._size = 0
        self._head_bytes = 0
        self._whole: deque[HttpRequest] = deque()  # read, and not yet begun
        self._answer: Answer | None = None  # of the one being served
        self._task: asyncio.Task[None] | None = None
        self._owes_continue = False
        self._deaf = False  # nothing that comes is read any more
        self._last = False  # the connection ends with the present answer
        self._paused = False
        self._clear: asyncio.Future[None] | None = None

    # ── asyncio.Protocol ─────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        self._state.connections.add(self)  # type: ignore[arg-type]  # anything with `shutdown` will do
        self._port.connected(self)
        self.deadline = self._loop.time() + self._port.limits.client_head_s

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._deaf = True
        self._state.connections.discard(self)
        self._port.disconnected(self)
        self.resume_writing()
        self._whole.clear()
        if self._answer is not None:
            self._answer.gone = True
        if self._task is not None:
            self._task.cancel()
            self._state.tasks.discard(self._task)
        if self._request is not None and self._request.refusal is None:
            answer = Answer(self, self._request)
            answer.gone = True
            self._port.abandoned(self._request, answer)
            self._request = None

    def eof_received(self) -> None:
        return None  # close: a client that sends no more has left

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        if self._request is None and self._answer is None:
            self.deadline = self._loop.time() + self._port.limits.client_head_s
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:  # to what we do not speak: answered in HTTP/1.1
            self._parser = httptools.HttpRequestParser(self)
            rest = data[upgrade.args[0] :]
            if rest:
                self.data_received(rest)
            return
        except httptools.HttpParserError as error:
            self._cut_off(bad_request(f"this is not valid HTTP/1.1: {_cause(error)}", code="invalid_http"))
            return
        if self._head_bytes > HEAD_BYTES and self._size == 0:
            self._check_head()

    def pause_writing(self) -> None:
        self.congested = True
        self.deadline = self._loop.time() + self._port.limits.client_body_s

    def resume_writing(self) -> None:
        self.congested = False
        self._expect()
        clear, self._clear = self._clear, None
        if clear is not None and not clear.done():
            clear.set_result(None)
        if self._answer is not None and self._answer.on_cleared is not None:
            self._answer.on_cleared()

    # ── httptools ────────────────────────────────────────────────────────────────────────────────

    def on_message_begin(self) -> None:
        self._request = HttpRequest(self._port.clock())

    def on_url(self, url: bytes) -> None:
        if self._request is not None:
            self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        request = self._request
        if request is not None:
            name = name.lower()
            request.headers.append((name, value))
            request.fields.setdefault(name, value)

    def on_headers_complete(self) -> None:
        request, parser = self._request, self._parser
        if request is None:
            return None
        request.method = parser.get_method().decode("ascii")
        request.http_1_0 = parser.get_http_version() == "1.0"
        request.keep_alive = parser.should_keep_alive()
        if self._head_bytes > HEAD_BYTES and _head_size(request) > HEAD_BYTES:
            return self._cut_off(_head_too_long())
        refusal = self._port.refusal(request)
        if refusal is not None:
            return self._cut_off(refusal)
        if self._answer is None:
            self.deadline = self._loop.time() + self._port.limits.client_body_s
        if b"expect" in request.fields and not request.http_1_0:
            self._owes_continue = True
            self._continue()
        return None

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._parts.append(body)
        self._size += len(body)
        if self._size > self._port.max_body_bytes:
            self._cut_off(self._port.too_long())

    def on_message_complete(self) -> None:
        request = self._request
        if request is None or request.refusal is not None:
            return
        parts = self._parts
        request.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._parts, self._size, self._head_bytes = [], 0, 0
        self._request = None
        self._owes_continue = False
        if self._answer is None:
            self._begin(request)
        else:
            self._whole.append(request)
            if not self._paused and self._transport is not None:
                self._paused = True
                self._transport.pause_reading()

    # ── one answer after the other ───────────────────────────────────────────────────────────────

    def _begin(self, request: HttpRequest) -> None:
        self.deadline = inf
        if self._last:
            request.keep_alive = False
        self._answer = answer = Answer(self, request)
        self._task = task = self._loop.create_task(self._serve(request, answer))
        self._state.tasks.add(task)

    async def _serve(self, request: HttpRequest, answer: Answer) -> None:
        task = cast("asyncio.Task[None]", self._task)
        try:
            await self._port.serve(request, answer)
        except asyncio.CancelledError:
            if not answer.gone and not answer.ended:  # the server does not wait for it any longer
                answer.keep_alive = False
                answer.error(_stopping())
        finally:
            self._state.tasks.discard(task)
            self._answered(answer)

    def _answered(self, answer: Answer) -> None:
        """The present answer is over: go on with the next request, or close."""
        self._answer = self._task = None
        transport = self._transport
        if transport is None:
            return
        if not answer.ended or not answer.keep_alive:
            if answer.ended and self._deaf and self._request is not None:
                self._linger(transport)
            else:
                transport.close()
            return
        if self._whole:
            self._begin(self._whole.popleft())
        elif self._deaf:
            transport.close()
        else:
            self._expect()
            self._continue()
        if self._paused and not self._whole:
            self._paused = False
            transport.resume_reading()

    def _expect(self) -> None:
        """How long the client may take for what it does now."""
        limits = self._port.limits
        if self._answer is not None:
            self.deadline = inf
        else:
            self.deadline = self._loop.time() + (
                limits.client_idle_s if self._request is None else limits.client_body_s
            )

    def _continue(self) -> None:
        """Ask for the body that a client holds back until it is asked, in its turn."""
        if self._owes_continue and self._answer is None:
            self._owes_continue = False
            self.send(_CONTINUE)

    def _cut_off(self, error: GatewayError) -> None:
        """Answer the request being read, or what should have been one, with an error; then read no more."""
        if self._deaf:
            return
        self._deaf = True
        request = self._request or HttpRequest(self._port.clock())
        self._request = request
        request.refusal = error
        request.keep_alive = False
        self._parts = []
        if self._answer is None:
            self._begin(request)
        else:
            self._whole.append(request)

    def _check_head(self) -> None:
        if self._request is not None and self._request.method == "" and not self._deaf:
            self._cut_off(_head_too_long())

    def _linger(self, transport: asyncio.Transport) -> None:
        """Close, but let the client read its answer first: closing on unread bytes would take that away."""
        self.deadline = self._loop.time() + LINGER_S
        self._request = None
        if transport.can_write_eof():
            transport.write_eof()

    # ── what others call ─────────────────────────────────────────────────────────────────────────

    @property
    def date(self) -> bytes:
        """The value of `Date`, as uvicorn renews it every second."""
        return self._state.default_headers[0][1] if self._state.default_headers else b""

    def send(self, data: bytes) -> None:
        """Send bytes to the client."""
        if self._transport is not None:
            self._transport.write(data)

    def cleared(self) -> "asyncio.Future[None]":
        """Done once the client has taken most of what was sent, or has left."""
        if self._clear is None:
            self._clear = self._loop.create_future()
            if not self.congested:
                self._clear.set_result(None)
        return self._clear

    def overdue(self) -> None:
        """The deadline has passed."""
        self.deadline = inf
        if self._transport is None:
            return
        if self._answer is None and self._request is not None and not self._deaf:
            message = "the request did not come whole in time: send it faster, or raise [timeouts] client_body_s"
            self._cut_off(GatewayError(message, status=408, origin=Origin.CLIENT, code="request_timeout"))
        else:
            self._transport.abort() if self.congested else self._transport.close()

    def shutdown(self) -> None:
        """The server stops: what is being answered ends, then the connection does."""
        self._last = True
        if self._answer is not None:
            self._answer.keep_alive = False
        elif self._transport is not None:
            self._transport.close()


def _cause(error: Exception) -> str:
    """Why the bytes are not HTTP, as the parser puts it."""
    return str(error).partition(" ")[2] or str(error)


def _head_size(request: HttpRequest) -> int:
    return len(request.target) + sum(len(name) + len(value) + 4 for name, value in request.headers)


def _head_too_long() -> GatewayError:
    message = f"the request's head is longer than {HEAD_BYTES} bytes"
    return bad_request(message, code="request_header_fields_too_large", status=431)


def _stopping() -> GatewayError:
    return GatewayError(
        "the gateway is stopping: try again",
        status=503,
        origin=Origin.GATEWAY,
        type="service_unavailable",
        code="stopping",
        retry_after_s=1.0,
    )
