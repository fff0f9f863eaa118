"""A sweep measures each chunk size that starts, and always brings the replica back to how it was."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState, ProcessView
from engines.reports import PrefillSettings
from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.bench.ask import new_client
from gateway.bench.plan import rungs_of
from gateway.bench.ramp import RampEnd
from gateway.bench.sweep import Sweep, SweepPlan, as_running
from gateway.bench.sweep_report import report_on_sweep
from gateway.bench.target import Target

PLAN = SweepPlan(
    rungs=rungs_of([512, 1024], [0.0]), warm_up=0, repeats=4, seed=1, ramp_isl=4096, ramp_most=20, start_s=10
)
KV_TOKENS = 40_000


class InProcess:
    """A launcher whose engine is simulated in this very loop. It starts no chunk that is no multiple of 256."""

    can_restart = True

    def __init__(self, state: ProcessState = ProcessState.RUNNING, chunk: int = 2048) -> None:
        self.url = ""
        self.chunks: list[int | None] = []
        self.stopped = False
        self._state = state
        self._chunk: int | None = chunk
        self._stack = AsyncExitStack()
        self._port = 0

    async def start(self, spec: LaunchSpec) -> None:
        chunk = spec.prefill.chunk_tokens
        settings = SimulatorSettings(
            dialect="sglang", port=self._port, speed=10, kv_tokens=KV_TOKENS, chunk_tokens=chunk or 8192
        )
        self.url = await self._stack.enter_async_context(serving(settings))
        self._port = int(self.url.rpartition(":")[2])
        self._state, self._chunk = ProcessState.RUNNING, chunk

    async def restart(self, spec: LaunchSpec) -> None:
        self.chunks.append(spec.prefill.chunk_tokens)
        await self.close()
        self._state = ProcessState.FAILED
        try:
            await self.start(spec)
        except ValueError as error:
            raise LaunchError(f"it exited with status 2; its last words: {error}") from error

    async def stop(self, name: str) -> None:
        self.stopped = True
        await self.close()

    async def view(self, name: str) -> ProcessView:
        command = ("sglang", "--chunked-prefill-size", str(self._chunk)) if self._chunk else ("sglang",)
        return ProcessView(self._state, command)

    async def close(self) -> None:
        await self._stack.aclose()


SPEC = LaunchSpec(
    name="p-0", dialect="sglang", model="m", host="127.0.0.1", port=1, prefill=PrefillSettings(chunk_tokens=8192)
)


@pytest.fixture
async def launcher() -> AsyncIterator[InProcess]:
    one = InProcess()
    await one.start(replace(SPEC, prefill=PrefillSettings(chunk_tokens=2048)))
    yield one
    await one.close()


async def swept(launcher: InProcess, chunks: list[int], said: list[str]) -> Sweep:
    async with new_client() as client:
        target = Target(name="p-0", url=launcher.url)
        sweep = Sweep(client, launcher, SPEC, target, PLAN, said.append, lambda *_: None)
        await sweep.run(chunks)
        await sweep.up_again()
    return sweep


async def test_each_size_is_measured_and_the_one_that_ran_comes_back(launcher: InProcess) -> None:
    """What ran, not what is declared: it may have been changed since."""
    sweep = await swept(launcher, [2048, 4096], [])
    assert launcher.chunks == [2048, 4096, 2048]
    report = report_on_sweep(sweep.swept, 2048, 0.03)
    assert report.baseline == "chunk 2048"
    assert [(one.chunk_actual, one.trouble) for one in report.chunks] == [(2048, ""), (4096, "")]
    assert {(one.target, one.isl, one.samples) for one in report.ladder.rungs} == {
        (f"chunk {chunk}", isl, 4) for chunk in (2048, 4096) for isl in (512, 1024)
    }
    assert all(row.simulated for row in report.ladder.rows)
    capacities = [one.kv_capacity_tokens or 0 for one in report.chunks]
    assert capacities[0] > capacities[1]
    for one, capacity in zip(report.chunks, capacities, strict=True):
        assert one.end in (RampEnd.WAITS, RampEnd.ENDED)  # the latter where this machine is slow to send
        assert one.concurrency is not None
        assert 1 <= one.concurrency <= capacity // 4096


async def test_a_size_that_does_not_start_is_told_and_the_next_one_measured(launcher: InProcess) -> None:
    sweep = await swept(launcher, [1000, 4096], [])
    assert launcher.chunks == [1000, 4096, 2048]
    refused, measured = sweep.swept
    assert "multiple" in refused.trouble
    assert not refused.climbed.samples
    assert len(measured.climbed.samples) == 8
    report = report_on_sweep(sweep.swept, 2048, 0.03)
    assert report.baseline == "chunk 4096"


async def test_an_interrupted_sweep_restores_too(launcher: InProcess) -> None:
    said: list[str] = []
    measuring = asyncio.Event()

    def note(sentence: str) -> None:
        said.append(sentence)
        if "ladder" in sentence:
            measuring.set()

    async with new_client() as client:
        sweep = Sweep(client, launcher, SPEC, Target(name="p-0", url=launcher.url), PLAN, note, lambda *_: None)
        task = asyncio.create_task(sweep.run([4096, 8192]))
        async with asyncio.timeout(60):
            await measuring.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert launcher.chunks == [4096, 2048]
    assert said[-1] == "bringing the replica back to a chunk of 2048"


async def test_a_replica_that_was_stopped_is_stopped_again() -> None:
    launcher = InProcess(ProcessState.STOPPED)
    await launcher.start(SPEC)
    await launcher.close()
    launcher._state = ProcessState.STOPPED
    await swept(launcher, [4096], [])
    assert launcher.stopped
    assert launcher.chunks == [4096]


def test_what_runs_is_read_from_its_command() -> None:
    def chunk(*command: str) -> int | None:
        return as_running(SPEC, ProcessView(ProcessState.RUNNING, command)).prefill.chunk_tokens

    assert chunk("sglang", "--chunked-prefill-size", "4096", "--port", "1") == 4096
    assert chunk("sglang", "--port", "1") is None
    assert chunk() == 8192
