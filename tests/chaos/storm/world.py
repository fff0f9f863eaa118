"""What is disturbed: engines, a gateway, a Redis; and what they say of themselves; does I/O."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from redis_server import RedisServer

from storm.servers import Engine, GatewayFile, Server, resident_mib

_CONTINUED = re.compile(r"^prefixgate_\w*continu\w*_total(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


class World:
    """All that runs. `gateway` is the one that serves now; `before` are those that it took over from."""

    def __init__(self, engines: list[Engine], file: GatewayFile, redis: RedisServer | None) -> None:
        self.engines = engines
        self.file = file
        self.redis = redis
        self.gateway = file.gateway()
        self.before: list[Server] = []
        self.file_in_use = asyncio.Lock()
        """A gateway that is started, or told to reload, must find the file that is meant for it."""
        self.http = httpx.AsyncClient(base_url=file.admin_url, trust_env=False, timeout=10)

    async def start(self) -> None:
        await asyncio.gather(*(engine.start() for engine in self.engines))
        if self.redis is not None:
            await asyncio.to_thread(self.redis.start)
        await self.gateway.start()
        async with asyncio.timeout(30):
            while not all(replica["state"] == "up" for replica in (await self.snapshot())["replicas"]):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def stop(self) -> list[str]:
        """End all; what went wrong in that."""
        wrong = []
        if self.gateway.ended_with is not None:
            wrong.append(f"the gateway ended by itself, with {self.gateway.ended_with}")
        elif (status := await self.gateway.end()) != 0:
            wrong.append(f"the gateway ended with {status}")
        wrong += [
            f"a gateway that was taken over from ended with {one.ended_with}" for one in self.before if one.ended_with
        ]
        for server in (*self.before, *self.engines):
            await server.kill()
        if self.redis is not None:
            self.redis.kill()
        await self.http.aclose()
        return wrong

    async def snapshot(self) -> dict[str, Any]:
        """The router's view."""
        snapshot: dict[str, Any] = (await self.http.get("/api/snapshot")).json()["snapshot"]
        return snapshot

    async def call(self, method: str, path: str) -> int:
        """An admin call's status; 0 where there was no answer."""
        try:
            return (await self.http.request(method, path)).status_code
        except httpx.HTTPError:
            return 0

    async def told(self, request_id: str) -> tuple[int | None, str]:
        """How many replicas the gateway tried for a recent request, and the last of them, as far as it remembers."""
        with suppress(httpx.HTTPError, ValueError, KeyError):
            answer = await self.http.get(f"/api/requests/{request_id}")
            if answer.status_code == 200:
                said = answer.json()
                return said["attempts"], next((one["replica"] for one in said["candidates"] if one["chosen"]), "")
        return None, ""

    async def continued(self) -> int | None:
        """Streams that went on at another engine in the middle; None where the gateway does not count them."""
        with suppress(httpx.HTTPError):
            found = _CONTINUED.findall((await self.http.get("/metrics")).text)
            return round(sum(map(float, found))) if found else None
        return None

    async def at_rest(self, within_s: float = 20.0) -> str | None:
        """Wait until nothing is booked; what still is, if that does not come."""
        booked = ""
        until = asyncio.get_running_loop().time() + within_s
        while asyncio.get_running_loop().time() < until:
            with suppress(httpx.HTTPError):
                snapshot = await self.snapshot()
                rows = {
                    one["name"]: one["inflight"] for one in snapshot["replicas"] if one["inflight"] or one["wait_ms"]
                }
                if not rows and not snapshot["held"]:
                    return None
                booked = f"still booked: {rows}, held: {snapshot['held']}"
            await asyncio.sleep(0.2)
        return booked or "the admin port does not answer"

    async def ended(self) -> dict[str, int]:
        """Requests by outcome, as the gateway that serves now counts them."""
        totals: dict[str, int] = {}
        for series in (await self.snapshot())["series"]:
            for outcome, count in series["outcomes"].items():
                totals[outcome] = totals.get(outcome, 0) + count
        return totals

    def memory_mib(self) -> float:
        """Of the gateway that serves now."""
        return resident_mib(self.gateway.pid)

    async def takes_over(self) -> bool:
        """Whether a second gateway can listen beside the first."""
        second = self.file.gateway()
        try:
            await second.start()
        except RuntimeError:
            return False
        return await second.end() == 0

    async def missing(self, kinds: Sequence[str]) -> dict[str, str]:
        """Those of these kinds of disturbance that cannot be tried here, and why."""
        found = {}
        if "redis" in kinds and self.redis is None:
            found["redis"] = "no redis-server: run tests/redis/install .redis"
        if "reload" in kinds and await self.call("POST", "/api/config/reload") in (404, 405):
            found["reload"] = "this gateway has no POST /api/config/reload"
        resume = f"/api/replicas/{self.engines[0].replica}/resume"
        if "drain" in kinds and await self.call("POST", resume) in (404, 405):
            found["drain"] = "this gateway has no POST /api/replicas/{name}/resume"
        if "takeover" in kinds and not await self.takes_over():
            found["takeover"] = "a second gateway cannot listen beside the first"
        return found


@asynccontextmanager
async def world(
    engines: int, speed: float, folder: Path, timeouts_s: tuple[float, ...], *, redis: bool
) -> AsyncIterator[tuple[World, list[str]]]:
    """A world, and a list that after the block says what went wrong at its end."""
    names: Sequence[str] = ("vllm", "sglang")
    fleet = [
        Engine(names[number % 2], f"{names[number % 2]}-{number // 2}", speed, folder) for number in range(engines)
    ]
    server = None
    if redis:
        with suppress(AssertionError):
            server = RedisServer()
    file = GatewayFile(folder / "gateway.toml")
    file.write(fleet, timeouts_s, server.url if server is not None else None)
    made = World(fleet, file, server)
    wrong: list[str] = []
    try:
        await made.start()
        yield made, wrong
    finally:
        wrong += await made.stop()
