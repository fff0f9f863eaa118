"""Which feeds a gateway has, and that they follow simulated engines of both kinds."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from event_publisher import Believer, PlainDialect, message, publishing
from gateways import until

from engines.cache_events import EventSource
from engines.registry import dialect
from engines.simulated.server import SimulatorSettings, serving
from gateway.config import build
from gateway.serving.events.feeds import EventFeeds, reachable
from gateway.serving.gateway import Backend

PLAIN = Backend("p-0", "p", "http://127.0.0.1:8000", PlainDialect(), [])  # type: ignore[arg-type]


@asynccontextmanager
async def feeds_of(**pool: Any) -> AsyncIterator[tuple[EventFeeds, Believer]]:
    settings = {"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:8000"], "tokens": "engine"} | pool
    config = build({"pools": [settings], "polling": {"interval_s": 0.1}})
    believer = Believer()
    feeds = EventFeeds(config, believer.observe, time.monotonic)
    try:
        async with asyncio.timeout(30):
            yield feeds, believer
    finally:
        await feeds.close()


def states(feeds: EventFeeds) -> list[str]:
    return [status.state for status in feeds.statuses()]


def endpoints(feeds: EventFeeds) -> list[str]:
    return [status.endpoint for status in feeds.statuses()]


async def test_feeds_follow_what_a_replica_says() -> None:
    async with publishing(history=[message("+1")]) as one, publishing(history=[message("+2")]) as two:
        async with feeds_of() as (feeds, believer):
            assert feeds.statuses() == ()
            await feeds.update(PLAIN, [one.source])
            await until(lambda: believer.blocks == {1})
            before = feeds.statuses()
            await feeds.update(PLAIN, [one.source])
            await feeds.update(PLAIN, [])
            assert feeds.statuses() == before, "it goes on"
            await feeds.update(PLAIN, [two.source])
            await until(lambda: believer.blocks == {2})
            assert endpoints(feeds) == [two.source.endpoint]
            feeds.stir("p-0")
            feeds.stir("nobody")
            feeds.restarted("nobody")
            begin = len(believer.facts)
            feeds.restarted("p-0")
            await until(lambda: believer.blocks == {2})
            assert believer.names(begin) == ["Lost", "Events", "Synced"]
        assert believer.blocks is None
        assert feeds.statuses() == ()


async def test_a_replica_is_listened_to_where_the_configuration_says_whatever_it_says_itself() -> None:
    async with publishing(history=[message("+1")]) as publisher:
        ports = {"port": publisher.port, "replay_port": publisher.replay_port}
        async with feeds_of(events=ports) as (feeds, believer):
            await feeds.update(PLAIN, [])
            await until(lambda: believer.blocks == {1})
        async with feeds_of(events={"port": 5557, "replay_port": 5657, "ranks": 3}) as (feeds, _):
            await feeds.update(PLAIN, [])
            assert endpoints(feeds) == [f"tcp://127.0.0.1:{port}" for port in (5557, 5558, 5559)]
            assert [status.rank for status in feeds.statuses()] == [0, 1, 2]
            assert [status.replays for status in feeds.statuses()] == [True] * 3
            await feeds.update(PLAIN, [EventSource(0, "tcp://*:9")])
            assert len(endpoints(feeds)) == 3, "it may not know its ports as they are seen from here"


async def test_an_update_that_is_cut_short_leaves_no_socket_open() -> None:
    async with publishing() as publisher, feeds_of() as (feeds, believer):
        await feeds.update(PLAIN, [publisher.source])
        await until(lambda: believer.blocks == set())
        update = asyncio.create_task(feeds.update(PLAIN, [EventSource(0, "tcp://*:9")]))
        await asyncio.sleep(0)
        update.cancel()
        await asyncio.gather(update, return_exceptions=True)
        await feeds.close()
        assert believer.blocks is None


@pytest.mark.parametrize("pool", [{"tokens": "none"}, {"events": {"mode": "off", "port": 5557}}, {}])
async def test_nobody_is_listened_to_without_need(pool: dict[str, Any]) -> None:
    async with feeds_of(**pool) as (feeds, believer):
        await feeds.update(PLAIN, [EventSource(0, "tcp://*:5557")] if pool else [])
        assert feeds.statuses() == ()
        assert believer.facts == []


def test_wildcards_are_the_replicas_own_host() -> None:
    def endpoint(said: str, url: str = "http://gpu-1:8000/base") -> str | None:
        found = reachable([EventSource(0, said, said)], url)
        assert not found or found[0].replay_endpoint == found[0].endpoint
        return found[0].endpoint if found else None

    for wildcard in ("*", "0.0.0.0", "[::]", "::"):
        assert endpoint(f"tcp://{wildcard}:5557") == "tcp://gpu-1:5557"
        assert endpoint(f"tcp://{wildcard}:5557", "http://[fd00::1]:8000") == "tcp://[fd00::1]:5557"
    assert endpoint("tcp://10.0.0.7:5557") == "tcp://10.0.0.7:5557"
    assert endpoint("tcp://[fd00::7]:5557") == "tcp://[fd00::7]:5557"
    assert endpoint("tcp://fd00::7:5557") == "tcp://[fd00::7]:5557"
    for nonsense in (
        "ipc:///tmp/x",
        "inproc://x",
        "tcp://*",
        "tcp://*:0",
        "tcp://*:70000",
        "tcp://[x:]:1",
        "tcp://a b:1",
    ):
        assert endpoint(nonsense) is None
    sources = [EventSource(0, "tcp://*:1", "nonsense"), EventSource(0, "tcp://*:2"), EventSource(1, "tcp://*:3")]
    assert reachable(sources, "http://h") == (EventSource(0, "tcp://h:1"), EventSource(1, "tcp://h:3"))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
async def test_a_simulated_engine_that_loses_events_is_followed(engine: str) -> None:
    settings = SimulatorSettings(
        dialect=engine,  # type: ignore[arg-type]
        block_tokens=16,
        chunk_tokens=512,
        kv_tokens=2048,
        speed=50,
        kv_events_port=0,
        kv_events_replay_port=0,
    )
    async with serving(settings) as url, httpx.AsyncClient(base_url=url, trust_env=False) as http:
        spoken = dialect(engine)
        pages = {path: (await http.get(path)).content for path in spoken.description_paths}
        sources = spoken.read_event_sources(pages)
        backend = Backend("p-0", "p", url, spoken, [])

        async def generate(first: int, *, lost: int = 0) -> None:
            await http.post("/sim/fault", json={"lose_event_batches": lost})
            for number in range(first, first + 4):
                prompt = list(range(number * 1000, number * 1000 + 320))
                answer = await http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 20})
                assert answer.status_code == 200

        async with feeds_of(engine=engine) as (feeds, believer), feeds_of(engine=engine) as (late, later):
            await feeds.update(backend, sources)
            await generate(1)
            await until(lambda: states(feeds) == ["live"])
            await generate(10, lost=3)
            await generate(20)
            await generate(30, lost=1000)  # the end of them too: only a check finds it
            feeds.stir("p-0")
            await late.update(backend, sources)
            await until(lambda: states(late) == ["live"] and bool(later.blocks))
            await until(lambda: believer.blocks == later.blocks)
            [status] = feeds.statuses()
            assert (status.gaps, status.losses, status.damaged) == (1, 0, 0)
            assert len(later.blocks or ()) > 20
