"""The demo's processes: four simulated engines and one gateway at a time; does I/O."""

import asyncio
import contextlib
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

MODEL: Final = "deepseek-v4-flash"
SPEED: Final = 10.0
"""Simulated milliseconds that pass in one millisecond of the wall's."""
KV_TOKENS: Final = 200_000
"""Cache of each simulated replica: the fleet holds the workload's live sessions once, not four times."""
CHUNK_TOKENS: Final = 8192
POLL_S: Final = 0.5
_START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class SimulatedEngine:
    """A running simulated engine."""

    pool: str
    dialect: str
    url: str


@dataclass(frozen=True, slots=True)
class PoolKind:
    """A pool of the demo: its dialect and timing profile."""

    name: str
    dialect: str
    profile: str
    flush_path: str


POOLS: Final = (
    PoolKind("vllm-w4a8", "vllm", "vllm-w4a8", "/reset_prefix_cache"),
    PoolKind("sglang-fp4", "sglang", "sglang-fp4", "/flush_cache"),
)
REPLICAS_PER_POOL: Final = 2


class StartError(Exception):
    """A process of the demo did not start; the message carries its last words."""


@contextlib.asynccontextmanager
async def simulated_engines(
    speed: float = SPEED, pools: Sequence[PoolKind] = POOLS
) -> AsyncIterator[list[SimulatedEngine]]:
    """Two replicas of each pool, on free ports, for as long as the block runs."""
    async with contextlib.AsyncExitStack() as stack:
        kinds = [pool for pool in pools for _ in range(REPLICAS_PER_POOL)]
        started = (stack.enter_async_context(our_command(_engine_arguments(kind, speed))) for kind in kinds)
        urls = await asyncio.gather(*started)
        yield [SimulatedEngine(kind.name, kind.dialect, url[0]) for kind, url in zip(kinds, urls, strict=True)]


@contextlib.asynccontextmanager
async def gateway(
    engines: list[SimulatedEngine], policy: str, port: int, journal: Path | None = None, more: str = ""
) -> AsyncIterator[tuple[str, str]]:
    """A gateway over the engines (port 0: any free one); its URL and its dashboard's. `journal`: where it keeps one.

    `more` are further tables of its configuration.
    """
    with tempfile.TemporaryDirectory(prefix="prefixgate-demo-") as folder:
        config = Path(folder) / "gateway.toml"
        config.write_text(_config(engines, policy, port, journal) + more)
        async with our_command(["serve", "--config", str(config)]) as (url, admin_url):
            yield url.removesuffix("/v1"), admin_url.rstrip("/")


async def flush(engines: list[SimulatedEngine]) -> None:
    """Empty every engine's prefix cache."""
    paths = {pool.name: pool.flush_path for pool in POOLS}
    async with httpx.AsyncClient(trust_env=False, timeout=10) as client:
        for engine in engines:
            answer = await client.post(engine.url + paths[engine.pool])
            answer.raise_for_status()


def _engine_arguments(kind: PoolKind, speed: float) -> list[str]:
    return [
        *("engine", "simulate", "--dialect", kind.dialect, "--profile", kind.profile, "--port", "0"),
        *("--model", MODEL, "--speed", str(speed), "--kv-tokens", str(KV_TOKENS)),
    ]


def _config(engines: list[SimulatedEngine], policy: str, port: int, journal: Path | None) -> str:
    lines = ["[server]", f"port = {port}", "[routing]", f'policy = "{policy}"', "[polling]"]
    lines.append(f"interval_s = {POLL_S}")
    if journal is not None:
        lines += ["[journal]", f"path = {json.dumps(str(journal))}"]
    for name, dialect in dict.fromkeys((engine.pool, engine.dialect) for engine in engines):
        urls = ", ".join(f'"{engine.url}"' for engine in engines if engine.pool == name)
        lines += ["[[pools]]", f'name = "{name}"', f'engine = "{dialect}"', f'model = "{MODEL}"']
        lines += ["gpus_per_replica = 2", f"replicas = [{urls}]"]
        lines += ["[pools.prefill]", f"chunk_tokens = {CHUNK_TOKENS}"]
    return "\n".join(lines) + "\n"


@contextlib.asynccontextmanager
async def our_command(arguments: list[str]) -> AsyncIterator[list[str]]:
    """Run one of our own commands, which prints a line with its URLs once it listens; those URLs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "gateway", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is ours to pass on, in order
    )
    try:
        yield await _announced_urls(process)
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(5):
                    await process.communicate()
            except TimeoutError:
                process.kill()
                await process.communicate()


async def _announced_urls(process: asyncio.subprocess.Process) -> list[str]:
    assert process.stdout is not None  # noqa: S101 - asked for above
    assert process.stderr is not None  # noqa: S101
    try:
        async with asyncio.timeout(_START_S):
            line = (await process.stdout.readline()).decode()
    except TimeoutError:
        line = ""
    urls = [word.rstrip(",)") for word in line.split() if word.startswith("http://")]
    if not urls:
        process.kill()
        said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
        raise StartError(said[-1] if said else "a process of the demo did not start in time")
    return urls
