"""Overload live: the queue's bounds and deadlines, priorities, what clients are told, and engines that refuse."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import httpx
import pytest
from fake_engine import COMPLETION, DONE, Answer, FakeEngine, Request, fake_engine, frame, in_turn, stream, whole
from gateways import (
    admin,
    chat,
    chat_bytes,
    gateway_over,
    nothing_is_booked,
    openai_error,
    outcomes,
    post,
    retries,
    until,
)
from prometheus_client.parser import text_string_to_metric_families
from tenants import key_of, tenant

from gateway.config import build
from gateway.journal.lines import read_journal
from gateway.routing.curves import ENOUGH
from gateway.serving.server import RunningGateway

BUSY = whole(b'{"error":{"message":"The server is busy","type":"Service Unavailable","param":null,"code":503}}', 503)
LIMITED = whole(b'{"error":{"message":"slow down","type":"rate_limit","param":null,"code":429}}', 429)
BUSY_FRAME = b'data: {"error":{"object":"error","message":"The request queue is full.","type":"503","code":503}}\n\n'
HOLD_MS, PREFILL_MS = 10.0, 60.0


@asynccontextmanager
async def gated(
    tenants: Sequence[dict[str, object]] = (), **queue: object
) -> AsyncIterator[tuple[RunningGateway, FakeEngine, asyncio.Event]]:
    """A gateway over one engine, which is busy with two requests of `first` until the gate opens."""
    gate, answered = asyncio.Event(), stream(frame("one"), DONE)

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await answered(request, writer)

    async with (
        fake_engine(answer) as engine,
        gateway_over(engine.url, routing={"hold_ms": HOLD_MS}, queue=queue, tenants=list(tenants)) as run,
    ):
        [replica] = run.gateway.router._fleet.replicas
        for _ in range(ENOUGH):
            replica.learn(10, PREFILL_MS)
        busy = [ask(run, key_of("first") if tenants else "first") for _ in range(2)]
        await until(lambda: len(engine.requests) == 2)
        yield run, engine, gate
        gate.set()
        for one in await asyncio.gather(*busy):
            assert one.status_code == 200
        await until(lambda: nothing_is_booked(run))
        assert run.gateway.router.holds == 0
        assert run.gateway.placer._waiting == {}


def ask(run: RunningGateway, key: str = "a", **headers: str) -> asyncio.Task[httpx.Response]:
    """A stream, asked for with that key."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.create_task(post(run, chat_bytes(stream=True), headers={"authorization": f"Bearer {key}", **named}))


async def held(run: RunningGateway, count: int) -> None:
    await until(lambda: run.gateway.router.holds == count)


async def samples(run: RunningGateway, name: str) -> dict[tuple[str, ...], float]:
    async with admin(run) as http:
        families = text_string_to_metric_families((await http.get("/metrics")).text)
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if sample.name == f"prefixgate_{name}"
    }


def refused(answer: httpx.Response, code: str) -> None:
    assert answer.status_code == 429
    error = openai_error(answer)
    assert (error["code"], error["type"], error["param"]) == (code, "overloaded", None)
    assert 1 <= int(answer.headers["retry-after"]) <= 60
    assert answer.headers["x-request-id"]


# ── bounds ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_full_queue_gives_the_place_of_batch_to_interactive() -> None:
    async with gated(max_requests=2) as (run, engine, gate):
        batch = [ask(run, "b", x_priority="Batch") for _ in range(2)]
        await held(run, 2)
        assert await samples(run, "queue_depth") == {("interactive",): 0, ("batch",): 2}
        interactive = [ask(run) for _ in range(2)]
        for one in await asyncio.gather(*batch):
            refused(one, "queue_full")
        await held(run, 2)
        refused(await ask(run, "c", x_priority="batch"), "queue_full")
        assert await samples(run, "queue_depth") == {("interactive",): 2, ("batch",): 0}
        assert await samples(run, "shed_total") == {("batch", "queue_full"): 3}
        assert (await samples(run, "queue_waiting_tokens"))["interactive",] > 0
        gate.set()
        for one in await asyncio.gather(*interactive):
            assert one.status_code == 200
        await until(lambda: outcomes(run) == {"completed": 4, "rejected": 3})
        assert (await samples(run, "queue_wait_seconds_count"))["interactive",] >= 2
        assert len(engine.requests) == 4


async def test_a_tenant_of_more_weight_may_have_more_waiting() -> None:
    """Two of the heavy one's are less of its share than one of a light one's is of its own."""
    tenants = [tenant("first"), tenant("heavy", weight=3), tenant("light"), tenant("new")]
    async with gated(tenants, max_requests=3) as (run, _engine, gate):
        heavy = [ask(run, key_of("heavy")) for _ in range(2)]
        await held(run, 2)
        light = ask(run, key_of("light"))
        await held(run, 3)
        new = ask(run, key_of("new"))
        done, _ = await asyncio.wait([*heavy, light, new], return_when=asyncio.FIRST_COMPLETED)
        for one in done:
            refused(one.result(), "queue_full")
        assert not done & {*heavy}
        gate.set()
        assert [(await one).status_code for one in heavy] == [200, 200]
        assert sorted([(await light).status_code, (await new).status_code]) == [200, 429]


async def test_engines_are_not_told_of_our_own_headers() -> None:
    async with gated() as (run, engine, gate):
        gate.set()
        answer = await ask(run, x_priority="batch", x_prefixgate_deadline_ms="5000")
        assert answer.status_code == 200
        assert not {"x-priority", "x-prefixgate-deadline-ms"} & engine.requests[-1].headers.keys()


# ── deadlines ────────────────────────────────────────────────────────────────────────────────────


async def test_whose_time_passes_while_it_waits_is_told() -> None:
    async with gated(interactive_deadline_s=0.4) as (run, engine, _):
        refused(await ask(run), "queue_deadline")
        assert len(engine.requests) == 2
        assert outcomes(run) == {"rejected": 1}
        assert await samples(run, "shed_total") == {("interactive", "queue_deadline"): 1}


@pytest.mark.parametrize("given", ["200", "0"])
async def test_a_client_may_be_in_more_of_a_hurry(given: str) -> None:
    async with gated() as (run, _, _gate):
        patient = ask(run)
        await held(run, 1)
        refused(await ask(run, x_prefixgate_deadline_ms=given), "queue_deadline")
        assert run.gateway.router.holds == 1
        patient.cancel()
        await held(run, 0)


@pytest.mark.parametrize("given", ["", "soon", "-5", "1e3", "9" * 40])
async def test_a_deadline_that_is_none_is_ignored(given: str) -> None:
    async with gated() as (run, _, gate):
        waiting = ask(run, x_prefixgate_deadline_ms=given)
        await held(run, 1)
        gate.set()
        assert (await waiting).status_code == 200


async def test_when_too_many_wait_the_next_is_refused_at_once() -> None:
    """Also before anything has been made of its prompt; another tenant has its own share."""
    async with gated(interactive_deadline_s=20.0) as (run, engine, gate):
        waiting: list[asyncio.Task[httpx.Response]] = []
        answer = None
        while answer is None:
            one = ask(run)
            waiting.append(one)
            await asyncio.sleep(0)
            await until(lambda one=one: one.done() or run.gateway.router.holds == len(waiting))  # type: ignore[misc]
            answer = one.result() if one.done() else None
            assert len(waiting) < 3000
        refused(answer, "queue_deadline")
        waiting.pop()
        other = ask(run, "another")
        await held(run, len(waiting) + 1)
        assert len(engine.requests) == 2
        gate.set()
        for one in await asyncio.gather(*waiting, other):
            assert one.status_code == 200


async def test_tenants_have_the_weights_of_the_configuration_also_after_a_reload() -> None:
    def tenant(name: str, weight: float) -> dict[str, object]:
        return {"name": name, "keys": ["sha256:" + sha256(name.encode()).hexdigest()], "weight": weight}

    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann", 2.0), tenant("bob", 1)]) as run:
        limits = run.gateway.router._queue.limits
        assert [limits.weight(name) for name in ("ann", "bob", "stranger")] == [2.0, 1.0, 1.0]
        pool = {"name": "p", "engine": "vllm", "replicas": [engine.url], "model": "m"}
        changed = {"pools": [pool], "tenants": [tenant("ann", 0.5)], "queue": {"max_requests": 7}}
        run.gateway.renew_tenants(build(changed))
        limits = run.gateway.router._queue.limits
        assert (limits.weight("ann"), limits.max_requests) == (0.5, 7)


# ── engines that refuse ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("busy", [BUSY, LIMITED, stream(BUSY_FRAME, DONE)])
async def test_who_was_refused_by_a_busy_engine_is_asked_for_again(busy: Answer, tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    async with (
        fake_engine(in_turn(busy, busy, whole())) as engine,
        gateway_over(engine.url, engine="sglang", journal={"path": str(path)}) as run,
    ):
        answer = await post(run, chat())
        assert (answer.status_code, answer.content) == (200, COMPLETION)
        assert len(engine.requests) == 3
        assert retries(run) == 2
        assert outcomes(run) == {"completed": 1}
        assert nothing_is_booked(run)
        [series] = [one for one in run.gateway.snapshot().series if one.replica]
        assert series.histograms["overhead_seconds"].total < 0.5, "waiting is not our work"
        assert series.histograms["held_seconds"].total > 1.0, "half a second, then one"
    [line] = read_journal(path.read_bytes().splitlines(keepends=True)).lines
    assert (line.outcome, line.attempts) == ("completed", 3)


async def test_another_replica_takes_it_at_once() -> None:
    async with fake_engine(BUSY) as busy, fake_engine() as sound, gateway_over(busy.url, sound.url) as run:
        for _ in range(6):
            answer = await post(run, chat())
            assert answer.status_code == 200
            assert answer.headers["x-prefixgate-replica"] == "p-1"
        assert len(busy.requests) <= 2, "it is left alone for a while"
        assert (await samples(run, "held_seconds_sum"))["m", "p", "p-1"] < 1.0


async def test_engines_that_stay_busy_until_the_deadline() -> None:
    async with (
        fake_engine(BUSY) as engine,
        gateway_over(engine.url, queue={"interactive_deadline_s": 0.8}) as run,
    ):
        refused(await post(run, chat()), "queue_deadline")
        assert 1 <= len(engine.requests) <= 3
        assert outcomes(run) == {"rejected": 1}
        assert nothing_is_booked(run)


async def test_other_policies_hold_when_it_is_wished() -> None:
    for every_policy, expected in ((False, 503), (True, 200)):
        async with (
            fake_engine(in_turn(BUSY, whole())) as engine,
            gateway_over(engine.url, routing={"policy": "least-load"}, queue={"every_policy": every_policy}) as run,
        ):
            assert (await post(run, chat())).status_code == expected
