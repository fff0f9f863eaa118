"""Runs of decodes taken in one stride give what an engine gives that takes each step by itself."""

from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.simulated.model import EngineModel
from engines.simulated.profile import PROFILES
from engines.simulated.sequences import EngineLimits, Job, StepResult
from engines.simulated.sequences import Sequence as EngineSequence
from gateway.simulation.clock import Clock
from gateway.simulation.engine import VirtualEngine

BLOCK = 16


class Arrival(NamedTuple):
    at: float
    job: Job


class Fate(NamedTuple):
    first_token_at: float | None
    finished_at: float | None
    cached_tokens: int


def tokens(numbers: Sequence[int]) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


@st.composite
def arrivals(draw: st.DrawFn) -> list[Arrival]:
    """Prompts over three stems, each at a time of its own that no step ends at."""
    made = []
    for number in range(draw(st.integers(1, 8))):
        stem = draw(st.integers(0, 2))
        shared, own = draw(st.integers(0, 120)), draw(st.integers(1, 120))
        prompt = tokens([*(stem * 1000 + place for place in range(shared)), *(10_000 + number,) * own])
        output = tokens([20_000 + number] * draw(st.integers(1, 60)))
        at = draw(st.integers(0, 1500)) / 1000 + 0.000_013_57 * (number + 1)
        made.append(Arrival(at, Job(str(number), prompt, output)))
    return sorted(made, key=lambda one: one.at)


def model(profile: str, kv_tokens: int) -> EngineModel:
    mixed = profile.startswith("vllm")
    return EngineModel(
        PROFILES[profile], EngineLimits(kv_tokens, BLOCK, chunk_tokens=64, max_running=4, mixed_chunk=mixed)
    )


def step_by_step(engine: EngineModel, asked: Sequence[Arrival]) -> dict[str, Fate]:
    """The plainest loop there is."""
    now = 0.0
    left = list(asked)
    sequences: list[EngineSequence] = []
    ends: dict[str, float] = {}
    while True:
        while left and left[0].at <= now:
            one = left.pop(0)
            sequence = engine.submit(one.job, one.at)
            assert sequence is not None
            sequences.append(sequence)
        step = engine.begin_step(now)
        if step is None:
            if not left:
                break
            now = left[0].at
            continue
        now += step.duration_s
        for sequence in engine.end_step(step, now).finished:
            ends[sequence.job.id] = now
    return {one.job.id: Fate(one.first_token_at, ends.get(one.job.id), one.cached_tokens) for one in sequences}


def in_strides(engine: EngineModel, asked: Sequence[Arrival]) -> tuple[dict[str, Fate], int]:
    """The virtual engine, and how many steps it looked at."""
    clock = Clock()
    sequences: list[EngineSequence] = []
    ends: dict[str, float] = {}
    looks = 0

    def ended(result: StepResult) -> None:
        nonlocal looks
        looks += 1
        for sequence in result.finished:
            ends[sequence.job.id] = clock.now

    virtual = VirtualEngine(engine, clock, ended, lambda _: None)
    for one in asked:
        clock.at(one.at, lambda job=one.job: sequences.append(virtual.submit(job)))  # type: ignore[misc]
    while clock.run_next():
        pass
    return {one.job.id: Fate(one.first_token_at, ends.get(one.job.id), one.cached_tokens) for one in sequences}, looks


def assert_alike(asked: Sequence[Arrival], profile: str, kv_tokens: int) -> None:
    plain = step_by_step(model(profile, kv_tokens), asked)
    strides, _ = in_strides(model(profile, kv_tokens), asked)
    assert len(plain) == len(asked)
    assert strides.keys() == plain.keys()
    for job, fate in plain.items():
        assert strides[job].cached_tokens == fate.cached_tokens, job
        assert strides[job].first_token_at == pytest.approx(fate.first_token_at, abs=1e-9), job
        assert strides[job].finished_at == pytest.approx(fate.finished_at, abs=1e-9), job


@pytest.mark.parametrize("profile", ["vllm-w4a8", "sglang-fp4"])
@settings(max_examples=120)
@given(asked=arrivals())
def test_strides_change_nothing(profile: str, asked: list[Arrival]) -> None:
    assert_alike(asked, profile, kv_tokens=512 * BLOCK)


@pytest.mark.parametrize("profile", ["vllm-w4a8", "sglang-fp4"])
@settings(max_examples=120)
@given(asked=arrivals())
def test_nor_with_a_cache_that_overflows(profile: str, asked: list[Arrival]) -> None:
    assert_alike(asked, profile, kv_tokens=20 * BLOCK)


def test_a_stride_is_one_look() -> None:
    """Ten thousand tokens are decoded without being looked at one by one."""
    job = Job("0", tokens(range(50)), tokens([7] * 10_000))
    fates, looks = in_strides(model("vllm-w4a8", 20_000), [Arrival(0.0, job)])
    assert looks == 2
    assert fates["0"].finished_at == pytest.approx(
        step_by_step(model("vllm-w4a8", 20_000), [Arrival(0.0, job)])["0"][1]
    )


def test_a_killed_engine_gives_back_what_it_held() -> None:
    clock = Clock()
    engine = model("vllm-w4a8", 512 * BLOCK)
    virtual = VirtualEngine(engine, clock, lambda _: None, lambda _: None)
    for number in range(3):
        virtual.submit(Job(str(number), tokens(range(100)), tokens([7] * 50)))
    clock.run_next()
    assert engine.pool.used_blocks
    virtual.kill()
    assert (engine.pool.used_blocks, engine.pool.promised_blocks) == (0, 0)
    while clock.run_next():
        pass  # what was planned happens no more
    assert not engine.running
    assert not engine.waiting


def test_the_clock_keeps_the_order_of_what_is_set_for_one_time() -> None:
    clock, done = Clock(), list[str]()
    clock.at(2.0, lambda: done.append("c"))
    clock.at(1.0, lambda: done.append("a"))
    clock.at(1.0, lambda: done.append("b"))
    clock.at(1.0, lambda: clock.at(0.0, lambda: done.append(f"late at {clock.now:g}")))
    while clock.run_next():
        pass
    assert done == ["a", "b", "late at 1", "c"]
