"""Budgets of retries, replicas that come back, and a second replica beside one that is slow."""

import asyncio
import json

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    Answer,
    FakeEngine,
    Request,
    fake_engine,
    frame,
    held_stream,
    in_turn,
    reset,
    silence,
    stream,
    whole,
)
from gateways import admin, chat, gateway_over, nothing_is_booked, openai_error, outcomes, post, retries, until

BUSY = b'{"error":{"message":"died","type":"InternalServerError","param":null,"code":500}}'


async def test_a_budget_that_is_spent_lets_failures_through() -> None:
    budget = {"budget_share": 0.0, "budget_floor_per_s": 0.1}  # one in ten seconds
    async with (
        fake_engine(whole(BUSY, 500)) as a,
        fake_engine() as b,
        gateway_over(a.url, b.url, retry=budget, routing={"policy": "round-robin"}) as run,
    ):
        answers = [await post(run, chat()) for _ in range(6)]
        failed = [answer for answer in answers if answer.status_code == 500]
        assert failed, "before its breaker opens"
        assert len(a.requests) == retries(run) + len(failed)
        assert outcomes(run) == {"completed": 6 - len(failed), "engine_failed": len(failed)}
        assert openai_error(failed[0])["message"] == "died"
        assert nothing_is_booked(run)


async def test_connections_that_break_cost_no_budget() -> None:
    budget = {"budget_share": 0.0, "budget_floor_per_s": 0.0}
    async with (
        fake_engine(reset()) as a,
        fake_engine() as b,
        gateway_over(a.url, b.url, retry=budget, routing={"policy": "round-robin"}) as run,
    ):
        answers = await asyncio.gather(*(post(run, chat()) for _ in range(50)))
        assert {answer.status_code for answer in answers} == {200}
        assert retries(run) == len(a.requests) > 0


def back_after(gate: asyncio.Event, first: Answer, then: Answer) -> Answer:
    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        await (then if gate.is_set() else first)(request, writer)

    return answer


@pytest.mark.parametrize("streams", [False, True])
async def test_a_fleet_that_restarts_as_a_whole_is_waited_for(streams: bool) -> None:
    answers = stream(frame("a"), DONE) if streams else whole()
    async with fake_engine(in_turn(reset(), answers)) as a, gateway_over(a.url, retry={"wait_s": 20}) as run:
        answer = await post(run, chat(stream=streams))
        assert answer.status_code == 200
        assert answer.headers["x-prefixgate-replica"] == "p-0"
        assert outcomes(run) == {"completed": 1}
        assert retries(run) == 1
        assert nothing_is_booked(run)


async def test_so_is_one_that_is_down_when_the_request_comes() -> None:
    async with (
        fake_engine() as engine,
        gateway_over(engine.url, retry={"wait_s": 20}, polling={"interval_s": 0.05}) as run,
    ):
        backend = run.gateway.backends["p-0"]
        run.gateway.unreachable(backend, "no connection")
        answer = await post(run, chat())
        assert answer.status_code == 200


async def test_the_wait_has_an_end() -> None:
    async with fake_engine(reset()) as engine, gateway_over(engine.url, retry={"wait_s": 0.3}) as run:
        answer = await post(run, chat())
        assert answer.status_code == 502
        assert "closed the connection" in openai_error(answer)["message"]
        assert sum(outcomes(run).values()) == 1
        assert outcomes(run) == {"engine_failed": 1}
        assert 1 < len(engine.requests) <= 3, "a request that breaks what it meets is not sent for ever"
        assert nothing_is_booked(run)
        assert run.gateway.recourse.waiting == 0


async def test_what_answers_badly_is_not_waited_for() -> None:
    async with fake_engine(whole(BUSY, 500)) as engine, gateway_over(engine.url, retry={"wait_s": 20}) as run:
        answer = await asyncio.wait_for(post(run, chat()), 10)
        assert answer.status_code == 500
        assert len(engine.requests) == 1


async def test_a_client_that_leaves_while_its_request_waits() -> None:
    async with (
        fake_engine(reset()) as engine,
        gateway_over(engine.url, retry={"wait_s": 20}, routing={"max_attempts": 9}) as run,
    ):
        task = asyncio.ensure_future(post(run, chat()))
        await until(lambda: run.gateway.recourse.waiting == 1)
        task.cancel()
        await asyncio.wait((task,))
        await until(lambda: outcomes(run) == {"client_gone": 1})
        assert run.gateway.recourse.waiting == 0
        assert nothing_is_booked(run)


HEDGES = {"hedge_after": 0.001, "hedge_floor_s": 0.05, "hedge_share": 1.0}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
@pytest.mark.parametrize("streams", [False, True])
async def test_a_slow_replica_is_overtaken(engine: str, streams: bool) -> None:
    quick = stream(frame("a"), DONE) if streams else whole()
    async with (
        fake_engine() as a,
        fake_engine() as b,
        gateway_over(a.url, b.url, engine=engine, retry=HEDGES) as run,
    ):
        first = asyncio.Event()

        def one(of: FakeEngine) -> Answer:
            async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
                slow = not first.is_set()
                first.set()
                await (silence() if slow else quick)(request, writer)

            return answer

        a.answer, b.answer = one(a), one(b)
        answer = await post(run, chat(stream=streams))
        assert answer.status_code == 200
        slow, fast = (a, b) if answer.headers["x-prefixgate-replica"] == "p-1" else (b, a)
        assert len(slow.requests) == len(fast.requests) == 1
        await slow.left.wait()
        if engine == "sglang":
            await slow.aborted.wait()
            assert json.loads(slow.aborts[0].body)["rid"] == json.loads(slow.requests[0].body)["rid"]
        assert not fast.aborts
        assert outcomes(run) == {"completed": 1}
        assert nothing_is_booked(run)
        async with admin(run) as http:
            page = (await http.get("/metrics")).text
        assert 'reason="hedged"' in page


async def test_the_first_replica_may_win_after_all() -> None:
    gate = asyncio.Event()
    async with fake_engine() as a, fake_engine() as b, gateway_over(a.url, b.url, retry=HEDGES) as run:
        seen: list[str] = []

        def one(name: str) -> Answer:
            async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
                seen.append(name)
                await (held_stream(gate, after=(frame("x"), DONE)) if len(seen) == 1 else silence())(request, writer)

            return answer

        a.answer, b.answer = one("p-0"), one("p-1")
        task = asyncio.ensure_future(post(run, chat(stream=True)))
        await until(lambda: len(seen) == 2)
        gate.set()
        answer = await task
        assert answer.headers["x-prefixgate-replica"] == seen[0]
        assert answer.content == frame("x") + DONE
        assert outcomes(run) == {"completed": 1}
        assert nothing_is_booked(run)


async def test_both_fail() -> None:
    async def late(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        await whole(BUSY, 500)(request, writer)

    async with (
        fake_engine(late) as a,
        fake_engine(late) as b,
        fake_engine() as c,
        gateway_over(a.url, b.url, c.url, retry=HEDGES, routing={"policy": "round-robin"}) as run,
    ):
        for _ in range(3):
            answer = await post(run, chat())
            assert answer.status_code == 200
            assert answer.content == COMPLETION
        assert outcomes(run) == {"completed": 3}
        assert nothing_is_booked(run)
        a.answer = b.answer = c.answer = late
        answer = await post(run, chat())
        assert answer.status_code == 500
        assert outcomes(run) == {"completed": 3, "engine_failed": 1}
        assert nothing_is_booked(run)


async def test_a_client_that_leaves_leaves_both() -> None:
    async with (
        fake_engine(silence()) as a,
        fake_engine(silence()) as b,
        gateway_over(a.url, b.url, retry=HEDGES) as run,
    ):
        task = asyncio.ensure_future(post(run, chat()))
        await until(lambda: bool(a.requests and b.requests))
        task.cancel()
        await asyncio.wait((task,))
        await asyncio.gather(a.left.wait(), b.left.wait())
        await until(lambda: outcomes(run) == {"client_gone": 1})
        assert nothing_is_booked(run)


async def test_hedges_have_a_budget_and_are_off_unless_asked_for() -> None:
    async def slow(request: Request, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.2)
        await whole()(request, writer)

    for table in ({}, HEDGES | {"hedge_share": 0.0}):
        async with fake_engine(slow) as a, fake_engine(slow) as b, gateway_over(a.url, b.url, retry=table) as run:
            await post(run, chat())
            assert len(a.requests) + len(b.requests) == 1
