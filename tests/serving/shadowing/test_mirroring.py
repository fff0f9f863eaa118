"""Copies in a running gateway: whatever becomes of them, the client's request is not touched."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    Answer,
    FakeEngine,
    fake_engine,
    frame,
    held_stream,
    models,
    raw,
    reset,
    response,
    silence,
    stream,
    usage_frame,
    whole,
)
from gateways import admin, at_rest, chat, client, gateway_of, nothing_is_booked, outcomes, post, until
from tenants import bearer, tenant

from gateway.config import ConfigSource, load
from gateway.serving.server import RunningGateway, running
from gateway.serving.shadowing.tally import ShadowFigures


def said(*words: str) -> tuple[bytes, ...]:
    """A whole stream of these words."""
    ended = {"id": "c", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    return (*map(frame, words), b"data: " + json.dumps(ended).encode() + b"\n\n", usage_frame(9, 4), DONE)


def streamed(text: str = "hello", **more: Any) -> dict[str, Any]:
    return chat(text, stream=True, **more)


@dataclass
class World:
    run: RunningGateway
    own: FakeEngine
    copy: FakeEngine

    @property
    def counts(self) -> dict[str, int]:
        """Of the shadow, without what did not happen."""
        return {fate: count for fate, count in self.figures.counts.items() if count}

    @property
    def figures(self) -> ShadowFigures:
        """Of the shadow."""
        return self.run.gateway.shadows.figures()[0]

    async def quiet(self) -> None:
        """Until no copy is in flight, and nothing is booked anywhere."""
        lines = self.run.gateway.shadows.lines
        await until(lambda: not any(line.inflight or line.waiting for line in lines) and nothing_is_booked(self.run))


@asynccontextmanager
async def world(own: Answer | None = None, copy: Answer | None = None, **more: Any) -> AsyncIterator[World]:
    """A pool `p` for clients, and `q` for copies of all that goes there."""
    shadow = {"name": "s", "to": "q", "share": 1.0, **more.pop("shadow", {})}
    engine, serves = more.pop("engine", "vllm"), more.pop("serves", "m")
    async with fake_engine(own) as one, fake_engine(copy) as two:
        two.pages["/v1/models"] = response(models(serves))
        pools = [
            {"name": "p", "engine": engine, "model": "m", "replicas": [one.url]},
            {"name": "q", "engine": engine, "model": serves, "replicas": [two.url], "pinned_only": True},
        ]
        async with gateway_of(pools, shadows=[shadow], **more) as run:
            yield World(run, one, two)


async def test_a_copy_is_what_the_client_asked() -> None:
    body = chat("a prompt " * 300, temperature=0)
    async with world() as it:
        answer = await post(it.run, body, headers={"authorization": "Bearer secret", "x-own": "1"})
        assert answer.content == COMPLETION
        assert answer.headers["x-prefixgate-pool"] == "p"
        await it.quiet()
        [own], [copy] = it.own.requests, it.copy.requests
        assert copy.body == own.body == json.dumps(body).encode()
        assert (copy.target, copy.headers["x-own"]) == (own.target, "1")
        assert "authorization" not in copy.headers
        assert copy.headers["x-request-id"].startswith("shadow-")
        assert it.counts == {"mirrored": 1, "completed": 1}


async def test_copies_are_in_nobodys_figures_but_their_own() -> None:
    async with world(stream(*said("a", "b")), stream(*said("a", "c"))) as it, admin(it.run) as operator:
        for number in range(3):
            assert (await post(it.run, streamed(f"{number} " * 600))).status_code == 200
        await it.quiet()
        assert outcomes(it.run) == {"completed": 3}
        assert len(it.run.gateway.router.recent(100)) == 3
        assert {one.pool for one in it.run.gateway.snapshot().series} == {"p"}
        [told] = (await operator.get("/api/shadows")).json()
        assert (told["counts"]["completed"], told["paired"], len(told["pairs"])) == (3, 3, 3)
        [shown] = (await operator.get("/api/snapshot")).json()["shadows"]
        assert shown["ttft_ratio"] > 0
        assert (shown["own_hit_rate"], shown["copy_hit_rate"]) == (4 / 9, 4 / 9)
        page = (await operator.get("/metrics")).text
        assert 'prefixgate_shadow_requests_total{outcome="completed",shadow="s"} 3.0' in page
        assert 'prefixgate_shadow_ttft_seconds_count{shadow="s"} 3.0' in page


async def test_the_copy_teaches_what_its_replica_holds() -> None:
    async with world() as it:
        body = chat("a long prompt " * 300)
        await post(it.run, body)
        await it.quiet()
        by_name = {replica.name: replica for replica in it.run.gateway.snapshot().replicas}
        assert by_name["q-0"].index_blocks == by_name["p-0"].index_blocks > 0


BAD: dict[str, Answer] = {
    "reset": reset(),
    "error": whole(b'{"error": {"message": "no"}}', 500),
    "overloaded": whole(b'{"error": {"message": "busy"}}', 503),
    "garbage": raw(b"not HTTP at all"),
    "no stream": whole(b"<html>", content_type="text/html"),
    "broken stream": stream(frame("a"), complete=False),
    "garbled stream": stream(frame("a"), b"data: {oops\n\n"),
    "error frame": stream(frame("a"), b'data: {"error": {"message": "died"}}\n\n', DONE),
    "unfinished stream": stream(frame("a")),
}


@pytest.mark.parametrize("copy", BAD.values(), ids=BAD.keys())
async def test_a_bad_pool_spoils_nothing(copy: Answer) -> None:
    own = said("Hel", "lo")
    async with world(stream(*own), copy) as it:
        answer = await post(it.run, streamed(stream_options={"include_usage": True}))
        assert answer.content == b"".join(own)
        await it.quiet()
        assert it.counts == {"mirrored": 1, "failed": 1}
        assert len(it.copy.requests) == 1, "a copy is tried once"
        assert outcomes(it.run) == {"completed": 1}
    assert at_rest(it.run)


async def test_a_pool_that_is_not_there() -> None:
    async with world(polling={"interval_s": 0.05}) as it:
        it.copy.break_connections()
        it.copy.pages["/health"] = response(b"", 503)
        await until(lambda: _state(it.run, "q-0") == "down")
        assert (await post(it.run, chat())).content == COMPLETION
        await it.quiet()
        assert it.counts == {"dropped_busy": 1}
        assert it.copy.requests == []


async def test_the_client_has_its_answer_while_the_copy_hangs() -> None:
    own = said("Hel", "lo")
    async with world(stream(*own), silence()) as it:
        answer = await post(it.run, streamed(stream_options={"include_usage": True}))
        assert answer.content == b"".join(own)
        await it.copy.arrived.wait()
        assert outcomes(it.run) == {"completed": 1}
        [line] = it.run.gateway.shadows.lines
        assert len(line.inflight) == 1
    assert at_rest(it.run), "a copy that hangs keeps nobody from ending"
    assert it.counts == {"mirrored": 1, "abandoned": 1}


async def test_the_clients_bytes_go_out_first() -> None:
    """Whatever the copy costs comes after the client's request has been written."""
    order: list[str] = []

    def noting(name: str) -> Answer:
        async def answer(request: Any, writer: asyncio.StreamWriter) -> None:
            order.append(name)
            await whole()(request, writer)

        return answer

    async with world(noting("own"), noting("copy")) as it, client(it.run) as http:
        for _ in range(2):  # connections are open by the second
            await http.post("/v1/chat/completions", json=chat())
            await it.quiet()
    assert order == ["own", "copy"] * 2


async def test_so_many_in_flight_and_the_rest_waits_or_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.serving.shadowing.shadows.MOST_WAITING", 3)
    gate = asyncio.Event()
    async with world(stream(*said("a")), held_stream(gate, after=said("a")), shadow={"max_inflight": 2}) as it:
        for number in range(7):
            assert (await post(it.run, streamed(f"{number}"))).status_code == 200
        await until(lambda: len(it.copy.requests) == 2)
        assert it.counts == {"mirrored": 2, "dropped_full": 2}
        gate.set()
        await it.quiet()
        assert it.counts == {"mirrored": 5, "completed": 5, "dropped_full": 2}


async def test_who_waited_too_long_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.serving.shadowing.mirroring.PATIENCE_S", -1.0)
    async with world() as it:
        await post(it.run, chat())
        await it.quiet()
        assert it.counts == {"dropped_full": 1}


@pytest.mark.parametrize(
    "page", [b"vllm:num_requests_waiting 1\n", b"vllm:kv_cache_usage_perc 0.9\n"], ids=["waiting", "cache"]
)
async def test_off_while_the_pool_is_busy(page: bytes) -> None:
    async with world(polling={"interval_s": 0.05}) as it:
        it.copy.pages["/metrics"] = response(page)
        router = it.run.gateway.router
        await until(lambda: not router.has_room("q"))
        assert (await post(it.run, chat())).status_code == 200
        await until(lambda: it.counts == {"dropped_busy": 1})
        it.copy.pages["/metrics"] = response(b"")
        await until(lambda: router.has_room("q"))
        await post(it.run, chat())
        await it.quiet()
        assert it.counts == {"dropped_busy": 1, "mirrored": 1, "completed": 1}


async def test_a_model_that_the_pool_does_not_serve() -> None:
    async with world(serves="other") as it:
        assert (await post(it.run, chat())).status_code == 200
        await it.quiet()
        assert it.counts == {"dropped_unserved": 1}


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_a_client_who_leaves_takes_the_copy_along(engine: str) -> None:
    gate = asyncio.Event()
    slow = held_stream(gate, frame("a"))
    async with world(slow, slow, engine=engine) as it:
        async with client(it.run) as http, http.stream("POST", "/v1/chat/completions", json=streamed()) as answer:
            await anext(answer.aiter_raw())
            await it.copy.arrived.wait()
            await asyncio.sleep(0.05)
        await it.copy.left.wait()
        if engine == "sglang":
            await it.copy.aborted.wait()
            [aborted] = it.copy.aborts
            assert json.loads(aborted.body)["rid"] == json.loads(it.copy.requests[0].body)["rid"]
            assert json.loads(it.own.requests[0].body)["rid"] != json.loads(aborted.body)["rid"]
        await it.quiet()
        assert it.counts == {"mirrored": 1, "abandoned": 1}
        assert outcomes(it.run) == {"client_gone": 1}


async def test_a_request_that_fails_is_no_pair() -> None:
    async with world(whole(b'{"error": {"message": "no"}}', 400), silence()) as it:
        assert (await post(it.run, chat())).status_code == 400
        await it.quiet()
        assert it.counts.get("completed", 0) == 0
        assert it.figures.paired == 0


TEXT = {"compare": "text"}


@pytest.mark.parametrize(
    ("body", "own", "copy", "wanted"),
    [
        (streamed(temperature=0), stream(*said("Hel", "lo")), stream(*said("H", "ello")), (1, 0)),
        (streamed(temperature=0.0), stream(*said("Hel", "lo")), stream(*said("Help")), (0, 1)),
        (chat(temperature=0), whole(), whole(), (1, 0)),
        (chat(temperature=0), whole(), whole(COMPLETION.replace(b'"hi"', b'"ho"')), (0, 1)),
    ],
)
async def test_texts_are_compared(body: dict[str, Any], own: Answer, copy: Answer, wanted: tuple[int, int]) -> None:
    async with world(own, copy, shadow=TEXT) as it:
        assert (await post(it.run, body)).status_code == 200
        await it.quiet()
        await until(lambda: (it.figures.same, it.figures.differed) == wanted)


async def test_samples_are_not_compared() -> None:
    async with world(shadow=TEXT) as it:
        for body in (chat(temperature=0.7), chat()):
            await post(it.run, body)
        await it.quiet()
        assert it.counts["completed"] == 2
        assert (it.figures.same, it.figures.differed) == (0, 0)


async def test_nobody_is_sent_to_a_pool_that_is_for_pins_only() -> None:
    async with world(reset()) as it:
        answer = await post(it.run, chat())
        assert answer.status_code >= 500
        await it.quiet()
        assert it.copy.requests == [] or it.counts.get("mirrored")
        assert all(request.headers["x-request-id"].startswith("shadow-") for request in it.copy.requests)
        pinned = await post(it.run, chat(), headers={"x-prefixgate-pool": "q"})
        assert (pinned.status_code, pinned.headers["x-prefixgate-pool"]) == (200, "q")


def _state(run: RunningGateway, name: str) -> str:
    return next(str(one.state) for one in run.gateway.snapshot().replicas if one.name == name)


async def test_a_pool_for_pins_only_makes_nothing_ready_that_is_not() -> None:
    """The model of the clients' pool is ready by that pool alone; one that is only there for copies by its own."""
    async with world(serves="m", polling={"interval_s": 0.05}) as it, client(it.run) as http:
        it.own.pages["/health"] = response(b"", 503)
        await until(lambda: _state(it.run, "p-0") == "down")
        assert (await http.get("/ready")).status_code == 503
        assert it.copy.requests == []
    async with world(serves="other") as it, client(it.run) as http:
        assert (await http.get("/ready")).status_code == 200
        answer = await http.post("/v1/chat/completions", json=chat(model="other"))
        assert answer.status_code == 503
        assert "only to requests that name its pool" in answer.json()["error"]["message"]


async def test_round_robin_goes_round_whatever_is_copied() -> None:
    async with fake_engine() as one, fake_engine() as two, fake_engine() as three:
        pools = [
            {"name": "p", "engine": "vllm", "model": "m", "replicas": [one.url, two.url]},
            {"name": "q", "engine": "vllm", "model": "m", "replicas": [three.url], "pinned_only": True},
        ]
        shadow = {"name": "s", "to": "q", "share": 1.0}
        async with gateway_of(pools, shadows=[shadow], routing={"policy": "round-robin"}) as run:
            for number in range(1, 7):
                await post(run, chat())
                await until(lambda number=number: len(three.requests) == number)
    assert (len(one.requests), len(two.requests)) == (3, 3)


async def test_a_tenants_copy_keeps_to_its_cache_and_to_its_pools() -> None:
    tenants = [tenant("ann"), tenant("bob", pools=["p"])]
    async with world(tenants=tenants) as it:
        for name in ("ann", "bob"):
            assert (await post(it.run, chat(name), headers=bearer(name))).status_code == 200
        await it.quiet()
        assert it.counts == {"mirrored": 1, "completed": 1, "dropped_unserved": 1}
        [copy] = it.copy.requests
        salts = [json.loads(one.body)["cache_salt"] for one in (it.own.requests[0], copy)]
        assert salts[0] == salts[1] != json.loads(it.own.requests[1].body)["cache_salt"]


async def test_shadows_come_and_go_with_a_reload(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"

    def write(share: float | None) -> None:
        pools = "".join(
            f'[[pools]]\nname = "{name}"\nengine = "vllm"\nmodel = "m"\nreplicas = ["{engine.url}"]\n'
            f"pinned_only = {str(name == 'q').lower()}\n"
            for name, engine in (("p", one), ("q", two))
        )
        shadow = "" if share is None else f'[[shadows]]\nname = "s"\nto = "q"\nshare = {share}\n'
        path.write_text(f"[server]\nport = 0\nadmin_port = 0\n{pools}{shadow}")

    async with fake_engine() as one, fake_engine() as two:
        write(None)
        async with asyncio.timeout(30), running(load(path), source=ConfigSource(str(path), {}, None)) as run:

            async def reloaded(share: float | None) -> None:
                write(share)
                async with admin(run) as operator:
                    told = (await operator.post("/api/config/reload")).json()
                assert (told["changed"], told["needs_restart"]) == (["shadows"], [])

            await post(run, chat())
            await reloaded(1.0)
            await post(run, chat())
            await until(lambda: len(two.requests) == 1)
            await reloaded(0.0)
            await post(run, chat())
            assert run.gateway.shadows.figures()[0].counts["completed"] == 1
            await reloaded(None)
            await post(run, chat())
            assert run.gateway.shadows.figures() == ()
        assert (len(one.requests), len(two.requests)) == (4, 1)
