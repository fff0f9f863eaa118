"""Two real vLLM servers with a gateway in front, for `make test-vllm`."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from real_vllm import RealVllm, over, start, stop, wait_until_up

from gateway.serving.server import RunningGateway


@pytest.fixture(scope="session")
def folder() -> Path:
    """The environment that `tests/vllm/install` made; `tiny` in it is the model."""
    return Path(os.environ["VLLM_ENV"])


@pytest.fixture(scope="session")
def vllms(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealVllm]]:
    logs = tmp_path_factory.mktemp("vllm")
    servers = [start(folder, logs / f"{number}.log") for number in range(2)]
    try:
        for server in servers:
            wait_until_up(server)
        yield servers
    finally:
        stop(servers)


@pytest.fixture
async def gateway(vllms: list[RealVllm]) -> AsyncIterator[RunningGateway]:
    async with asyncio.timeout(500), over(vllms) as run:
        yield run


@pytest.fixture
async def knowing(vllms: list[RealVllm], folder: Path) -> AsyncIterator[RunningGateway]:
    """A gateway that counts in tokens and listens to events."""
    async with asyncio.timeout(900), over(vllms, tokens=f"tokenizer:{folder / 'tiny'}") as run:
        yield run
