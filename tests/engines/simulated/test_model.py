"""The scheduler: who runs in which step, what is hit, what is stored, and that everything ends."""

import random

import pytest

from engines.simulated.cache import hash_blocks, root_of
from engines.simulated.model import EngineModel
from engines.simulated.profile import PROFILES
from engines.simulated.sequences import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    EngineLimits,
    Job,
    Sequence,
    StepResult,
)
from engines.simulated.tokens import from_ids

VLLM = PROFILES["vllm-w4a8"]
SGLANG = PROFILES["sglang-fp4"]


def limits(**changes: object) -> EngineLimits:
    values: dict[str, object] = {"kv_tokens": 400, "block_tokens": 4, "chunk_tokens": 16, "max_running": 8}
    return EngineLimits(**{**values, **changes})  # type: ignore[arg-type]


def job(name: str, prompt: range, output: int = 4, salt: str | None = None) -> Job:
    return Job(name, from_ids(prompt), from_ids(range(9000, 9000 + output)), root_of(salt, None), salt)


def submit(model: EngineModel, one: Job, now: float = 0.0) -> Sequence:
    sequence = model.submit(one, now)
    assert sequence is not None
    return sequence


def run_all(model: EngineModel, now: float = 0.0) -> list[StepResult]:
    """Step until nothing is left."""
    results = []
    while (step := model.begin_step(now)) is not None:
        now += step.duration_s
        results.append(model.end_step(step, now))
    assert not model.running
    assert model.pool.private_blocks == model.pool.promised_blocks == model.pool.used_blocks == 0
    return results


def test_one_token_a_step_until_the_output_is_complete() -> None:
    model = EngineModel(VLLM, limits())
    sequence = submit(model, job("a", range(10)))
    results = run_all(model)
    assert [len(result.advanced) for result in results] == [1, 1, 1, 1]
    assert [result.first for result in results] == [(sequence,), (), (), ()]
    assert results[-1].finished == (sequence,)
    assert sequence.finish == "length"
    assert model.counters.generated_tokens == 4


def test_a_repeated_prompt_hits_all_full_blocks_but_never_its_last_token() -> None:
    model = EngineModel(VLLM, limits())
    run = [submit(model, job("a", range(12)))]
    run_all(model)
    run.append(submit(model, job("b", range(12))))
    run_all(model)
    assert [sequence.cached_tokens for sequence in run] == [0, 8]
    run.append(submit(model, job("c", range(13))))
    run_all(model)
    assert run[2].cached_tokens == 12
    assert model.counters.queried_tokens == 12 + 12 + 13
    assert model.counters.hit_tokens == model.counters.cached_tokens == 20


def test_salts_isolate() -> None:
    model = EngineModel(VLLM, limits())
    for name, salt in (("a", "s"), ("b", None), ("c", "t")):
        sequence = submit(model, job(name, range(20), salt=salt))
        run_all(model)
        assert sequence.cached_tokens == 0
    again = submit(model, job("d", range(20), salt="s"))
    run_all(model)
    assert again.cached_tokens == 16


@pytest.mark.parametrize("profile", [VLLM, SGLANG])
def test_an_answer_sent_back_is_a_hit(profile: object) -> None:
    model = EngineModel(profile, limits())  # type: ignore[arg-type]
    first = job("a", range(10), output=11)
    submit(model, first)
    run_all(model)
    follow_up = Job("b", first.prompt + first.output + from_ids(range(5)), from_ids([1]))
    sequence = submit(model, follow_up)
    run_all(model)
    assert sequence.cached_tokens == 20  # 10 + 11 - 1: the last token generated was never computed


def test_prompts_are_cut_into_chunks_and_share_steps() -> None:
    model = EngineModel(VLLM, limits())
    a, b = submit(model, job("a", range(24))), submit(model, job("b", range(100, 110)))
    step = model.begin_step(0.0)
    assert step is not None
    assert step.prefills == ((a, 16),)
    model.end_step(step, 1.0)
    step = model.begin_step(1.0)
    assert step is not None
    assert step.prefills == ((a, 8), (b, 8))
    model.end_step(step, 2.0)
    step = model.begin_step(2.0)
    assert step is not None
    assert (step.prefills, step.decodes) == (((b, 2),), (a,))


def test_sglang_runs_prefill_and_decode_in_turn_and_cuts_at_pages() -> None:
    model = EngineModel(SGLANG, limits(mixed_chunk=False, chunk_tokens=16))
    a = submit(model, job("a", range(10)))
    b = submit(model, job("b", range(100, 130)))
    kinds = []
    now = 0.0
    while (step := model.begin_step(now)) is not None:
        kinds.append(([(s.job.id, n) for s, n in step.prefills], [s.job.id for s in step.decodes]))
        now += step.duration_s
        model.end_step(step, now)
    assert kinds[:3] == [([("a", 10), ("b", 4)], []), ([("b", 16)], []), ([("b", 10)], [])]
    assert all(not prefills for prefills, _ in kinds[3:])
    assert kinds[3][1] == ["a", "b"]
    assert a.finish == b.finish == "length"


def test_sglang_with_mixed_chunks_decodes_beside_a_prefill() -> None:
    model = EngineModel(SGLANG, limits(mixed_chunk=True))
    submit(model, job("a", range(10)))
    step = model.begin_step(0.0)
    assert step is not None
    model.end_step(step, 1.0)
    submit(model, job("b", range(100, 110)), now=1.0)
    step = model.begin_step(1.0)
    assert step is not None
    assert (len(step.prefills), len(step.decodes)) == (1, 1)


def test_the_time_of_a_step_is_the_sum_of_the_requests_own_curves_over_one_floor() -> None:
    model = EngineModel(VLLM, limits(kv_tokens=200_000, chunk_tokens=8192))
    submit(model, job("a", range(3000)))
    submit(model, job("b", range(5000, 9000)))
    step = model.begin_step(0.0)
    assert step is not None
    both_ms = VLLM.prefill_ms(3000) + VLLM.prefill_ms(4000)
    assert step.duration_s * 1000 == pytest.approx(both_ms - VLLM.floor_ms)  # one forward pass, one floor
    model.end_step(step, 1.0)
    step = model.begin_step(1.0)
    assert step is not None
    assert step.duration_s * 1000 == pytest.approx(10 + 2 * 0.15)


def test_who_does_not_fit_waits_and_then_runs() -> None:
    model = EngineModel(VLLM, limits(kv_tokens=40))
    a = submit(model, job("a", range(20), output=8))
    b = submit(model, job("b", range(100, 120), output=8))
    step = model.begin_step(0.0)
    assert step is not None
    assert (model.running, list(model.waiting)) == ([a], [b])
    assert model.waiting_uncached_tokens() == 20
    model.end_step(step, 1.0)
    run_all(model, 1.0)
    assert b.finish == "length"
    assert b.scheduled_at is not None
    assert a.last_token_at is not None
    assert b.scheduled_at >= a.last_token_at


def test_max_running_and_the_queue_limit_hold() -> None:
    model = EngineModel(VLLM, limits(max_running=2, max_queued=3))
    sequences = [model.submit(job(f"j{i}", range(i * 50, i * 50 + 4)), 0.0) for i in range(5)]
    assert [sequence is not None for sequence in sequences] == [True, True, True, False, False]
    assert model.counters.refused_requests == 2
    step = model.begin_step(0.0)
    assert step is not None
    assert (len(model.running), len(model.waiting)) == (2, 1)
    model.end_step(step, 1.0)
    run_all(model, 1.0)


def test_events_tell_what_can_be_hit() -> None:
    model = EngineModel(VLLM, limits(kv_tokens=48))
    present: set[bytes] = set()
    for index in range(30):
        submit(model, job(f"j{index}", range(index % 4 * 100, index % 4 * 100 + 18), output=6))
        run_all(model)
        for event in model.drain_events():
            if isinstance(event, BlocksStored):
                parent = event.parent or b""
                assert hash_blocks(event.tokens, 4, parent) == list(event.hashes)
                assert not present & set(event.hashes)
                present |= set(event.hashes)
            elif isinstance(event, BlocksRemoved):
                present.remove(event.block)
        assert len(present) == model.pool.cached_blocks
    assert model.reset_cache()
    assert model.drain_events() == (BlocksCleared(),)
    assert model.pool.cached_blocks == 0


def test_sglang_stores_an_answer_only_when_it_is_complete() -> None:
    stored = {}
    for profile in (VLLM, SGLANG):
        model = EngineModel(profile, limits())
        submit(model, job("a", range(8), output=12))
        now = 0.0
        for _ in range(8):
            step = model.begin_step(now)
            assert step is not None
            now += step.duration_s
            model.end_step(step, now)
        during = model.pool.cached_blocks
        run_all(model, now)
        stored[profile.engine] = (during, model.pool.cached_blocks)
    assert stored == {"vllm": (3, 4), "sglang": (2, 4)}


def test_abort_frees_at_once_and_keeps_what_was_computed() -> None:
    model = EngineModel(VLLM, limits(max_running=1))
    a, b = submit(model, job("a", range(30))), submit(model, job("b", range(200, 210)))
    step = model.begin_step(0.0)
    assert step is not None
    model.end_step(step, 1.0)
    step = model.begin_step(1.0)
    assert step is not None
    assert model.abort(a)
    assert model.abort(b)
    assert not model.abort(a)
    result = model.end_step(step, 2.0)
    assert result == StepResult((), (), ())
    assert a.finish == b.finish == "abort"
    assert model.pool.used_blocks == model.pool.promised_blocks == 0
    assert model.pool.cached_blocks == 4
    assert model.counters.finished_requests["abort"] == 2
    assert model.begin_step(2.0) is None


def test_no_reset_while_a_request_runs() -> None:
    model = EngineModel(VLLM, limits())
    submit(model, job("a", range(10)))
    step = model.begin_step(0.0)
    assert step is not None
    assert model.used_tokens == 12
    assert not model.reset_cache()
    model.end_step(step, 1.0)
    run_all(model, 1.0)
    assert model.reset_cache()


@pytest.mark.parametrize("profile", [VLLM, SGLANG])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_comes_every_request_ends_and_every_block_returns(profile: object, seed: int) -> None:
    rng = random.Random(seed)
    model = EngineModel(profile, limits(kv_tokens=160, max_running=5, mixed_chunk=seed % 2 == 0))  # type: ignore[arg-type]
    live: list[Sequence] = []
    now = 0.0
    for index in range(400):
        if rng.random() < 0.4:
            start = rng.randrange(4) * 1000
            live.append(
                submit(model, job(f"j{index}", range(start, start + rng.randrange(1, 60)), rng.randrange(1, 9)), now)
            )
        step = model.begin_step(now)
        if rng.random() < 0.1 and live:
            model.abort(rng.choice(live))
        if step is not None:
            now += step.duration_s
            model.end_step(step, now)
    run_all(model, now)
    assert not model.waiting
    assert all(sequence.finish is not None for sequence in live)
    complete = [sequence for sequence in live if sequence.finish == "length"]
    assert all(sequence.generated_tokens == sequence.output_tokens for sequence in complete)
    assert sum(model.counters.finished_requests.values()) == len(live)
