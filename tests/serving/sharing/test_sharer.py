"""The sharer between a router and a channel: tells, hears, catches up, and waits for nobody."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from gateways import until

from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing.batch import Batch, encoded
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, FirstToken, LoadReported, Outcome, ReplicaUp
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.serving.sharing import sharer as timing
from gateway.serving.sharing.channel import START, Channel, ChannelError, Kept, News
from gateway.serving.sharing.embedded import EmbeddedChannel
from gateway.serving.sharing.hub import Hub
from gateway.serving.sharing.sharer import Sharer

Connect = Callable[[], Awaitable[Channel]]
TEXT = b"x" * 4096


class Side:
    """A router of one replica, and its sharer."""

    def __init__(self, channel: Channel) -> None:
        self.router = Router([PoolSpec("p", "m", (ReplicaSpec("r", "http://r"),))])
        description = EngineDescription(reports_cached_tokens=True)
        self.router.observe(ReplicaUp("r", 0.0, (ModelCard("m"),), description))
        self.router.observe(LoadReported("r", 0.0, LoadReport(kv_capacity_tokens=100_000, block_tokens=16)))
        self.sharer = Sharer(channel, self.router, self.router.observe, time.monotonic)

    def route(self, text: bytes = TEXT) -> Decision:
        now = time.monotonic()
        answer = self.router.route(RouteRequest("id", "m", chain(b"m", text), True, now), now)
        assert isinstance(answer, Decision)
        return answer

    def serve(self, text: bytes = TEXT) -> None:
        decision = self.route(text)
        self.router.observe(FirstToken(decision.ticket, time.monotonic()))
        usage = Usage(decision.chosen.prompt_tokens, 1, decision.chosen.cached_tokens)
        self.router.observe(Finished(decision.ticket, time.monotonic(), Outcome.COMPLETED, usage))

    def cached(self, text: bytes = TEXT) -> int:
        now = time.monotonic()
        preview = self.router.preview(RouteRequest("id", "m", chain(b"m", text), True, now), now)
        assert isinstance(preview, Decision)
        return preview.chosen.cached_tokens

    @property
    def heard(self) -> int:
        (view,) = self.router.snapshot(time.monotonic()).replicas
        return view.peers_inflight


@asynccontextmanager
async def sides(connect: Connect, count: int) -> AsyncIterator[list[Side]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            side = Side(await connect())
            await side.sharer.start()
            stack.push_async_callback(side.sharer.stop)
            made.append(side)
        yield made


async def test_what_one_learns_the_others_know(connect: Connect) -> None:
    async with sides(connect, 3) as (one, two, three):
        decision = one.route()
        await until(lambda: two.heard == three.heard == 1)
        assert one.heard == 0
        one.router.observe(FirstToken(decision.ticket, time.monotonic()))
        await until(lambda: two.cached() > 900 < three.cached())
        one.router.observe(Finished(decision.ticket, time.monotonic(), Outcome.COMPLETED))
        await until(lambda: two.heard == three.heard == 0)
        two.serve(b"y" * 4096)
        await until(lambda: one.cached(b"y" * 4096) > 900 < three.cached(b"y" * 4096))
        status = one.sharer.status
        assert (status.connected, status.reason, status.peers, status.dropped) == (True, "", 1, 0)
        assert status.sent >= 2
        assert status.received >= 1
        assert status.lag_s is not None
        assert status.lag_s < 1


async def test_it_is_known_within_a_few_hundredths_of_a_second(connect: Connect) -> None:
    async with sides(connect, 2) as (one, two):
        delays = []
        for number in range(20):
            text = bytes([number]) * 2048
            one.serve(text)
            began = time.monotonic()
            async with asyncio.timeout(5):
                while not two.cached(text):  # noqa: ASYNC110 - what is waited for has no event
                    await asyncio.sleep(0.001)
            delays.append(time.monotonic() - began)
        assert sorted(delays)[10] < 0.2


async def test_a_latecomer_begins_with_the_snapshot_and_what_came_after(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "KEEP_EVERY_S", 0.2)
    async with sides(connect, 1) as (old,):
        old.serve(b"a" * 4096)
        other = await connect()
        async with asyncio.timeout(10):
            while (kept := await other.load()) is None or kept.position == START:  # noqa: ASYNC110 - no event says so
                await asyncio.sleep(0.05)
        monkeypatch.setattr(timing, "KEEP_EVERY_S", 60)
        old.serve(b"b" * 4096)
        await until(lambda: old.sharer.status.sent >= 2)
        new = Side(await connect())
        await new.sharer.start()
        assert new.cached(b"a" * 4096) == old.cached(b"a" * 4096) > 900
        assert new.cached(b"b" * 4096) == old.cached(b"b" * 4096) > 900
        assert new.sharer.status.snapshot == "began with one that was kept"
        assert new.router.snapshot(0.0).series == ()
        await new.sharer.stop()


async def test_a_latecomer_without_a_snapshot_hears_what_is_kept_of_the_log(connect: Connect) -> None:
    async with sides(connect, 1) as (old,):
        for number in range(150):
            old.serve(bytes([number]) * 2048)
            if number % 10 == 0:
                await asyncio.sleep(timing.TELL_EVERY_S)
        await until(lambda: old.sharer.status.sent >= 150)
        async with sides(connect, 1) as (new,):
            assert new.cached(bytes([0]) * 2048) == old.cached(bytes([0]) * 2048) > 0
            assert new.cached(bytes([149]) * 2048) == old.cached(bytes([149]) * 2048) > 0
            assert new.heard == 0


@pytest.mark.parametrize("payload", [b"rubbish", b"\x98\x63\x00\x00\x00\x00\x00\x00\x00"])
async def test_a_snapshot_of_no_use_is_refused_and_said(connect: Connect, payload: bytes) -> None:
    channel = await connect()
    await channel.append("somebody", b"not a batch")
    await channel.save(Kept("0-1" if channel.name == "redis" else "0", payload))
    async with sides(connect, 2) as (one, two):
        assert one.sharer.status.snapshot.startswith("the one that was kept is of no use: it ")
        assert one.sharer.status.dropped == 1
        one.serve()
        await until(lambda: two.cached() > 900)


async def test_who_says_goodbye_has_nothing_booked_at_once(connect: Connect) -> None:
    async with sides(connect, 2) as (one, two):
        leaving = Side(await connect())
        await leaving.sharer.start()
        leaving.route()
        await until(lambda: one.heard == two.heard == 1)
        await leaving.sharer.stop()
        await until(lambda: one.heard == two.heard == 0)
        assert one.sharer.status.peers <= 1


async def test_who_falls_silent_is_let_go(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ALIVE_EVERY_S", 0.1)
    monkeypatch.setattr(timing, "SILENCE_S", 0.5)
    async with sides(connect, 2) as (one, two):
        await until(lambda: one.sharer.status.peers == 1)
        three = Side(await connect())
        await three.sharer.start()
        three.route()
        await until(lambda: one.heard == 1)
        for task in three.sharer._tasks:
            task.cancel()
        await until(lambda: one.heard == two.heard == 0)
        await until(lambda: one.sharer.status.peers == two.sharer.status.peers == 1)


async def test_a_long_backlog_lets_requests_through(connect: Connect) -> None:
    channel = await connect()
    source = Side(channel)
    for number in range(300):
        for other in range(30):
            source.serve(bytes([number % 256, other]) * 2048)
        batch = source.sharer._outbox.take(time.monotonic())
        assert batch is not None
        await channel.append("source", encoded(Batch("source", number + 1, batch.sent_at, batch.records)))
    async with sides(connect, 1) as (new,):
        most, before = 0, new.sharer.status.received
        async with asyncio.timeout(30):
            while before < 9000:
                await asyncio.sleep(0)
                received = new.sharer.status.received
                most, before = max(most, received - before), received
        assert 0 < most <= 60  # records, in one turn of the event loop: a batch or two, then others


# ── a channel that does not work ─────────────────────────────────────────────────────────────────


class BrokenChannel:
    """Fails, or hangs, as it is told to."""

    name = "redis"

    def __init__(self) -> None:
        self.fails = True
        self.hangs = False
        self.said: list[tuple[str, bytes]] = []

    async def _maybe(self) -> None:
        while self.hangs:  # noqa: ASYNC110 - a test's flag
            await asyncio.sleep(0.01)
        if self.fails:
            raise ChannelError("Redis at nowhere: no route")

    async def open(self) -> None:
        await self._maybe()

    async def append(self, sender: str, payload: bytes) -> None:
        await self._maybe()
        self.said.append((sender, payload))

    async def read(self, after: str) -> News:
        await asyncio.sleep(0.02)
        await self._maybe()
        return News(after, [])

    async def load(self) -> Kept | None:
        await self._maybe()
        return None

    async def save(self, kept: Kept) -> None:
        await self._maybe()

    async def turn(self, for_s: float) -> bool:
        await self._maybe()
        return False

    async def close(self) -> None:
        pass


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "PATIENCE_S", 0.2)
    monkeypatch.setattr(timing, "_BACKOFF_S", (0.02, 0.05))


async def test_down_at_the_start_costs_a_moment_and_is_said_once(
    impatient: None, caplog: pytest.LogCaptureFixture
) -> None:
    channel = BrokenChannel()
    side = Side(channel)
    began = time.monotonic()
    await side.sharer.start()
    assert time.monotonic() - began < 1
    await asyncio.sleep(0.3)
    assert side.sharer.status.reason == "Redis at nowhere: no route"
    assert not side.sharer.status.connected
    assert sum("no route; this gateway goes on" in line for line in caplog.messages) == 1
    side.serve()
    channel.fails = False
    await until(lambda: side.sharer.status.connected)
    await until(lambda: len(channel.said) > 0)
    assert side.sharer.status.sent == 1
    channel.fails = True
    await until(lambda: not side.sharer.status.connected)
    assert sum("no route; this gateway goes on" in line for line in caplog.messages) == 2
    await side.sharer.stop()


async def test_a_channel_that_hangs_holds_nothing_but_a_bounded_outbox(impatient: None) -> None:
    channel = BrokenChannel()
    channel.fails = False
    side = Side(channel)
    await side.sharer.start()
    channel.hangs = True
    for number in range(9000):
        side.serve(bytes([number % 251]) * 512)
    await asyncio.sleep(0.1)
    assert len(side.sharer._outbox) <= 8192
    assert side.sharer.status.dropped > 0
    channel.hangs = False
    await until(lambda: len(side.sharer._outbox) == 0)
    assert side.sharer.status.sent + side.sharer.status.dropped >= 9000
    await side.sharer.stop()


async def test_stopping_waits_for_no_channel(impatient: None) -> None:
    channel = BrokenChannel()
    side = Side(channel)
    await side.sharer.start()
    await asyncio.wait_for(side.sharer.stop(), 1)


async def test_workers_go_on_without_their_parent(impatient: None) -> None:
    hub = Hub()
    ours, theirs = socket.socketpair()
    await hub.attach(ours)
    side = Side(EmbeddedChannel(theirs))
    await side.sharer.start()
    assert side.sharer.status.connected
    await hub.close()
    await until(lambda: not side.sharer.status.connected)
    assert "the process that started this worker is gone" in side.sharer.status.reason
    side.serve()
    assert side.cached() > 0
    await side.sharer.stop()
