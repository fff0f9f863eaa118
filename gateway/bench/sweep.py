"""One replica under one chunk size after the other: ladder and ramp at each, and the old size at the end; does I/O."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from engines.launch.launcher import Launcher, LaunchError, LaunchSpec, ProcessState
from gateway.bench.ask import AskError
from gateway.bench.ladder import Climbed, climb, within_context
from gateway.bench.plan import Rung, Step, steps_of
from gateway.bench.ramp import Ramp, ramp
from gateway.bench.samples import Sample
from gateway.bench.subject import Subject, described, find
from gateway.bench.target import Target

_LOOK_S: Final = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    """What is measured at each chunk size. `ramp_isl` None: no ramp. `start_s` is how long a start may take."""

    rungs: Sequence[Rung]
    warm_up: int
    repeats: int
    seed: int
    ramp_isl: int | None
    ramp_most: int
    start_s: float


@dataclass(slots=True)
class Swept:
    """One chunk size as it went. `chunk_actual` is what the engine reads back, None where it does not say.

    `trouble` is why it could not be measured, "" where it could.
    """

    chunk_tokens: int
    chunk_actual: int | None = None
    started_s: float = 0.0
    kv_capacity_tokens: int | None = None
    climbed: Climbed = field(default_factory=Climbed)
    ramp: Ramp | None = None
    simulated: str = ""
    block_tokens: int = 0
    trouble: str = ""


class NotUpError(Exception):
    """The replica did not come up; the message is one sentence."""


async def sweep(
    client: httpx.AsyncClient,
    launcher: Launcher,
    spec: LaunchSpec,
    target: Target,
    chunks: Sequence[int],
    plan: SweepPlan,
    swept: list[Swept],
    notice: Callable[[str], None],
    done: Callable[[Step, Sample | None], None],
) -> None:
    """Measure at each chunk size, and bring the replica back to `spec` whatever happens.

    `swept` grows by one for each size, also by those that fail. Raises NotUpError where the old settings do not come
    up again, and LaunchError where the launcher does not even try.
    """
    rng = random.Random(random.SystemRandom().getrandbits(128))
    try:
        for chunk in chunks:
            one = Swept(chunk)
            swept.append(one)
            notice(f"chunk {chunk:,}: starting")
            wished = replace(spec, prefill=replace(spec.prefill, chunk_tokens=chunk))
            try:
                one.started_s = await _brought_up(client, launcher, wished, target, plan.start_s)
                subject = await find(client, target, rng)
                await _measure(client, subject, plan, one, notice, done)
            except (NotUpError, LaunchError, AskError) as error:
                one.trouble = str(error)
                notice(f"chunk {chunk:,}: {error}")
    finally:
        notice("bringing the replica back to its own settings")
        await _brought_up(client, launcher, spec, target, plan.start_s)


async def _measure(
    client: httpx.AsyncClient,
    subject: Subject,
    plan: SweepPlan,
    one: Swept,
    notice: Callable[[str], None],
    done: Callable[[Step, Sample | None], None],
) -> None:
    """Raises AskError, NotUpError."""
    description = await described(client, subject)
    load = await subject.load(client)
    one.chunk_actual = description.prefill.chunk_tokens
    one.kv_capacity_tokens = load.kv_capacity_tokens or description.kv_capacity_tokens
    one.simulated, one.block_tokens = subject.simulated, subject.block_tokens
    if one.chunk_actual not in (None, one.chunk_tokens):
        raise NotUpError(f"it runs with a chunk of {one.chunk_actual}, not of {one.chunk_tokens}")
    rungs = within_context(plan.rungs, subject)
    notice(f"chunk {one.chunk_tokens:,}: ladder")
    await climb(client, [subject], steps_of(rungs, 1, plan.warm_up, plan.repeats, plan.seed), one.climbed, done)
    if plan.ramp_isl is not None and within_context([Rung(plan.ramp_isl)], subject):
        notice(f"chunk {one.chunk_tokens:,}: how many prompts of {plan.ramp_isl:,} tokens at once")
        one.ramp = await ramp(client, subject, plan.ramp_isl, plan.ramp_most)


async def _brought_up(
    client: httpx.AsyncClient, launcher: Launcher, spec: LaunchSpec, target: Target, start_s: float
) -> float:
    """Restart it and wait until it answers; seconds that took. Raises NotUpError, LaunchError."""
    began = time.monotonic()
    await launcher.restart(spec)
    while True:
        view = await launcher.view(spec.name)
        if view.state in (ProcessState.FAILED, ProcessState.BACKOFF, ProcessState.STOPPED):
            raise NotUpError(f"it does not start with a chunk of {spec.prefill.chunk_tokens}: {view.reason}")
        if await _answers(client, target):
            return time.monotonic() - began
        if time.monotonic() - began > start_s:
            raise NotUpError(f"it did not answer within {start_s:g} s")
        await asyncio.sleep(_LOOK_S)


async def _answers(client: httpx.AsyncClient, target: Target) -> bool:
    """Every engine lists its models once it is up, and tells whoever asks (401: with a key)."""
    try:
        return (await client.get(f"{target.url}/v1/models", timeout=5.0)).status_code in (200, 401)
    except httpx.HTTPError:
        return False
