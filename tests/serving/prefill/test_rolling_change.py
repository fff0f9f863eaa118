"""A pool's chunk is changed over HTTP while it serves: one replica at a time, kept or taken back."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from gateways import admin, chat, gateway_of, nothing_is_booked, openai_error, post, until
from stand_in_launcher import StandIn

from engines.reports import PrefillSettings
from engines.simulated.settings import SimulatorSettings
from gateway.serving.prefill.auto import Auto
from gateway.serving.server import RunningGateway

SGLANG = SimulatorSettings(dialect="sglang", model="m", speed=100, chunk_tokens=8192, kv_tokens=300_000)
PREFILL = {"chunk_tokens": 8192, "drain_s": 20.0, "start_s": 20.0, "compare_s": 0.0}
URL = "/api/pools/p/prefill"


class Fleet:
    def __init__(self, run: RunningGateway, launcher: StandIn, http: httpx.AsyncClient) -> None:
        self.run = run
        self.launcher = launcher
        self.http = http

    async def put(self, query: dict[str, Any] | None = None, **settings: Any) -> httpx.Response:
        return await self.http.put(URL, json=settings, params=query or {})

    async def view(self) -> dict[str, Any]:
        told: dict[str, Any] = (await self.http.get(URL)).json()
        return told

    async def ended(self) -> dict[str, Any]:
        """The change, once it is over."""
        while (change := (await self.view())["change"])["state"] == "running":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert isinstance(change, dict)
        return change

    async def chunks(self) -> list[int]:
        return [one["chunk_tokens"] for one in (await self.view())["actual"].values()]

    def states(self) -> list[str]:
        return [one.state for one in self.run.gateway.snapshot().replicas]


@asynccontextmanager
async def engines(count: int, base: SimulatorSettings) -> AsyncIterator[StandIn]:
    launcher = StandIn(base)
    try:
        for number in range(count):
            await launcher.restart(launcher.spec(f"p-{number}", PrefillSettings()))
        launcher.restarts.clear()
        yield launcher
    finally:
        await launcher.close()


@asynccontextmanager
async def fleet(count: int = 3, base: SimulatorSettings = SGLANG, **prefill: Any) -> AsyncIterator[Fleet]:
    async with engines(count, base) as launcher:
        pool = {"name": "p", "engine": base.dialect, "model": "m", "replicas": list(launcher.urls.values())}
        pool["prefill"] = PREFILL | prefill
        async with (
            gateway_of([pool], limit_s=120, launching=launcher, polling={"interval_s": 0.05}) as run,
            admin(run) as http,
        ):
            yield Fleet(run, launcher, http)


@asynccontextmanager
async def load(run: RunningGateway, words: Callable[[int], str], clients: int = 2) -> AsyncIterator[list[int]]:
    """Clients that ask one question after the other; the statuses of their answers, 0 for one that broke off."""
    statuses: list[int] = []
    done = asyncio.Event()
    number = 0

    async def ask() -> None:
        nonlocal number
        while not done.is_set():
            number += 1
            answer = await post(run, chat(words(number), stream=True, max_tokens=8))
            statuses.append(answer.status_code if "[DONE]" in answer.text else 0)
            await asyncio.sleep(0.02)

    tasks = [asyncio.create_task(ask()) for _ in range(clients)]
    try:
        yield statuses
    finally:
        done.set()
        await asyncio.gather(*tasks)


def steps(change: dict[str, Any], what: str) -> list[str]:
    return [step["replica"] for step in change["steps"] if step["what"] == what]


async def test_one_replica_after_the_other_is_restarted_under_load_and_no_request_is_lost() -> None:
    away: list[int] = []
    async with fleet() as one:
        async with load(one.run, lambda n: f"family {n % 5} " * 200 + f"{n}") as statuses:
            answer = await one.put(chunk_tokens=16_384)
            assert answer.status_code == 202
            assert answer.json()["write"] == "[pools.prefill]\nchunk_tokens = 16384"
            while (await one.view())["change"]["state"] == "running":
                away.append(sum(state != "up" for state in one.states()))
            change = await one.ended()
            count = len(statuses)
            await until(lambda: len(statuses) >= count + 8)
        assert change["state"] == "done", change
        assert await one.chunks() == [16_384] * 3
        assert sorted(one.launcher.restarts) == [(f"p-{number}", 16_384) for number in range(3)]
        assert max(away) == 1
        assert one.states() == ["up"] * 3
        for what in ("drain", "restart", "up", "resume", "kept"):
            assert sorted(steps(change, what)) == ["p-0", "p-1", "p-2"]
        assert sorted(steps(change, "warm")) == ["p-0", "p-1", "p-2"]  # though warm_families is 0
        assert (await one.view())["drift"] == {}
        assert set(statuses) == {200}
        assert nothing_is_booked(one.run)
        assert one.run.gateway.hot is None


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda launcher: launcher.breaks.add(16_384), "it refused to start: CUDA out of memory"),
        (lambda launcher: launcher.lies.update({16_384: 4096}), "it came up, but chunk is 4096, not 16384"),
    ],
    ids=["refuses to start", "runs another value"],
)
async def test_a_replica_that_does_not_take_it_gets_its_old_settings_and_the_others_are_left_alone(
    prepare: Callable[[StandIn], None], words: str
) -> None:
    async with fleet() as one, load(one.run, lambda n: f"{n} " * 50) as statuses:
        prepare(one.launcher)
        assert (await one.put(chunk_tokens=16_384)).status_code == 202
        change = await one.ended()
        assert change["state"] == "rolled-back"
        assert words in change["reason"]
        assert [chunk for _, chunk in one.launcher.restarts] == [16_384, 8192]
        assert len({name for name, _ in one.launcher.restarts}) == 1
        view = await one.view()
        assert view["desired"]["chunk_tokens"] == 8192
        assert set(await one.chunks()) == {8192}
        assert one.states() == ["up"] * 3
        assert one.run.membership.plan.change is None
    assert set(statuses) == {200}


async def test_a_roll_back_that_fails_too_is_told_loudly() -> None:
    async with fleet() as one:
        one.launcher.sulks = True
        await one.put(chunk_tokens=16_384)
        change = await one.ended()
        assert change["state"] == "failed"
        assert "p-0 IS DOWN" in change["reason"]
        assert sorted(one.states()) == ["down", "up", "up"]
        notices = (await one.http.get("/api/snapshot")).json()["gateway"]["notices"]
        assert any("IS DOWN" in notice for notice in notices)
        assert not any(view.draining for view in one.run.gateway.snapshot().replicas)


@pytest.mark.slow
async def test_prefill_that_is_slower_is_taken_back() -> None:
    """A chunk of 256 makes a prompt of 4,000 tokens read its context fifteen times more."""

    def words(number: int) -> str:
        return f"{number:08d}" * 2000

    base = replace(SGLANG, speed=40)
    async with fleet(2, base, compare_s=20.0) as one, load(one.run, words) as statuses:
        await until(lambda: len(statuses) >= 40)
        await one.put(chunk_tokens=256)
        change = await one.ended()
        assert change["state"] == "rolled-back", change
        assert "takes longer than the 10% that are tolerated" in change["reason"]
        assert [chunk for _, chunk in one.launcher.restarts] == [256, 8192]
        assert set(await one.chunks()) == {8192}
        comparison = change["comparisons"][0]
        assert comparison["prefill"]["low"] > 0.1
        assert comparison["after"]["kv_capacity_tokens"] > comparison["before"]["kv_capacity_tokens"]
    assert set(statuses) == {200}


async def test_the_last_replica_is_only_taken_by_force() -> None:
    async with fleet(1) as one:
        answer = await one.put(chunk_tokens=16_384)
        assert answer.status_code == 409
        assert openai_error(answer)["code"] == "last_replica"
        assert one.launcher.restarts == []
        assert (await one.view())["desired"]["chunk_tokens"] == 8192
        assert (await one.put({"force": True}, chunk_tokens=16_384)).status_code == 202
        assert (await one.ended())["state"] == "done"
        assert await one.chunks() == [16_384]


async def test_a_change_waits_until_others_are_up_and_can_be_cancelled() -> None:
    async with fleet(2) as one:
        await one.http.post("/api/replicas/p-1/drain")
        await one.put(chunk_tokens=16_384)
        await until(lambda: any(step.what == "wait" for step in one.run.gateway.changes()[-1].steps))
        assert openai_error(await one.put(chunk_tokens=4096))["code"] == "change_runs"
        assert (await one.http.post(URL + "/cancel")).status_code == 202
        change = await one.ended()
        assert change["state"] == "cancelled"
        assert steps(change, "restart") == ["p-1"]  # who serves nobody is changed first
        assert one.states() == ["up", "draining"]
        assert openai_error(await one.http.post(URL + "/cancel"))["code"] == "no_change_runs"


async def test_what_cannot_be_wished_is_refused_with_nothing_done() -> None:
    async with fleet(2) as one:
        for body, code in (
            (b"{", None),
            (b'{"chunk": 1}', None),
            (b'{"chunk_tokens": "many"}', None),
            (b'{"chunk_tokens": 0}', "bad_setting"),
            (b'{"long_prefill_threshold": 2048}', "no_such_setting"),
        ):
            answer = await one.http.put(URL, content=body)
            assert answer.status_code == 400
            assert openai_error(answer)["code"] == code, answer.text
        assert (await one.http.put("/api/pools/none/prefill", json={})).status_code == 404
        assert (await one.view())["change"] is None
        assert one.launcher.restarts == []


async def test_a_wish_that_is_fulfilled_restarts_nobody() -> None:
    async with fleet(2) as one:
        assert (await one.put()).status_code == 202
        change = await one.ended()
        assert (change["state"], change["reason"]) == ("done", "every replica runs with these settings already")
        assert one.launcher.restarts == []


async def test_vllm_that_does_not_say_its_chunk_is_read_by_its_command_line() -> None:
    base = SimulatorSettings(dialect="vllm", model="m", speed=100, chunk_tokens=2048, dev_mode=False)
    async with fleet(2, base, chunk_tokens=2048) as one:
        assert await one.chunks() == [2048, 2048]
        await one.put(chunk_tokens=4096)
        change = await one.ended()
        assert change["state"] == "done", change
        assert await one.chunks() == [4096, 4096]


async def test_an_engine_that_takes_it_while_it_runs_is_not_restarted() -> None:
    async with fleet(2, replace(SGLANG, takes_chunk=True)) as one:
        await one.put(chunk_tokens=16_384)
        change = await one.ended()
        assert change["state"] == "done", change
        assert await one.chunks() == [16_384] * 2
        assert one.launcher.restarts == []
        assert sorted(steps(change, "set")) == ["p-0", "p-1"]
        assert steps(change, "drain") == []


async def test_without_a_launcher_an_engine_that_does_not_take_it_is_left_as_it_is() -> None:
    async with engines(2, SGLANG) as launcher:
        pool = {"name": "p", "engine": "sglang", "model": "m", "replicas": list(launcher.urls.values())}
        async with gateway_of([pool]) as run, admin(run) as http:
            one = Fleet(run, launcher, http)
            assert (await one.put(chunk_tokens=4096)).status_code == 202
            change = await one.ended()
            assert change["state"] == "failed"
            assert "is not ours to restart: do so with --chunked-prefill-size 4096" in change["reason"]
            assert await one.chunks() == [8192, 8192]
            assert one.states() == ["up", "up"]


async def test_advice_is_followed_by_itself_where_the_pool_says_so() -> None:
    """Once: what runs then is the largest that is allowed. A pool that does not say so only has the advice."""
    base = replace(SGLANG, chunk_tokens=2048)
    wish = {"chunk_tokens": 2048, "auto_min": 2048, "auto_max": 4096, "auto_hold_s": 0.0}
    for auto in (False, True):
        async with fleet(2, base, auto=auto, **wish) as one:
            for number in range(40):
                answer = await post(one.run, chat(f"{number:08d}" * 1300, stream=True, max_tokens=4))
                assert answer.status_code == 200
            assert (await one.view())["advice"]["to"] == 4096
            following = Auto(one.run.gateway, one.run._ports[0].app.state.changes)
            await following.look()
            if not auto:
                assert (await one.view())["change"] is None
                continue
            change = await one.ended()
            assert change["state"] == "done", change
            assert "advice is followed: 100% of 40 prompts had more uncached tokens" in change["steps"][0]["said"]
            assert await one.chunks() == [4096, 4096]
            await following.look()
            assert len(one.run.gateway.changes()) == 1


async def test_a_pool_without_a_launcher_says_what_to_do() -> None:
    async with engines(1, SimulatorSettings(dialect="vllm", model="m", speed=100)) as launcher:
        pool = {"name": "p", "engine": "vllm", "model": "m", "replicas": list(launcher.urls.values())}
        async with gateway_of([pool]) as run, admin(run) as http:
            answer = await http.put(URL, json={"chunk_tokens": 4096})
            assert openai_error(answer)["code"] == "no_launcher"
            assert "--max-num-batched-tokens 4096" in answer.text
