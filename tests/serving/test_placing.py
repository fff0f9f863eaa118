"""Held requests live: they wait for their replica, and whatever happens meanwhile, each ends once, without a trace."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httpx
import pytest
from fake_engine import DONE, Answer, FakeEngine, Request, fake_engine, frame, response, silence, stream
from gateways import (
    admin,
    chat_bytes,
    gateway_over,
    nothing_is_booked,
    openai_error,
    outcomes,
    post,
    retries,
    until,
    until_refused,
)
from prometheus_client.parser import text_string_to_metric_families
from raw_client import RawClient, raw_client

from engines.reports import ModelCard
from gateway.journal.lines import read_journal
from gateway.routing.chain import PrefixChain
from gateway.routing.curves import ENOUGH
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import FirstToken, ReplicaUp
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.serving.placing import Placer
from gateway.serving.server import RunningGateway

HOLD_MS, PREFILL_MS = 10.0, 60.0
"""Once two requests without a first token are with a replica, all others for it are held: time brings no more."""


def gated(gate: asyncio.Event) -> Answer:
    """An engine that has no first token for anybody until the gate opens."""
    answered = stream(frame("one"), frame("two"), DONE)

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answered(request, writer)

    return answer


def teach(router: Router) -> None:
    """Curves that were learned from prefills of so long."""
    for replica in router._fleet.replicas:
        for _ in range(ENOUGH):
            replica.learn(10, PREFILL_MS)


@asynccontextmanager
async def holding(*engines: FakeEngine, **tables: object) -> AsyncIterator[RunningGateway]:
    """A gateway that holds early, and has measured its engines."""
    urls = [engine.url for engine in engines]
    async with gateway_over(*urls, routing={"hold_ms": HOLD_MS}, **tables) as run:
        teach(run.gateway.router)
        yield run


def ask(run: RunningGateway, count: int, **headers: str) -> list[asyncio.Task[httpx.Response]]:
    """So many streams at a time."""
    bodies = [chat_bytes(f"hello {number}", stream=True) for number in range(count)]
    return [asyncio.create_task(post(run, body, headers=headers)) for body in bodies]


def held(run: RunningGateway) -> int:
    return run.gateway.router.holds


def sent(run: RunningGateway) -> int:
    return sum(replica.inflight for replica in run.gateway.snapshot().replicas)


async def nothing_is_left(run: RunningGateway) -> None:
    await until(lambda: nothing_is_booked(run))
    assert held(run) == run.gateway.snapshot().held == 0
    assert run.gateway.placer._waiting == {}


async def all_served(answers: Sequence[asyncio.Task[httpx.Response]]) -> None:
    for answer in await asyncio.gather(*answers):
        assert answer.status_code == 200, answer.text
        assert answer.content.endswith(DONE)


# ── they wait, and are served ────────────────────────────────────────────────────────────────────


async def test_they_are_held_and_shown_and_all_served() -> None:
    gate = asyncio.Event()
    async with fake_engine(gated(gate)) as engine, holding(engine) as run, admin(run) as http:
        answers = ask(run, 6)
        await until(lambda: (sent(run), held(run)) == (2, 4))
        assert (await http.get("/api/snapshot")).json()["snapshot"]["held"] == 4
        assert (await samples(http))["prefixgate_held_requests"] == 4
        assert len(engine.requests) == 2
        gate.set()
        await all_served(answers)
        assert len(engine.requests) == 6
        assert outcomes(run) == {"completed": 6}
        after = await samples(http)
        assert after["prefixgate_held_requests"] == 0
        assert after["prefixgate_held_seconds_count"] == 6
        assert after["prefixgate_held_seconds_sum"] > 4 * (PREFILL_MS - HOLD_MS) / 1000
        waited_s, worked_s = after["prefixgate_held_seconds_sum"], after["prefixgate_overhead_seconds_sum"]
        assert worked_s < waited_s / 2, "waiting is not our work"
        await nothing_is_left(run)


async def samples(http: httpx.AsyncClient) -> dict[str, float]:
    """Samples of the metrics, without labels."""
    families = text_string_to_metric_families((await http.get("/metrics")).text)
    return {sample.name: sample.value for family in families for sample in family.samples}


async def test_time_alone_lets_them_go() -> None:
    """No fact comes: the engine is silent, and is only polled once a minute."""
    async with fake_engine(silence()) as engine, holding(engine, polling={"interval_s": 60}) as run:
        async with raw_client(run.url) as first, raw_client(run.url) as second:
            for http in (first, second):
                await http.post(chat_bytes(stream=True))
            await until(lambda: (sent(run), held(run)) == (2, 0))
            await first.leave()
            await second.leave()
        await nothing_is_left(run)


async def test_none_is_held_unless_it_is_wished() -> None:
    gate = asyncio.Event()
    async with fake_engine(gated(gate)) as engine, gateway_over(engine.url, routing={"hold_ms": 0}) as run:
        teach(run.gateway.router)
        answers = ask(run, 6)
        await until(lambda: len(engine.requests) == 6)
        gate.set()
        await all_served(answers)


async def test_two_of_one_id_are_both_answered() -> None:
    gate = asyncio.Event()
    async with fake_engine(gated(gate)) as engine, holding(engine) as run:
        answers = ask(run, 2)
        await until(lambda: (sent(run), held(run)) == (2, 0))
        answers += ask(run, 2, **{"x-request-id": "twice"})
        await until(lambda: (sent(run), held(run)) == (2, 2))
        gate.set()
        await all_served(answers)
        assert [answer.result().headers["x-request-id"] for answer in answers[2:]] == ["twice", "twice"]
        assert outcomes(run) == {"completed": 4}
        await nothing_is_left(run)


# ── clients who leave ────────────────────────────────────────────────────────────────────────────


async def test_a_client_who_leaves_while_it_is_held(tmp_path: Path) -> None:
    gate, path = asyncio.Event(), tmp_path / "requests.jsonl"
    async with fake_engine(gated(gate)) as engine, holding(engine, journal={"path": str(path)}) as run:
        answers = ask(run, 3)
        await until(lambda: (sent(run), held(run)) == (2, 1))
        async with raw_client(run.url) as http:
            await http.post(chat_bytes("leaving", stream=True), x_request_id="leaving")
            await until(lambda: held(run) == 2)
            await http.leave()
            await until(lambda: held(run) == 1)
        assert outcomes(run) == {"client_gone": 1}
        assert retries(run) == 0
        assert sent(run) == 2
        assert "leaving" not in run.gateway.live_ids
        gate.set()
        await all_served(answers)
        await nothing_is_left(run)
        assert outcomes(run) == {"client_gone": 1, "completed": 3}
        assert [b"leaving" in request.body for request in engine.requests] == [False] * 3
    lines = read_journal(path.read_bytes().splitlines(keepends=True)).lines
    gone, *rest = sorted(lines, key=lambda line: line.outcome)
    assert (gone.outcome, gone.attempts, gone.replica) == ("client_gone", 0, "")
    assert [line.outcome for line in rest] == ["completed"] * 3
    assert sorted(bool(line.routed_ms and line.routed_ms > PREFILL_MS / 2) for line in rest) == [False, True, True]


async def test_all_leave() -> None:
    async with fake_engine(silence()) as engine, holding(engine) as run:
        clients = [await connected(run) for _ in range(8)]
        await until(lambda: (sent(run), held(run)) == (2, 6))
        for http in clients:
            await http.leave()
        await until(lambda: outcomes(run) == {"client_gone": 8})
        await nothing_is_left(run)


async def connected(run: RunningGateway) -> RawClient:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(run.url.rpartition(":")[2]))
    http = RawClient(reader, writer)
    await http.post(chat_bytes(stream=True))
    return http


# ── replicas that go ─────────────────────────────────────────────────────────────────────────────


async def test_an_engine_dies_and_those_held_for_it_go_to_the_other() -> None:
    gate = asyncio.Event()
    async with (
        fake_engine(gated(gate)) as dying,
        fake_engine(gated(gate)) as staying,
        holding(dying, staying, polling={"interval_s": 0.05}) as run,
    ):
        answers = ask(run, 8)
        await until(lambda: (sent(run), held(run)) == (4, 4))
        dying.pages["/health"] = response(b"", 503)
        await until(lambda: run.gateway.snapshot().replicas[0].state == "down")
        assert held(run) == 4, "the other one is busy"
        dying.break_connections()
        await until(lambda: retries(run) == 2)
        gate.set()
        await all_served(answers)
        assert {answer.result().headers["x-prefixgate-replica"] for answer in answers} == {"p-1"}
        assert outcomes(run) == {"completed": 8}
        await nothing_is_left(run)


async def test_with_all_engines_down_they_are_told_to_come_again() -> None:
    gate = asyncio.Event()
    async with fake_engine(gated(gate)) as engine, holding(engine, polling={"interval_s": 0.05}) as run:
        answers = ask(run, 6)
        await until(lambda: (sent(run), held(run)) == (2, 4))
        engine.pages["/health"] = response(b"", 503)
        await until(lambda: held(run) == 0)
        gate.set()
        results = await asyncio.gather(*answers)
        refused = [answer for answer in results if answer.status_code != 200]
        assert len(refused) == 4
        for answer in refused:
            assert answer.status_code == 503
            assert openai_error(answer)["code"] == "no_replica"
            assert int(answer.headers["retry-after"]) >= 1
        assert outcomes(run) == {"completed": 2, "rejected": 4}
        await nothing_is_left(run)


# ── the end ──────────────────────────────────────────────────────────────────────────────────────


async def test_a_gateway_that_stops_serves_those_it_holds() -> None:
    gate = asyncio.Event()
    async with fake_engine(gated(gate)) as engine, holding(engine) as run:
        answers = ask(run, 6)
        await until(lambda: (sent(run), held(run)) == (2, 4))
        run.stop()
        await until_refused(run.url)
        assert held(run) == 4
        gate.set()
        await all_served(answers)
        await until(lambda: outcomes(run) == {"completed": 6})
        await nothing_is_left(run)


async def test_those_still_held_when_its_patience_ends_are_let_go() -> None:
    async with fake_engine(silence()) as engine:
        async with holding(engine, server={"drain_s": 1}) as run:
            answers = ask(run, 6)
            await until(lambda: (sent(run), held(run)) == (2, 4))
            run.stop()
        assert {answer.status_code for answer in await asyncio.gather(*answers)} == {503}
        assert sum(outcomes(run).values()) == 6
        await nothing_is_left(run)


# ── the placer alone ─────────────────────────────────────────────────────────────────────────────


class Placing:
    """A placer over a router of one busy replica, and one request that is held."""

    def __init__(self) -> None:
        self.now = 100.0
        specs = [PoolSpec("p", "m", (ReplicaSpec("r", "http://r"),))]
        self.router = Router(specs, rng=Random(1), hold_ms=HOLD_MS)
        self.router.observe(ReplicaUp("r", self.now, (ModelCard("m"),)))
        teach(self.router)
        self.placer = Placer(self.router, lambda: self.now)
        busy = self.router.route(self.request("busy"), self.now)
        assert isinstance(busy, Decision)
        self.busy = busy
        self.task = asyncio.create_task(self.placer.place(self.request("held")))

    def request(self, name: str) -> RouteRequest:
        return RouteRequest(name, "m", PrefixChain(), True, self.now)

    def free(self) -> None:
        self.router.observe(FirstToken(self.busy.ticket, self.now))

    async def left(self) -> tuple[int, int, int]:
        """Held, in flight and waiting, after the task was cancelled."""
        with pytest.raises(asyncio.CancelledError):
            await self.task
        self.placer.close()
        return self.router.holds, self.router.snapshot(self.now).replicas[0].inflight, len(self.placer._waiting)


async def test_the_answer_says_how_long_it_was_held() -> None:
    one = Placing()
    await asyncio.sleep(0)
    one.now += 3
    one.free()
    one.placer.look()
    answer, held_s = await one.task
    assert (answer.ticket, held_s) == (one.busy.ticket + 1, 3.0)  # type: ignore[union-attr]
    one.placer.close()


async def test_who_leaves_first_is_withdrawn() -> None:
    one = Placing()
    await asyncio.sleep(0)
    one.task.cancel()
    assert await one.left() == (0, 1, 0)


async def test_who_leaves_with_its_answer_on_the_way_is_booked_out() -> None:
    """Its answer came in this turn of the loop, and so did its cancellation."""
    one = Placing()
    await asyncio.sleep(0)
    one.free()
    one.placer.look()
    assert one.router.snapshot(one.now).replicas[0].inflight == 2
    one.task.cancel()
    assert await one.left() == (0, 1, 0)


async def test_whose_answer_comes_after_it_has_left_is_booked_out() -> None:
    one = Placing()
    await asyncio.sleep(0)
    one.task.cancel()
    one.free()
    one.placer.look()
    assert await one.left() == (0, 1, 0)


async def test_a_look_with_nobody_waiting_is_nothing() -> None:
    one = Placing()
    one.task.cancel()
    one.placer.look()
    one.placer.close()
    with pytest.raises(asyncio.CancelledError):
        await one.task
    assert one.placer._timer is None
