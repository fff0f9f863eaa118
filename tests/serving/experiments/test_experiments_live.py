"""Experiments of a gateway that runs: over HTTP, with simulated engines, through restarts and failures."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fake_engine import fake_engine, response
from gateways import admin, chat, client, gateway_of, openai_error, post, until

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.serving.experiments.analysis import Part
from gateway.serving.experiments.store import FILE_NAME, Store
from gateway.serving.server import RunningGateway

AB = {"name": "ab", "arms": {"a": 0.5, "b": 0.5}, "warm_up_s": 0, "unit": "session"}


@asynccontextmanager
async def two_pools(**tables: Any) -> AsyncIterator[RunningGateway]:
    """Pools a and b, of one simulated engine each."""
    async with AsyncExitStack() as stack:
        kinds = {"a": "vllm", "b": "sglang"}
        settings = [SimulatorSettings(dialect=kind, model="m", speed=1000.0) for kind in kinds.values()]  # type: ignore[arg-type]
        urls = [await stack.enter_async_context(serving(one)) for one in settings]
        pools = [
            {"name": name, "engine": kind, "model": "m", "replicas": [url]}
            for (name, kind), url in zip(kinds.items(), urls, strict=True)
        ]
        yield await stack.enter_async_context(gateway_of(pools, **tables))


async def ask(run: RunningGateway, sessions: int, turns: int = 1, **headers: str) -> Counter[tuple[str | None, str]]:
    """So many requests of so many sessions: which arms and pools they went to."""
    went: Counter[tuple[str | None, str]] = Counter()
    async with client(run) as http:
        for number in range(sessions * turns):
            named = {"x-session-id": f"s{number % sessions}", **headers}
            answer = await http.post("/v1/chat/completions", json=chat("hi " * 400, stream=True), headers=named)
            assert answer.status_code == 200, answer.text
            went[answer.headers.get("x-prefixgate-arm"), answer.headers["x-prefixgate-pool"]] += 1
    return went


async def written(run: RunningGateway, count: int) -> None:
    await until(lambda: run.gateway.experiments.counts["written"] >= count)


async def test_traffic_is_split_told_counted_and_reported() -> None:
    async with two_pools(experiments=[AB]) as run, admin(run) as http:
        went = await ask(run, 24, 2)
        assert set(went) == {("ab=a", "a"), ("ab=b", "b")}
        assert all(count % 2 == 0 for count in went.values())  # both turns of a session go to one arm
        await written(run, 48)
        [listed] = (await http.get("/api/experiments")).json()
        assert [arm["exposures"] for arm in listed["arms"]] == [went["ab=a", "a"], went["ab=b", "b"]]
        metrics = (await http.get("/metrics")).text
        assert f'prefixgate_experiment_exposures_total{{arm="a",experiment="ab"}} {went["ab=a", "a"]}.0' in metrics
        report = (await http.get("/api/experiments/ab/report")).json()
        assert sum(arm["requests"] for arm in report["arms"]) == 48
        assert sum(arm["units"] for arm in report["arms"]) == 24
        [shown] = (await http.get("/api/snapshot")).json()["experiments"]
        assert shown["headline"] == report["sentence"]
        page = await http.get("/api/experiments/ab/report?format=html")
        assert "<html" in page.text
        told = (await http.post("/api/explain", json=chat("hi " * 400))).json()
        assert told["arm"] in ("ab=a", "ab=b")
        part = msgspec.msgpack.decode((await http.get("/api/experiments/ab/observations")).content, type=Part)
        assert len(part.rows) == 48
        assert all(row.ttft_s is not None and row.prompt_tokens and row.cached_tokens is not None for row in part.rows)


async def test_a_restart_keeps_what_there_was(tmp_path: Path) -> None:
    state = {"path": str(tmp_path)}
    made = {"name": "made", "arms": {"p": {"policy": "prefix"}, "t": {"policy": "ttft"}}, "unit": "request"}
    async with two_pools(experiments=[AB], state=state) as run, admin(run) as http:
        await ask(run, 6)
        answer = await http.post("/api/experiments", json=made)
        assert answer.status_code == 201, answer.text
        assert "hit rates fall" in answer.json()["warnings"][0]
        stopped = (await http.post("/api/experiments/ab/stop")).json()
        assert stopped["experiment"]["state"] == "stopped"
        assert {arm for arm, _ in await ask(run, 4)} <= {"made=p", "made=t"}
    async with two_pools(experiments=[AB], state=state) as run, admin(run) as http:
        states = {one["name"]: one["state"] for one in (await http.get("/api/experiments")).json()}
        assert states == {"ab": "stopped", "made": "running"}
        detail = (await http.get("/api/experiments/ab")).json()
        assert [event[2] for event in detail["events"]] == ["defined", "started", "stopped"]
        assert (await http.delete("/api/experiments/made")).json()["state"] == "removed"
        assert set(await ask(run, 4)) <= {(None, "a"), (None, "b")}
        again = (await http.post("/api/experiments/ab/start")).json()
        assert again["experiment"]["counts_from"] > detail["experiment"]["counts_from"]
    store = Store(tmp_path / FILE_NAME, writes=False)
    assert [kept.trial.name for kept in store.trials()] == ["ab"]
    assert len(store.observations("ab", 0, 1e12)) == 6
    store.close()


async def test_a_change_applies_at_once_and_a_mistake_changes_nothing() -> None:
    async with two_pools(experiments=[AB]) as run, admin(run) as http:
        changed = await http.patch("/api/experiments/ab", json={"weights": {"a": 1, "b": 0}})
        assert [arm["weight"] for arm in changed.json()["experiment"]["arms"]] == [1.0, 0.0]
        assert set(await ask(run, 8)) == {("ab=a", "a")}
        none = await http.patch("/api/experiments/ab", json={"traffic": 0})
        assert none.json()["definition"]["traffic"] == 0
        assert {arm for arm, _ in await ask(run, 8)} == {None}
        before = (await http.get("/api/experiments/ab")).json()["definition"]
        for method, path, body, status in (
            ("PATCH", "/api/experiments/ab", {"weight": {}}, 400),
            ("PATCH", "/api/experiments/ab", {"weights": {"c": 1}}, 400),
            ("PATCH", "/api/experiments/ab", {"traffic": 2}, 400),
            ("PATCH", "/api/experiments/none", {"traffic": 1}, 404),
            ("PUT", "/api/experiments/ab", {**AB, "name": "other"}, 400),
            ("PUT", "/api/experiments/none", AB, 404),
            ("POST", "/api/experiments", AB, 409),
            ("POST", "/api/experiments", {"name": "x", "arms": {"zzz": 1}}, 400),
            ("POST", "/api/experiments", {"name": "x"}, 400),
            ("POST", "/api/experiments/none/start", None, 404),
            ("DELETE", "/api/experiments/ab", None, 409),
            ("GET", "/api/experiments/none/report", None, 404),
            ("GET", "/api/experiments/ab/report?format=pdf", None, 400),
        ):
            answer = await http.request(method, path, json=body)
            assert answer.status_code == status, (method, path, answer.text)
            openai_error(answer)
        assert (await http.get("/api/experiments/ab")).json()["definition"] == before
        replaced = await http.put("/api/experiments/ab", json={**AB, "metric": "ttft_p90"})
        assert replaced.json()["experiment"]["metric"] == "ttft_p90"


async def test_a_header_decides_who_takes_part_and_a_pin_wins() -> None:
    eligible = {"header": "X-Beta", "header_value": "yes"}
    async with two_pools(experiments=[{**AB, "eligible": eligible}]) as run:
        assert {arm for arm, _ in await ask(run, 4)} == {None}
        assert {arm for arm, _ in await ask(run, 8, **{"x-beta": "yes"})} <= {"ab=a", "ab=b"}
        assert set(await ask(run, 4, **{"x-beta": "yes", "x-prefixgate-pool": "a"})) == {(None, "a")}


async def test_a_request_that_fails_over_is_told_of_and_counted_as_crossed() -> None:
    async with fake_engine() as sound, fake_engine() as broken:
        broken.answer = _says(500)
        pools = [
            {"name": "a", "engine": "vllm", "model": "m", "replicas": [sound.url]},
            {"name": "b", "engine": "vllm", "model": "m", "replicas": [broken.url]},
        ]
        health = {"failures": 1000}
        async with gateway_of(pools, experiments=[AB], health=health) as run, admin(run) as http:
            arms = Counter()
            for number in range(12):
                answer = await post(run, chat("hi " * 400), headers={"x-session-id": f"s{number}"})
                arms[answer.status_code, answer.headers["x-prefixgate-arm"], answer.headers["x-prefixgate-pool"]] += 1
            assert set(arms) == {(200, "ab=a", "a"), (200, "ab=b;failover", "a")}
            await written(run, 12)
            part = msgspec.msgpack.decode((await http.get("/api/experiments/ab/observations")).content, type=Part)
            crossed = Counter((row.arm, row.crossed) for row in part.rows)
            assert crossed == {("a", False): arms[200, "ab=a", "a"], ("b", True): arms[200, "ab=b;failover", "a"]}
            [replica] = [one for one in (await http.get("/api/replicas")).json() if one["pool"] == "a"]
            assert replica["inflight"] == 0


async def test_a_request_that_nobody_can_serve_counts_against_its_arm() -> None:
    async with fake_engine() as one, fake_engine() as other:
        one.answer = other.answer = _says(500)
        pools = [
            {"name": name, "engine": "vllm", "model": "m", "replicas": [engine.url]}
            for name, engine in (("a", one), ("b", other))
        ]
        async with gateway_of(pools, experiments=[AB], health={"failures": 1000}) as run, admin(run) as http:
            answer = await post(run, chat("hi " * 400), headers={"x-session-id": "s"})
            assert answer.status_code >= 500
            assert answer.headers["x-prefixgate-arm"].endswith(";failover")
            await written(run, 1)
            part = msgspec.msgpack.decode((await http.get("/api/experiments/ab/observations")).content, type=Part)
            assert [(row.failed, row.crossed, row.ttft_s) for row in part.rows] == [(True, True, None)]


def _says(status: int) -> Any:
    async def answer(_: object, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b'{"error":{"message":"boom","type":"x","param":null,"code":500}}', status))

    return answer


async def test_a_guardrail_stops_an_arm_whose_units_then_go_to_the_control() -> None:
    async with fake_engine() as sound, fake_engine() as broken:
        broken.answer = _says(500)
        pools = [
            {"name": "a", "engine": "vllm", "model": "m", "replicas": [sound.url]},
            {"name": "b", "engine": "vllm", "model": "m", "replicas": [broken.url]},
        ]
        rails = {"every_s": 1, "minimum_units": 5, "error_rate": 0.01}
        experiment = {**AB, "guardrails": rails}
        routing = {"max_attempts": 1}
        async with (
            gateway_of(pools, experiments=[experiment], routing=routing, health={"failures": 1000}) as run,
            admin(run) as http,
            client(run) as traffic,
        ):
            for number in range(120):
                headers = {"x-session-id": f"s{number}"}
                await traffic.post("/v1/chat/completions", json=chat("hi " * 400), headers=headers)
            await until(lambda: bool(run.gateway.experiments.trials[0].stopped_arms))
            await asyncio.sleep(0.1)  # for the event to be written
            detail = (await http.get("/api/experiments/ab")).json()
            assert detail["experiment"]["arms"][1]["stopped"]
            assert detail["events"][-1][2:4] == ["arm stopped", "b"]
            assert {arm for arm, pool in await ask(run, 20)} == {"ab=a", None}
            assert {pool for _, pool in await ask(run, 20)} == {"a"}


@pytest.mark.parametrize("place", ["none", "file"])
async def test_a_store_that_cannot_be_is_refused_at_the_start(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Exception, match="there is no directory"):
        async with two_pools(state={"path": str(tmp_path / place)}):
            pass


async def test_the_serving_process_loads_no_numpy() -> None:
    code = (
        "import sys, gateway.serving.server, gateway.cli\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'scipy')))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
    assert await process.wait() == 0


async def test_one_of_the_api_cannot_be_had_without_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "t" * 32)
    async with two_pools(experiments=[AB], server={"admin_token_env": "TOKEN"}) as run, admin(run) as http:
        assert (await http.post("/api/experiments/ab/stop")).status_code == 401
        answer = await http.post("/api/experiments/ab/stop", headers={"authorization": f"Bearer {'t' * 32}"})
        assert answer.json()["experiment"]["state"] == "stopped"
        assert isinstance(answer, httpx.Response)
