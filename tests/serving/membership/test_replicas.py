"""Replicas that are added, drained, resumed and removed over HTTP."""

import asyncio

import httpx
import pytest
from fake_engine import DONE, fake_engine, frame, held_stream
from gateways import (
    admin,
    chat,
    chat_bytes,
    client,
    gateway_of,
    gateway_over,
    nothing_is_booked,
    openai_error,
    post,
    until,
)
from raw_client import raw_client

from gateway.serving.server import RunningGateway

NOWHERE = "http://127.0.0.1:9"


async def state(run: RunningGateway, name: str) -> str:
    async with admin(run) as http:
        rows = (await http.get("/api/replicas")).json()
    return next((str(row["state"]) for row in rows if row["name"] == name), "removed")


async def until_state(run: RunningGateway, name: str, wanted: str) -> None:
    async with asyncio.timeout(15):
        while await state(run, name) != wanted:  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_replica_is_added_and_serves() -> None:
    async with fake_engine() as one, fake_engine() as two, gateway_over(one.url) as run, admin(run) as http:
        answer = await http.post("/api/replicas", json={"pool": "p", "url": two.url + "/"})
        assert answer.status_code == 201
        told = answer.json()
        assert (told["name"], told["pool"], told["url"], told["warnings"]) == ("p-1", "p", two.url, [])
        await until_state(run, "p-1", "up")
        served = [(await post(run, chat(f"{n}"), headers={"x-prefixgate-replica": "p-1"})) for n in range(2)]
        assert [one.headers["x-prefixgate-replica"] for one in served] == ["p-1", "p-1"]
        assert len(two.requests) == 2
        named = await http.post("/api/replicas", json={"pool": "p", "url": NOWHERE, "name": "far.away"})
        assert named.json()["name"] == "far.away"
        await until_state(run, "far.away", "down")


async def test_a_drained_replica_takes_nothing_new_until_it_is_resumed() -> None:
    async with fake_engine() as one, fake_engine() as two, gateway_over(one.url, two.url) as run, admin(run) as http:
        told = (await http.post("/api/replicas/p-0/drain")).json()
        assert (told["state"], told["inflight"], told["warnings"]) == ("draining", 0, [])
        for number in range(5):
            assert (await post(run, chat(str(number)))).status_code == 200
        assert one.requests == []
        async with client(run) as clients:
            ready = (await clients.get("/ready")).json()
        assert ready["replicas"]["p-0"] == "draining: it takes no new requests"
        metrics = (await http.get("/metrics")).text
        assert 'prefixgate_replica_draining{model="m",pool="p",replica="p-0"} 1.0' in metrics
        assert 'prefixgate_replica_up{model="m",pool="p",replica="p-0"} 1.0' in metrics
        assert (await http.post("/api/replicas/p-0/resume")).json()["state"] == "up"
        assert (await post(run, chat(), headers={"x-prefixgate-replica": "p-0"})).status_code == 200


async def test_the_last_replica_of_a_model_is_drained_with_a_warning() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        told = (await http.post("/api/replicas/p-0/drain")).json()
        assert told["warnings"] == ["no other replica takes requests for `m`: they are refused until one does"]
        refused = await post(run, chat())
        assert refused.status_code == 503
        assert "p-0: draining" in openai_error(refused)["message"]
        gone = (await http.delete("/api/replicas/p-0")).json()
        assert (gone["state"], len(gone["warnings"])) == ("removed", 1)
        refused = await post(run, chat())
        assert (refused.status_code, openai_error(refused)["message"]) == (503, "the model `m` has no replica now")


@pytest.mark.parametrize("now", [False, True])
async def test_a_removed_replica_ends_its_streams(now: bool) -> None:
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(frame("two"), DONE))
    async with (
        fake_engine(answers) as one,
        fake_engine() as two,
        gateway_over(one.url) as run,
        raw_client(run.url) as raw,
        admin(run) as http,
    ):
        await raw.post(chat_bytes(stream=True))
        _, headers = await raw.head()
        assert await raw.chunk() == frame("one")
        await http.post("/api/replicas", json={"pool": "p", "url": two.url})
        await until_state(run, "p-1", "up")
        answer = await http.delete("/api/replicas/p-0", params={"now": now})
        if now:
            assert (answer.status_code, answer.json()["state"]) == (200, "removed")
        else:
            assert (answer.status_code, answer.json()["state"], answer.json()["inflight"]) == (202, "draining", 1)
            assert (await http.post("/api/replicas/p-0/resume")).status_code == 409
        assert (await post(run, chat())).headers["x-prefixgate-replica"] == "p-1"
        gate.set()
        assert await raw.body(headers) == frame("two") + DONE
        await until_state(run, "p-0", "removed")
        await until(lambda: nothing_is_booked(run) and set(run.gateway.backends) == {"p-1"})
        assert (await http.delete("/api/replicas/p-0")).status_code == 404
        assert run.gateway.feeds._feeds.keys() <= {"p-1"}
        assert run.membership._poller._watches.keys() == {"p-1"}
        await until(lambda: all(each.engine.origin.port != one.port for each in run.gateway.engines._open))


async def test_a_removal_can_be_hurried_and_taken_back() -> None:
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(DONE,))
    async with (
        fake_engine(answers) as one,
        gateway_over(one.url) as run,
        raw_client(run.url) as raw,
        admin(run) as http,
    ):
        await raw.post(chat_bytes(stream=True))
        _, headers = await raw.head()
        assert (await http.delete("/api/replicas/p-0")).status_code == 202
        back = await http.post("/api/replicas", json={"pool": "p", "url": one.url})
        assert (back.status_code, back.json()["name"], back.json()["state"]) == (201, "p-0", "up")
        assert (await http.delete("/api/replicas/p-0")).status_code == 202
        assert (await http.delete("/api/replicas/p-0?now=true")).status_code == 200
        back = await http.post("/api/replicas", json={"pool": "p", "url": one.url, "name": "again"})
        assert back.json()["inflight"] == 0
        gate.set()
        assert await raw.body(headers) == frame("one") + DONE
        await until(lambda: set(run.gateway.backends) == {"again"})
        await until_state(run, "again", "up")


async def test_held_requests_go_elsewhere() -> None:
    """Of those that wait while both replicas are busy, none goes to the one that is drained meanwhile."""
    gates = [asyncio.Event(), asyncio.Event()]
    answers = [held_stream(gate, after=(frame("one"), DONE)) for gate in gates]
    async with (
        fake_engine(answers[0]) as one,
        fake_engine(answers[1]) as two,
        gateway_over(one.url, two.url, routing={"hold_ms": 1}) as run,
        admin(run) as http,
    ):
        asked = [asyncio.create_task(post(run, chat(f"{n} " + "long " * 4000, stream=True))) for n in range(6)]
        await until(lambda: len(one.requests) == len(two.requests) == 1 and run.gateway.router.holds == 4)
        await http.post("/api/replicas/p-0/drain")
        gates[1].set()
        await until(lambda: len(two.requests) == 5)
        assert len(one.requests) == 1
        gates[0].set()
        assert all(answer.text.endswith("data: [DONE]\n\n") for answer in await asyncio.gather(*asked))


async def test_of_the_only_replica_that_is_removed_at_once_the_stream_goes_on() -> None:
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(DONE,))
    async with fake_engine(answers) as one, gateway_over(one.url) as run, admin(run) as http:
        first = asyncio.create_task(post(run, chat(stream=True)))
        await until(lambda: len(one.requests) == 1)
        await http.delete("/api/replicas/p-0?now=true")
        assert (await post(run, chat())).status_code == 503
        gate.set()
        assert (await first).text.endswith("data: [DONE]\n\n")


async def test_refusals_are_sentences() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        add = "/api/replicas"
        cases: list[tuple[httpx.Response, int, str]] = [
            (await http.post(add, json={"pool": "q", "url": NOWHERE}), 404, "there is no pool `q`; there are: p"),
            (
                await http.post(add, json={"pool": "p", "url": engine.url}),
                409,
                f"{engine.url} is there already: it is the replica `p-0`",
            ),
            (
                await http.post(add, json={"pool": "p", "url": NOWHERE, "name": "p-0"}),
                409,
                f"there is a replica `p-0` already, at {engine.url}",
            ),
            (await http.post(add, json={"pool": "p", "url": "ftp://x"}), 400, "is not an http(s)://host:port URL"),
            (await http.post(add, json={"pool": "p", "url": NOWHERE, "name": "a/b"}), 400, "a name is letters"),
            (await http.post(add, json={"pool": "p"}), 400, "missing required field `url`"),
            (await http.post(add, content=b"no"), 400, "the body must be"),
            (await http.post(add + "/nobody/drain"), 404, "there is no replica `nobody`"),
            (await http.post(add + "/nobody/resume"), 404, "there is no replica `nobody`"),
            (await http.delete(add + "/nobody"), 404, "there is no replica `nobody`"),
        ]
        for answer, status, words in cases:
            assert answer.status_code == status, answer.text
            assert words in openai_error(answer)["message"]
        assert await state(run, "p-0") == "up"


async def test_a_pool_may_be_empty_of_what_the_api_removed_and_filled_again() -> None:
    async with fake_engine() as engine:
        pools = [{"name": "p", "engine": "vllm", "model": "m", "replicas": [engine.url]}]
        async with gateway_of(pools) as run, admin(run) as http:
            for _ in range(3):
                assert (await http.delete("/api/replicas/p-0")).status_code == 200
                assert (await http.post("/api/replicas", json={"pool": "p", "url": engine.url})).status_code == 201
                await until_state(run, "p-0", "up")
                assert (await post(run, chat())).status_code == 200
            assert len(run.gateway.router._beliefs.index._guessed) == 1
