"""Real vLLM servers (CPU, tiny random-weights model), and a gateway in front of them; does I/O."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx

from gateway.config import build
from gateway.serving.server import RunningGateway, running

START_S = 420.0


CHUNK_TOKENS = 2048
KV_BLOCKS = 320
"""Blocks of 128 tokens that each server may cache: so few that a workload of some size evicts."""


SUPERVISED = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
"""The environment of those that prefixgate runs: without the dev mode, as in production."""


@dataclass
class RealVllm:
    """One server, the ports it was given, where its output goes, and its `--max-num-batched-tokens`."""

    port: int
    event_ports: tuple[int, int]
    log: Path
    process: subprocess.Popen[bytes]
    chunk_tokens: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """kill -9, the whole process group."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def restart(self, folder: Path) -> None:
        """Start again on the same ports."""
        self.process = launch(folder, self.log, self.port, self.event_ports, self.chunk_tokens)
        wait_until_up(self)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def launch_table(folder: Path, run_dir: Path) -> str:
    """`[pools.launch]` for the tiny model."""
    launch = {
        "kind": "local",
        "run_dir": str(run_dir),
        "program": [str(folder / "bin" / "vllm"), "serve"],
        "model_path": "./tiny",
        "directory": str(folder),
        "flags": ["--load-format", "dummy", "--enforce-eager", "--max-model-len", "8192"],
        "gpus": [],
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in launch.items()]
    lines += ["env = {" + ", ".join(f"{name} = {json.dumps(value)}" for name, value in SUPERVISED.items()) + "}"]
    return "[pools.launch]\n" + "\n".join(lines) + "\n"


def start(folder: Path, log: Path, chunk_tokens: int = CHUNK_TOKENS) -> RealVllm:
    port, event_ports = free_port(), (free_port(), free_port())
    process = launch(folder, log, port, event_ports, chunk_tokens)
    return RealVllm(port, event_ports, log, process, chunk_tokens)


def launch(
    folder: Path, log: Path, port: int, event_ports: tuple[int, int], chunk_tokens: int
) -> subprocess.Popen[bytes]:
    endpoint, replay_endpoint = (f"tcp://*:{number}" for number in event_ports)
    events = {"enable_kv_cache_events": True, "publisher": "zmq", "topic": "kv"}
    events |= {"endpoint": endpoint, "replay_endpoint": replay_endpoint}
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_ENABLE_RESPONSES_API_STORE": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # /reset_prefix_cache
    }
    command = [
        *(str(folder / "bin/vllm"), "serve", "./tiny", "--host", "127.0.0.1", "--port", str(port)),
        *("--load-format", "dummy", "--served-model-name", "tiny", "--enforce-eager"),
        *("--max-model-len", "16384", "--max-num-batched-tokens", str(chunk_tokens)),
        *("--enable-prompt-tokens-details", "--enable-per-request-metrics"),
        *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
        *("--num-gpu-blocks-override", str(KV_BLOCKS), "--kv-events-config", json.dumps(events)),
    ]
    with log.open("ab") as output:
        return subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )


def wait_until_up(server: RealVllm) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"vLLM ended with {server.process.returncode}:\n{server.log.read_text()[-3000:]}")
        with contextlib.suppress(httpx.HTTPError):
            if httpx.get(server.url + "/health", timeout=2, trust_env=False).status_code == 200:
                return
        time.sleep(1)
    raise AssertionError(f"vLLM was not up after {START_S:g} s:\n{server.log.read_text()[-3000:]}")


def stop(servers: list[RealVllm]) -> None:
    """End them, and wait until they have ended."""
    for server in servers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGTERM)
    for server in servers:
        try:
            server.process.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@contextlib.asynccontextmanager
async def over(
    vllms: list[RealVllm], tables: Mapping[str, object] | None = None, **pool: object
) -> AsyncIterator[RunningGateway]:
    """A gateway over the servers, whose caches are empty; `tables` are further ones of its configuration."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        for server in vllms:
            (await client.post(server.url + "/reset_prefix_cache")).raise_for_status()
    config = build(
        {
            "server": {"port": 0, "admin_port": 0},
            "pools": [{"name": "real", "engine": "vllm", "replicas": [server.url for server in vllms], **pool}],
            **(tables or {}),
        }
    )
    async with running(config, seed=1) as run:
        yield run
