"""A simulated engine on a real socket, and a client to it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import httpx
import pytest

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings

Connect = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]


@pytest.fixture
def connect() -> Connect:
    """`async with connect(**settings) as client`: an engine 50 times as fast as its hardware unless told otherwise."""

    @asynccontextmanager
    async def open_client(**changes: Any) -> AsyncIterator[httpx.AsyncClient]:
        settings = SimulatorSettings(**{"speed": 50.0, **changes})
        async with serving(settings) as url, httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield client

    return open_client


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """`await until(check)`: the engine's clock decides when, half a minute is only a way out."""

    async def wait(check: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await check():  # noqa: ASYNC110 - what is waited for happens behind HTTP
                await asyncio.sleep(0.01)

    return wait
