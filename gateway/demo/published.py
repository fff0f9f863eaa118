"""Simulated engines of the published table: targets of a ladder, a pool to sweep; does I/O: starts them."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Final

from engines.simulated.published import PUBLISHED, PublishedRow
from gateway.bench.target import Target
from gateway.demo.fleet import MODEL, our_command

_SWEPT: Final = "sglang-fp4"
"""The profile whose larger chunk was measured."""


def published_targets() -> dict[str, Target]:
    """A target for each profile, not started yet."""
    return {
        profile: Target(name=f"{row.config} {row.engine} TP{row.gpus}", url="", gpus=row.gpus)
        for profile, row in PUBLISHED.items()
    }


def published_rows() -> dict[str, PublishedRow]:
    """What was published, by the target's name."""
    return {target.name: PUBLISHED[profile] for profile, target in published_targets().items()}


@contextlib.asynccontextmanager
async def started_targets(profiles: Iterable[str], speed: float) -> AsyncIterator[list[Target]]:
    """An engine of each profile on a free port, for as long as the block runs. Raises StartError."""
    targets = [(profile, target) for profile, target in published_targets().items() if profile in set(profiles)]
    async with contextlib.AsyncExitStack() as stack:
        commands = (our_command(_arguments(profile, speed)) for profile, _ in targets)
        urls = await asyncio.gather(*(stack.enter_async_context(command) for command in commands))
        yield [replace(target, url=url[0]) for (_, target), url in zip(targets, urls, strict=True)]


def _arguments(profile: str, speed: float) -> list[str]:
    return [
        *("engine", "simulate", "--dialect", PUBLISHED[profile].engine, "--profile", profile, "--port", "0"),
        *("--speed", str(speed), "--per-request-metrics"),
    ]


def write_sweep_config(folder: Path, speed: float) -> Path:
    """A configuration with one replica that prefixgate launches, on a port that is free now; where it is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    row = PUBLISHED[_SWEPT]
    program = [sys.executable, "-m", "gateway", "engine", "simulate", "--dialect", row.engine, "--profile", _SWEPT]
    program += ["--speed", f"{speed:g}"]
    lines = [
        *("[server]", "port = 0", "[[pools]]", f'name = "{_SWEPT}"', f'engine = "{row.engine}"', f'model = "{MODEL}"'),
        *(f"gpus_per_replica = {row.gpus}", f'replicas = ["http://127.0.0.1:{port}"]'),
        *("[pools.prefill]", "chunk_tokens = 8192", "[pools.events]", 'mode = "off"'),
        *("[pools.launch]", 'kind = "local"', "gpus = []", f"program = {json.dumps(program)}"),
        f"run_dir = {json.dumps(str(folder / 'run'))}",
    ]
    path = folder / "sweep.toml"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
