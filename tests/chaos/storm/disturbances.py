"""The kinds of disturbance: each does its harm, lasts, and undoes it; does I/O."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from storm.servers import Engine
from storm.world import World

Harm = Callable[[World, Engine, float], Awaitable[None]]

ORDERS: dict[str, dict[str, Any]] = {
    "hang": {"fault": "hang"},
    "stall": {"fault": "stall", "after_tokens": 6},
    "stall at once": {"fault": "stall"},
    "close": {"fault": "close", "after_tokens": 6},
    "reset": {"fault": "reset", "after_tokens": 6},
    "reset at once": {"fault": "reset"},
    "not HTTP": {"fault": "not-http"},
    "bad chunks": {"fault": "bad-chunks", "after_tokens": 6},
    "bad JSON": {"fault": "bad-json", "after_tokens": 6},
    "broken SSE": {"fault": "broken-sse", "after_tokens": 6},
    "overload": {"fault": "overload"},
    "429": {"fault": "refuse", "status": 429},
    "500": {"fault": "refuse", "status": 500},
    "slow": {"slow": 5.0},
    "unhealthy": {"unhealthy": True},
    "lie: zero": {"metrics": "zero"},
    "lie: absurd": {"metrics": "absurd"},
    "lie: NaN": {"metrics": "nan"},
    "lie: missing": {"metrics": "missing"},
    "lie: garbage": {"metrics": "garbage"},
}
"""What an engine is told to do, for as long as the disturbance lasts."""


def _ordered(order: dict[str, Any]) -> Harm:
    async def harm(_world: World, engine: Engine, lasts_s: float) -> None:
        await engine.order(count=None, **order)
        await asyncio.sleep(lasts_s)
        await engine.order()

    return harm


async def _crash(_world: World, engine: Engine, lasts_s: float) -> None:
    """kill -9, and after a while a new process with an empty cache on the same port."""
    await engine.kill()
    await asyncio.sleep(lasts_s)
    await engine.start()


async def _restart(_world: World, engine: Engine, _lasts_s: float) -> None:
    """As an operator does it who does not wait: SIGTERM, then at once a new process."""
    await engine.end()
    await engine.start()


async def _freeze(_world: World, engine: Engine, lasts_s: float) -> None:
    """The whole process stands still, its port still takes connections."""
    engine.signal(signal.SIGSTOP)
    await asyncio.sleep(lasts_s)
    engine.signal(signal.SIGCONT)


async def _pause(_world: World, engine: Engine, lasts_s: float) -> None:
    """The engine computes nothing, its server answers."""
    await engine.order(stall_s=lasts_s)
    await asyncio.sleep(lasts_s)


async def _redis(world: World, _engine: Engine, lasts_s: float) -> None:
    assert world.redis is not None
    await asyncio.to_thread(world.redis.kill)
    await asyncio.sleep(lasts_s)
    await asyncio.to_thread(world.redis.start)


async def _reload(world: World, _engine: Engine, lasts_s: float) -> None:
    """The same file again, twice, and in between one that makes no sense, which must be refused."""
    async with world.file_in_use:
        await _reload_twice(world, lasts_s)


async def _reload_twice(world: World, lasts_s: float) -> None:
    sound = world.file.path.read_text()
    if await world.call("POST", "/api/config/reload") != 200:
        raise RuntimeError("a sound configuration was not taken")
    try:
        world.file.path.write_text(sound + "\n[nonsense]\n")
        if not 400 <= await world.call("POST", "/api/config/reload") < 500:
            raise RuntimeError("nonsense was taken for a configuration")
        await asyncio.sleep(lasts_s)
    finally:
        world.file.path.write_text(sound)
    await world.call("POST", "/api/config/reload")


async def _drain(world: World, engine: Engine, lasts_s: float) -> None:
    if await world.call("POST", f"/api/replicas/{engine.replica}/drain") >= 300:
        raise RuntimeError(f"{engine.replica} was not drained")
    await asyncio.sleep(lasts_s)
    await world.call("POST", f"/api/replicas/{engine.replica}/resume")


async def _takeover(world: World, _engine: Engine, _lasts_s: float) -> None:
    """A second gateway listens on the same ports, then the first one is told to end."""
    successor = world.file.gateway()
    async with world.file_in_use:
        await successor.start()
    before, world.gateway = world.gateway, successor
    world.before.append(before)
    await before.end()


KINDS: dict[str, Harm] = {
    "crash": _crash,
    "restart": _restart,
    "freeze": _freeze,
    "pause": _pause,
    **{kind: _ordered(order) for kind, order in ORDERS.items()},
    "redis": _redis,
    "reload": _reload,
    "drain": _drain,
    "takeover": _takeover,
}
OF_NO_ENGINE = ("redis", "reload", "takeover")
"""Kinds that leave the engines alone."""
