"""Two real vLLM servers (CPU, tiny random-weights model) with a gateway in front, for `make test-vllm`."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from gateway.config import build
from gateway.serving.server import RunningGateway, running

START_S = 420.0


@dataclass(frozen=True)
class RealVllm:
    """One server and where its output goes."""

    url: str
    log: Path
    process: subprocess.Popen[bytes]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def start(folder: Path, log: Path) -> RealVllm:
    port = free_port()
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
    }
    command = [
        *(str(folder / "bin/vllm"), "serve", "./tiny", "--host", "127.0.0.1", "--port", str(port)),
        *("--load-format", "dummy", "--served-model-name", "tiny", "--enforce-eager"),
        *("--max-model-len", "16384", "--max-num-batched-tokens", "2048"),
        *("--enable-prompt-tokens-details", "--enable-per-request-metrics"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    return RealVllm(f"http://127.0.0.1:{port}", log, process)


def wait_until_up(server: RealVllm) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            pytest.fail(f"vLLM ended with {server.process.returncode}:\n{server.log.read_text()[-3000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(server.url + "/health", timeout=2, trust_env=False).status_code == 200:
                return
        time.sleep(1)
    pytest.fail(f"vLLM was not up after {START_S:g} s:\n{server.log.read_text()[-3000:]}")


@pytest.fixture(scope="session")
def vllms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RealVllm]]:
    folder = Path(os.environ["VLLM_ENV"])
    logs = tmp_path_factory.mktemp("vllm")
    servers = [start(folder, logs / f"{number}.log") for number in range(2)]
    try:
        for server in servers:
            wait_until_up(server)
        yield servers
    finally:
        for server in servers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.process.pid, signal.SIGTERM)
        for server in servers:
            try:
                server.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(server.process.pid, signal.SIGKILL)
                server.process.wait()


@pytest.fixture
async def gateway(vllms: list[RealVllm]) -> AsyncIterator[RunningGateway]:
    config = build(
        {
            "server": {"port": 0, "admin_port": 0},
            "pools": [{"name": "real", "engine": "vllm", "replicas": [server.url for server in vllms]}],
        }
    )
    async with asyncio.timeout(500), running(config, seed=1) as run:
        yield run
