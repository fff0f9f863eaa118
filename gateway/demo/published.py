"""Simulated engines of the published table, as targets of a ladder; does I/O: starts them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace

from engines.simulated.published import PUBLISHED, PublishedRow
from gateway.bench.target import Target
from gateway.demo.fleet import our_command


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
