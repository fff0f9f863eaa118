"""Traffic of every kind at once: conversations, new prompts, streams, mistakes, failing engines, leaving clients."""

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import cast

import httptools

from wire.load import posted, words
from wire.upstream import BREAK, FAIL

CONVERSATIONS = 200
TURNS = 6
TENANTS = 5_000
LATER_S = 0.003
_STREAM = b'"stream":true'


@dataclass(frozen=True, slots=True)
class Ask:
    """A request, the status that it should get, and after how many bytes of its answer its client leaves."""

    kind: str
    data: bytes
    status: int
    leaves_after: int | None = None


class Traffic:
    """Draws one request after the other, so many in all, or until it is told to end."""

    def __init__(self, seed: int, most: int) -> None:
        self._left = most
        self._rng = Random(seed)
        self._told = [self._system() for _ in range(CONVERSATIONS)]
        self._turns = [self._rng.randrange(TURNS) for _ in range(CONVERSATIONS)]
        self._weights = {
            self._turn: 40, self._streamed_turn: 20, self._new: 15, self._page: 5, self._not_json: 4, self._no_model: 3,
            self._failing: 3, self._breaking: 3, self._leaving_at_once: 3, self._leaving_a_stream: 4,
        }  # fmt: skip

    def end(self) -> None:
        """No more requests."""
        self._left = 0

    @property
    def over(self) -> bool:
        """Whether all have been drawn."""
        return self._left <= 0

    def draw(self) -> Ask | None:
        """The next request."""
        if self.over:
            return None
        self._left -= 1
        [kind] = self._rng.choices(list(self._weights), self._weights.values())
        return kind()

    def _system(self) -> bytes:
        return b'{"role":"system","content":"%b"}' % words(self._rng, 4_096)

    def _chat(self, messages: bytes, *members: bytes) -> bytes:
        rng = self._rng
        members = (*members, b'"user":"user-%d"' % rng.randrange(TENANTS), b'"messages":[%b]' % messages)
        return posted(b",".join(members), b"authorization: Bearer key-%d\r\n" % rng.randrange(TENANTS))

    def _next_turn(self) -> bytes:
        one = self._rng.randrange(CONVERSATIONS)
        if self._turns[one] == TURNS:
            self._turns[one], self._told[one] = 0, self._system()
        self._turns[one] += 1
        self._told[one] += b',{"role":"user","content":"%b"}' % words(self._rng, 2_048)
        return self._told[one]

    def _short(self) -> bytes:
        return b'{"role":"user","content":"%b"}' % words(self._rng, 500)

    def _turn(self) -> Ask:
        return Ask("turn", self._chat(self._next_turn()), 200)

    def _streamed_turn(self) -> Ask:
        return Ask("streamed turn", self._chat(self._next_turn(), _STREAM), 200)

    def _new(self) -> Ask:
        return Ask("new prompt", self._chat(b'{"role":"user","content":"%b"}' % words(self._rng, 16_000)), 200)

    def _page(self) -> Ask:
        return Ask("page", b"GET /v1/models HTTP/1.1\r\nhost: bench\r\n\r\n", 200)

    def _not_json(self) -> Ask:
        return Ask("not JSON", posted(b"{"), 400)

    def _no_model(self) -> Ask:
        return Ask("unknown model", posted(b'"messages":[%b],"model":"model-%d"' % (self._short(), id(self))), 404)

    def _failing(self) -> Ask:
        return Ask("engine fails", self._chat(self._short(), FAIL), 500)

    def _breaking(self) -> Ask:
        return Ask("engine breaks off", self._chat(self._short(), BREAK, _STREAM), 200)

    def _leaving_at_once(self) -> Ask:
        return Ask("leaves at once", self._chat(self._short(), _STREAM), 200, leaves_after=0)

    def _leaving_a_stream(self) -> Ask:
        return Ask("leaves a stream", self._chat(self._short(), _STREAM), 200, leaves_after=1_000)


@dataclass(slots=True)
class Tally:
    """What became of the requests: by kind and status; 0: the client left; -1: its connection was closed on it."""

    ends: Counter[tuple[str, int]] = field(default_factory=Counter)
    surprises: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Those of them with another status than they should have."""

    @property
    def requests(self) -> int:
        """All of them."""
        return self.ends.total()


class _Visit(asyncio.Protocol):
    """One connection: request after request, until one of them ends it."""

    def __init__(self, traffic: Traffic, tally: Tally, over: "asyncio.Future[None]") -> None:
        self._traffic = traffic
        self._tally = tally
        self._over = over
        self._ask: Ask | None = None
        self._got = 0
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by type
        self._next()

    def _next(self) -> None:
        self._ask, self._got = ask, _ = self._traffic.draw(), 0
        if ask is None:
            self._transport.close()
            return
        self._transport.write(ask.data)
        if ask.leaves_after == 0:
            self._loop.call_later(LATER_S, self._leave, ask)

    def _leave(self, ask: Ask) -> None:
        if self._ask is ask:
            self._end(0)
            self._transport.abort()

    def _end(self, status: int) -> None:
        ask, self._ask = self._ask, None
        if ask is not None:
            self._tally.ends[ask.kind, status] += 1
            if status != ask.status and status != 0:
                self._tally.surprises[ask.kind, status] += 1

    def data_received(self, data: bytes) -> None:
        self._got += len(data)
        self._parser.feed_data(data)
        ask = self._ask
        if ask is not None and ask.leaves_after and self._got >= ask.leaves_after:
            self._leave(ask)

    def on_message_complete(self) -> None:
        self._end(self._parser.get_status_code())
        if self._parser.should_keep_alive():
            self._loop.call_soon(self._next)
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._end(-1)
        if not self._over.done():
            self._over.set_result(None)


async def visit(port: int, traffic: Traffic, tally: Tally, connections: int) -> None:
    """Send it all over so many connections at a time; a client that has left comes again."""
    loop = asyncio.get_running_loop()

    async def visitor() -> None:
        while not traffic.over:
            over: asyncio.Future[None] = loop.create_future()
            await loop.create_connection(partial(_Visit, traffic, tally, over), "127.0.0.1", port)
            await over

    await asyncio.gather(*(visitor() for _ in range(connections)))
