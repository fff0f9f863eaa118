"""Redis that dies, hangs, comes back empty or was never there: live gateways go on, and say so."""

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from gateways import admin, chat, client, gateway_of, nothing_is_booked, post, until
from redis.asyncio import Redis
from redis_server import RedisServer

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.config import ConfigError
from gateway.routing.batch import FORMAT
from gateway.routing.chain import DEFAULT_BLOCK_BYTES
from gateway.serving.server import RunningGateway
from gateway.serving.sharing import redis_channel
from gateway.serving.sharing import sharer as timing

LONG = "the same words again and again " * 200


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_channel, "PATIENCE_S", 0.5)
    monkeypatch.setattr(timing, "PATIENCE_S", 1.0)
    monkeypatch.setattr(timing, "_BACKOFF_S", (0.05, 0.2))
    monkeypatch.setattr(timing, "ALIVE_EVERY_S", 0.3)
    monkeypatch.setattr(timing, "SILENCE_S", 1.5)


@asynccontextmanager
async def gateways(redis_url: str, count: int = 2) -> AsyncIterator[list[RunningGateway]]:
    """Gateways over one simulated engine."""
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(serving(SimulatorSettings(model="m", speed=1000)))
        pool = {"name": "p", "engine": "vllm", "model": "m", "replicas": [engine]}
        tables = {"state": {"redis_url": redis_url}, "polling": {"interval_s": 0.2}}
        yield [await stack.enter_async_context(gateway_of([pool], limit_s=60, **tables)) for _ in range(count)]


def connected(runs: list[RunningGateway]) -> bool:
    return all(run.gateway.sharer is not None and run.gateway.sharer.status.connected for run in runs)


def disconnected(runs: list[RunningGateway]) -> bool:
    return not any(run.gateway.sharer is not None and run.gateway.sharer.status.connected for run in runs)


async def asks_well(run: RunningGateway, seconds: float = 1.0) -> None:
    """Requests are answered, and quickly."""
    for _ in range(5):
        began = time.monotonic()
        answer = await post(run, chat("hello " + LONG))
        assert answer.status_code == 200, answer.text
        assert time.monotonic() - began < seconds


async def told(run: RunningGateway) -> dict[str, object]:
    """What `/ready` says of sharing; that the gateway is ready is none of Redis's business."""
    async with client(run) as http:
        answer = await http.get("/ready")
    assert answer.status_code == 200
    assert answer.json()["ready"] is True
    sharing: dict[str, object] = answer.json()["sharing"]
    return sharing


async def metric(run: RunningGateway, name: str) -> float:
    async with admin(run) as http:
        page = (await http.get("/metrics")).text
    (line,) = [line for line in page.splitlines() if line.startswith(name + " ")]
    return float(line.split()[-1])


async def test_killed_and_started_again_in_the_middle(
    redis_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateways(redis_server.url) as runs:
        one, two = runs
        await asks_well(one)
        await until(lambda: two.gateway.router.peers == 1)
        assert await metric(one, "prefixgate_sharing_up") == 1
        redis_server.kill()
        await until(lambda: disconnected(runs))
        await asks_well(one)
        await asks_well(two)
        said = await told(one)
        assert (said["backend"], said["connected"]) == ("redis", False)
        assert f"Redis at 127.0.0.1:{redis_server.port}: " in str(said["reason"])
        assert await metric(one, "prefixgate_sharing_up") == 0
        await until(lambda: one.gateway.router.peers == two.gateway.router.peers == 0)
        await until(lambda: nothing_is_booked(one) and nothing_is_booked(two))
        warnings = [line for line in caplog.messages if "goes on with what it knows itself" in line]
        assert len(warnings) <= 4  # that it closed, then that nobody listens; of two gateways
        redis_server.start()
        await until(lambda: connected(runs))
        await asks_well(two)
        await until(lambda: one.gateway.router.peers == two.gateway.router.peers == 1)
        assert (await told(two))["connected"] is True
        assert await metric(two, "prefixgate_sharing_peers") == 1
    await until(lambda: nothing_is_booked(one) and nothing_is_booked(two))


async def test_a_redis_that_hangs_slows_no_request(redis_server: RedisServer) -> None:
    async with gateways(redis_server.url) as runs:
        one, two = runs
        await asks_well(one)
        redis_server.pause()
        try:
            await asks_well(one)
            await until(lambda: disconnected(runs))
            await asks_well(two)
            assert "imeout" in str((await told(one))["reason"])
        finally:
            redis_server.resume()
        await until(lambda: connected(runs))
        await asks_well(one)
        await until(lambda: two.gateway.router.peers == 1)


async def test_a_redis_that_is_not_there_at_the_start() -> None:
    server = RedisServer(password="very-secret")
    try:
        began = time.monotonic()
        async with gateways(server.url, count=1) as (run,):
            assert time.monotonic() - began < 5
            assert (await told(run))["connected"] is False
            await asks_well(run)
            server.start()
            await until(lambda: connected([run]))
            assert (await told(run))["reason"] == ""
    finally:
        server.kill()


async def test_a_wrong_password_is_said_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with RedisServer(password="right") as server:
        async with gateways(server.url.replace("right", "hunter2-wrong"), count=1) as (run,):
            await asks_well(run)
            async with admin(run) as http:
                page = (await http.get("/api/snapshot")).json()
    sharing = page["gateway"]["sharing"]
    assert sharing["connected"] is False
    assert f"nothing is shared with other gateways: {sharing['reason']}" in page["gateway"]["notices"]
    assert "password" in sharing["reason"]
    assert "hunter2" not in str(page) + caplog.text


@pytest.mark.parametrize(
    "url", ["redis://h:x", "redis://127.0.0.1:1?socket_timeout=soon", "redis://h?no_such_option=1"]
)
async def test_a_url_that_makes_no_sense_is_refused_at_the_start(url: str) -> None:
    with pytest.raises(ConfigError, match="redis_url"):
        async with gateways(url, count=1):
            pass


async def test_nothing_shared_is_said_too() -> None:
    async with serving(SimulatorSettings(model="m", speed=1000)) as engine:
        pool = {"name": "p", "engine": "vllm", "model": "m", "replicas": [engine]}
        async with gateway_of([pool]) as run:
            assert (await told(run))["backend"] == "none"


async def test_keys_say_whose_they_are(redis_server: RedisServer) -> None:
    async with gateways(redis_server.url) as (one, _two):
        await asks_well(one)
        async with Redis.from_url(redis_server.url) as redis:
            keys = [key.decode() async for key in redis.scan_iter()]
    assert keys == [f"prefixgate:v{FORMAT}-blocks-of-{DEFAULT_BLOCK_BYTES}:log"]
