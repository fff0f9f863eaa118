"""One replica under one chunk size after the other: ladder and ramp at each, and the old size at the end; does I/O."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import httpx

from engines.launch.launcher import Launcher, LaunchError, LaunchSpec, ProcessState, ProcessView
from engines.registry import dialect
from engines.reports import PrefillSettings
from gateway.bench.ask import AskError
from gateway.bench.ladder import Climbed, climb, within_context
from gateway.bench.plan import Rung, Step, steps_of, written
from gateway.bench.ramp import Ramp, ramp
from gateway.bench.samples import Sample
from gateway.bench.subject import Subject, find
from gateway.bench.target import Target

_LOOK_S: Final = 0.25
_LONGEST_LOOK_S: Final = 5.0
_ENDED: Final = (ProcessState.FAILED, ProcessState.BACKOFF, ProcessState.STOPPED)


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
    target: Target
    chunk_actual: int | None = None
    started_s: float = 0.0
    kv_capacity_tokens: int | None = None
    climbed: Climbed = field(default_factory=Climbed)
    ramp: Ramp | None = None
    subject: Subject | None = None
    trouble: str = ""


class NotUpError(Exception):
    """The replica did not come up as it was told to; the message is one sentence."""


class Sweep:
    """A replica, who restarts it, and what came of each chunk size so far; `notice` is told what goes on."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        launcher: Launcher,
        spec: LaunchSpec,
        target: Target,
        plan: SweepPlan,
        notice: Callable[[str], None],
        done: Callable[[Step, Sample | None], None],
    ) -> None:
        self.swept: list[Swept] = []
        self._client = client
        self._launcher = launcher
        self._declared = spec
        self._target = target
        self._plan = plan
        self._notice = notice
        self._done = done
        self._restored: LaunchSpec | None = None
        self._rng = random.Random(random.SystemRandom().getrandbits(128))

    async def run(self, chunks: Sequence[int]) -> None:
        """Measure at each chunk size, and then start the replica as it was, or stop it if it was, whatever happens.

        A size that does not start is noted, and the next one follows. Raises LaunchError where the launcher cannot be
        asked.
        """
        before = await self._launcher.view(self._declared.name)
        own = as_running(self._declared, before)
        try:
            for chunk in chunks:
                one = Swept(chunk, replace(self._target, name=f"chunk {chunk}"))
                self.swept.append(one)
                self._notice(f"chunk {chunk}: starting")
                try:
                    await self._measure(one)
                except (NotUpError, LaunchError, AskError) as error:
                    one.trouble = str(error)
        finally:
            if before.state is ProcessState.STOPPED:
                self._notice("stopping the replica, as it was")
                await self._launcher.stop(own.name)
            else:
                self._notice(f"bringing the replica back to {_shown(own)}")
                await self._launcher.restart(own)
                self._restored = own

    async def up_again(self) -> None:
        """Wait until the replica, which was started as it was, answers. Raises NotUpError, LaunchError."""
        if self._restored is not None:
            await self._until_up(self._restored)

    async def _measure(self, one: Swept) -> None:
        """Raises NotUpError, LaunchError, AskError."""
        plan, client = self._plan, self._client
        prefill = replace(self._declared.prefill, chunk_tokens=one.chunk_tokens)
        wished = replace(self._declared, prefill=prefill)
        began = time.monotonic()
        await self._launcher.restart(wished)
        await self._until_up(wished)
        one.started_s = time.monotonic() - began
        one.subject = subject = await find(client, one.target, self._rng)
        load = await subject.load(client)
        one.chunk_actual = subject.description.prefill.chunk_tokens
        one.kv_capacity_tokens = load.kv_capacity_tokens or subject.description.kv_capacity_tokens
        if one.chunk_actual not in (None, one.chunk_tokens):
            raise NotUpError(f"it runs with a chunk of {one.chunk_actual}, not of {one.chunk_tokens}")
        rungs = within_context(plan.rungs, subject)
        self._notice(f"chunk {one.chunk_tokens}: ladder")
        steps = steps_of(rungs, 1, plan.warm_up, plan.repeats, plan.seed)
        await climb(client, [subject], steps, one.climbed, self._done)
        if plan.ramp_isl is not None and within_context([Rung(plan.ramp_isl)], subject):
            self._notice(f"chunk {one.chunk_tokens}: how many prompts of {written(plan.ramp_isl)} at once")
            one.ramp = await ramp(client, subject, plan.ramp_isl, plan.ramp_most)

    async def _until_up(self, spec: LaunchSpec) -> None:
        """Raises NotUpError, LaunchError."""
        began = time.monotonic()
        while True:
            view = await self._launcher.view(spec.name)
            if view.state in _ENDED:
                raise NotUpError(f"it does not start with {_shown(spec)}: {view.reason or view.state.value}")
            if view.state is not ProcessState.STARTING and await self._answers():
                return
            if time.monotonic() - began > self._plan.start_s:
                raise NotUpError(f"it did not answer within {self._plan.start_s:g} s of its start with {_shown(spec)}")
            await asyncio.sleep(_LOOK_S)

    async def _answers(self) -> bool:
        """Every engine lists its models once it is up, or asks for a key."""
        try:
            answer = await self._client.get(f"{self._target.url}/v1/models", timeout=_LONGEST_LOOK_S)
        except httpx.HTTPError:
            return False
        return answer.status_code in (200, 401)


def as_running(spec: LaunchSpec, view: ProcessView) -> LaunchSpec:
    """The spec with the chunk that its process was started with, which may be another than was declared."""
    if not view.command:
        return spec
    flag = dialect(spec.dialect).launch_flags(PrefillSettings(chunk_tokens=1))[0]
    words = list(view.command)
    value = words[words.index(flag) + 1 :][:1] if flag in words else []
    chunk = int(value[0]) if value and value[0].isdigit() else None
    return replace(spec, prefill=replace(spec.prefill, chunk_tokens=chunk))


def _shown(spec: LaunchSpec) -> str:
    chunk = spec.prefill.chunk_tokens
    return "the engine's own chunk" if chunk is None else f"a chunk of {chunk}"
