"""Sends one answer over HTTP while the engine generates it, and notices a client that leaves; does I/O."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from engines.simulated.breakage import break_body, break_stream
from engines.simulated.faults import Fault
from engines.simulated.frames import Choice, FrameWriter
from engines.simulated.service import EngineService, Ticket

_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


@dataclass(frozen=True, slots=True)
class Manners:
    """How a dialect behaves on the wire. Times are seconds as the client sees them."""

    starts_at_once: bool
    """Whether the headers of a stream come before its first token."""
    stream_abort_delay_s: float = 0.0
    """From the client's leaving a stream to the abort of its request."""
    unary_abort_delay_s: float = 0.0


@dataclass(slots=True)
class Exchange:
    """An ASGI response: the frames of a stream as tokens come, or one body at the end."""

    service: EngineService
    ticket: Ticket
    choices: tuple[Choice, ...]
    writer: FrameWriter
    stream: bool
    manners: Manners
    fault: Fault | None = None
    when_done: Callable[[tuple[Choice, ...]], None] | None = None
    when_left: Callable[[], None] | None = None
    client_left: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer; then, however it ended, leave nothing running."""
        watch = asyncio.create_task(self._watch(receive))
        try:
            if self.stream:
                await self._send_stream(scope, receive, send)
            else:
                await self._send_whole(scope, receive, send)
        finally:
            watch.cancel()
            if not self.client_left:
                self.service.abort(self.ticket.sequences)
            if self.when_left is not None:
                self.when_left()

    async def _watch(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        if self.ticket.is_over:
            return
        self.client_left = True
        manners = self.manners
        delay_s = manners.stream_abort_delay_s if self.stream else manners.unary_abort_delay_s
        if delay_s:
            asyncio.get_running_loop().call_later(delay_s, self.service.abort, self.ticket.sequences)
        else:
            self.service.abort(self.ticket.sequences)
        self.ticket.wake.set()

    async def _send_stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        pending = self.writer.opening()
        started = self.manners.starts_at_once or bool(pending)
        if started:
            await _start(send)
        if pending:
            await _body(send, pending, more=True)
        sent = [0] * len(self.choices)
        ended = [False] * len(self.choices)
        while not self.client_left:
            await self.ticket.progress()
            parts = self._new_frames(sent, ended)
            cut = self.fault is not None and (self.ticket.is_over or sum(sent) >= self.fault.after_tokens)
            over = self.ticket.is_over and not cut
            if over:
                parts.append(self.writer.closing(self.choices))
                self._note_done()
            if self.client_left or not (parts or cut):
                continue
            if parts and not started:
                await _start(send)
                started = True
            if parts:
                await _body(send, b"".join(parts), more=not over)
            if self.fault is not None and cut:
                await break_stream(self.fault, scope, receive, send, started=started)
            if over or cut:
                return

    def _new_frames(self, sent: list[int], ended: list[bool]) -> list[bytes]:
        """Frames of all tokens that came since the last time; several of one wake-up go out in one write."""
        parts = []
        for index, choice in enumerate(self.choices):
            generated = choice.sequence.generated_tokens
            if self.fault is not None:
                generated = min(generated, self.fault.after_tokens)
            if generated > sent[index]:
                parts.append(self.writer.tokens(choice, sent[index], generated))
                sent[index] = generated
            if choice.sequence.finish == "abort" and not ended[index]:
                ended[index] = True
                parts.append(self.writer.aborted(choice))
        return parts

    async def _send_whole(self, scope: Scope, receive: Receive, send: Send) -> None:
        while not self.ticket.is_over:
            await self.ticket.progress()
            if self.client_left:
                return
        body = self.writer.whole(self.choices)
        if self.fault is not None:
            await break_body(self.fault, body, scope, receive, send)
            return
        self._note_done()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _body(send, body, more=False)

    def _note_done(self) -> None:
        if self.when_done is not None:
            self.when_done(self.choices)


async def _start(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})


async def _body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})
