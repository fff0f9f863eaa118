"""One client's connection: its requests are answered in order, one at a time; does I/O.

An `asyncio.Protocol` that uvicorn is given in place of its own, so that a request's bytes cross as few layers as
can be. Whoever serves the requests is the connection's `Port`.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from inspect import CORO_CREATED, getcoroutinestate
from math import inf
from typing import Final, cast

from uvicorn import Config as UvicornConfig
from uvicorn.server import ServerState

from gateway.errors import GatewayError, Origin
from gateway.serving.front.answer import Answer
from gateway.serving.front.port import Port
from gateway.serving.front.reader import RequestReader
from gateway.serving.front.request import HttpRequest

LINGER_S: Final = 2.0
"""How long a client that was cut off may take to read why."""
PIPELINED: Final = 32
PIPELINED_BYTES: Final = 256 * 1024
"""How many requests, and how much of bodies, may wait for their turn before a client has to."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class ClientConnection(RequestReader, asyncio.Protocol):
    """Has each request served by a task of its own, and ends that task when the client leaves."""

    __slots__ = (
        "_answer", "_clear", "_last", "_loop", "_owes_continue", "_paused", "_state", "_task", "_transport", "_whole",
        "congested", "deadline",
    )  # fmt: skip

    def __init__(
        self, port: Port, config: UvicornConfig, server_state: ServerState, app_state: object, _loop: object = None
    ) -> None:
        del config, app_state, _loop
        super().__init__(port)
        self.deadline = inf
        """When the client has taken too long for what it is doing, by the loop's clock."""
        self.congested = False
        self._state = server_state
        self._loop = port.loop
        self._transport: asyncio.Transport | None = None
        self._whole: deque[HttpRequest] = deque()  # read, and not yet begun
        self._answer: Answer | None = None  # of the one being served
        self._task: asyncio.Task[None] | None = None
        self._owes_continue = False
        self._last = False  # the server stops: what has come is answered, and no more
        self._paused = False
        self._clear: asyncio.Future[None] | None = None

    # ── asyncio.Protocol ─────────────────────────────────────────────────────────────────────────

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but its base class
        # What is written goes out at once, and little is kept; at 0, TLS transports pause with nothing kept at all.
        self._transport.set_write_buffer_limits(high=1)
        self._state.connections.add(self)  # type: ignore[arg-type]  # anything with `shutdown` will do
        is_full, is_flooded = self._port.is_full, self._port.is_flooded
        self._port.connected(self)
        self.deadline = self._loop.time() + self._port.limits.client_head_s
        if is_flooded:
            self._transport.abort()
        elif is_full:
            self._cut_off(self._port.full())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._deaf = True
        self._state.connections.discard(self)
        self._port.disconnected(self)
        self.resume_writing()
        task, answer = self._task, self._answer
        if task is not None and answer is not None:
            answer.gone = True
            task.cancel()
            self._state.tasks.discard(task)
            if getcoroutinestate(cast("Coroutine[None, None, None]", task.get_coro())) == CORO_CREATED:
                self._abandon(answer.request)  # a task that is cancelled before it began says nothing
        for request in self._whole:
            self._abandon(request)
        self._whole.clear()
        if self._request is not None:
            self._abandon(self._request)
            self._request = None

    def eof_received(self) -> None:
        if self._answer is not None and self._transport is not None:
            self._transport.abort()  # a client that sends no more has left

    def pause_writing(self) -> None:
        self.congested = True
        self.deadline = self._loop.time() + self._port.limits.client_body_s

    def resume_writing(self) -> None:
        self.congested = False
        clear, self._clear = self._clear, None
        if clear is not None and not clear.done():
            clear.set_result(None)
        if self._answer is None and self._whole and self._transport is not None:
            self._begin_next(self._transport)
            return
        self._expect()
        if self._answer is not None and self._answer.on_cleared is not None:
            self._answer.on_cleared()

    # ── requests, as they are read ───────────────────────────────────────────────────────────────

    def _allow(self, seconds: float) -> None:
        if self._answer is None and not self.congested:
            self.deadline = self._loop.time() + seconds

    def _body_held_back(self) -> None:
        self._owes_continue = True
        self._continue()

    def _received(self, request: HttpRequest) -> None:
        self._owes_continue = False
        if self._answer is None and not self.congested:
            self._begin(request)
        else:
            self._whole.append(request)
            self._pause_reading()

    # ── one answer after the other ───────────────────────────────────────────────────────────────

    def _begin(self, request: HttpRequest) -> None:
        self.deadline = inf
        if (self._last or self._port.leaving) and not self._whole and self._request is None:
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
        if not answer.ended:
            self._close(transport)
        elif not answer.keep_alive:
            self._part(transport)
        elif self._whole:
            if not self.congested:  # else the client first takes what it was sent
                self._begin_next(transport)
        elif self._last and self._request is None:
            self._part(transport)
        else:
            self._expect()
            self._continue()

    def _begin_next(self, transport: asyncio.Transport) -> None:
        self._begin(self._whole.popleft())
        if self._paused and not self._whole:
            self._paused = False
            transport.resume_reading()

    def _pause_reading(self) -> None:
        """Once enough waits; not before, since a client that leaves is only noticed by reading."""
        waiting, transport = self._whole, self._transport
        if self._paused or transport is None:
            return
        if len(waiting) >= PIPELINED or sum(len(request.body) for request in waiting) >= PIPELINED_BYTES:
            self._paused = True
            transport.pause_reading()

    def _expect(self) -> None:
        """How long the client may take for what it does now."""
        limits = self._port.limits
        if self._answer is not None:
            self.deadline = inf
        elif not self.congested:
            self.deadline = self._loop.time() + (
                limits.client_idle_s if self._request is None else limits.client_body_s
            )

    def _continue(self) -> None:
        """Ask for the body that a client holds back until it is asked, in its turn."""
        if self._owes_continue and self._answer is None:
            self._owes_continue = False
            self.send(_CONTINUE)

    # ── ends ─────────────────────────────────────────────────────────────────────────────────────

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
        if self._answer is None and not self.congested:
            self._begin(request)
        else:
            self._whole.append(request)

    def _part(self, transport: asyncio.Transport) -> None:
        """Close after an answer; a client that still sends is let read it first, as unread bytes would take it away."""
        if self._request is None and not self._paused:
            self._close(transport)
            return
        self._deaf = True
        self._request = None
        self._whole.clear()
        self.deadline = self._loop.time() + LINGER_S
        if self._paused:
            self._paused = False
            transport.resume_reading()
        if transport.can_write_eof():
            transport.write_eof()

    def _close(self, transport: asyncio.Transport) -> None:
        """Close as soon as the client has taken what it was sent."""
        self._whole.clear()
        self.deadline = self._loop.time() + self._port.limits.client_body_s
        transport.close()

    def _abandon(self, request: HttpRequest) -> None:
        """The client left before its request was begun."""
        if request.refusal is None:
            answer = Answer(self, request)
            answer.gone = True
            self._port.abandoned(request, answer)

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
        transport = self._transport
        if transport is None:
            return
        if self.congested or transport.is_closing():
            transport.abort()
        elif self._answer is None and self._request is not None:
            message = "the request did not come whole in time: send it faster, or raise [timeouts] client_body_s"
            self._cut_off(GatewayError(message, status=408, origin=Origin.CLIENT, code="request_timeout"))
        else:
            self._close(transport)

    def shutdown(self) -> None:
        """The server stops: what has come is answered, then the connection ends; said again: now."""
        hurry, self._last = self._last, True
        if self._answer is not None:
            if not self._whole and self._request is None:
                self._answer.keep_alive = False
        elif self._request is None:
            if self._transport is not None:
                self._close(self._transport)
        elif hurry:
            self._cut_off(_stopping())


def _stopping() -> GatewayError:
    return GatewayError(
        "the gateway is stopping: try again",
        status=503,
        origin=Origin.GATEWAY,
        type="service_unavailable",
        code="stopping",
        retry_after_s=1.0,
    )
