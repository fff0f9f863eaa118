"""The measured figures come out of the model, each within half a percent."""

from itertools import pairwise

import pytest

from engines.simulated.model import EngineModel
from engines.simulated.profile import PROFILES
from engines.simulated.sequences import EngineLimits, Job
from engines.simulated.tokens import TOKEN_BYTES

K = 8192


def measure_ttft_ms(name: str, prompt_tokens: int, chunk_tokens: int = K) -> float:
    """TTFT of an uncached prompt, alone on an idle engine."""
    limits = EngineLimits(kv_tokens=400_000, chunk_tokens=chunk_tokens)
    model = EngineModel(PROFILES[name], limits)
    sequence = model.submit(Job("a", bytes(prompt_tokens * TOKEN_BYTES), b"word"), now=0.0)
    assert sequence is not None
    now = 0.0
    while sequence.first_token_at is None:
        step = model.begin_step(now)
        assert step is not None
        now += step.duration_s
        model.end_step(step, now)
    return sequence.first_token_at * 1000


@pytest.mark.parametrize(
    ("name", "ttft_ms"),
    [
        ("vllm-w4a8", 1658),
        ("vllm-w4a16", 1691),
        ("vllm-fp4", 1824),
        ("sglang-fp4", 1894),
        ("sglang-fp8-tp4", 892),
    ],
)
def test_ttft_at_24k_is_the_measured_one(name: str, ttft_ms: float) -> None:
    assert measure_ttft_ms(name, 3 * K) == pytest.approx(ttft_ms, rel=0.005)


@pytest.mark.parametrize("name", ["vllm-w4a8", "vllm-w4a16", "vllm-fp4", "sglang-fp4"])
def test_each_further_8192_tokens_cost_547_ms(name: str) -> None:
    ladder = [measure_ttft_ms(name, chunks * K) for chunks in (1, 2, 3, 4)]
    steps = [later - earlier for earlier, later in pairwise(ladder)]
    assert steps == pytest.approx([547, 547, 547], rel=0.005)


def test_four_gpus_halve_the_slope() -> None:
    assert measure_ttft_ms("sglang-fp8-tp4", 2 * K) - measure_ttft_ms("sglang-fp8-tp4", K) == pytest.approx(273.5)


@pytest.mark.parametrize("name", PROFILES)
def test_a_chunk_of_16384_saves_seven_percent_at_24k(name: str) -> None:
    saved = 1 - measure_ttft_ms(name, 3 * K, chunk_tokens=2 * K) / measure_ttft_ms(name, 3 * K)
    assert saved == pytest.approx(0.07, rel=0.005)


@pytest.mark.parametrize(("name", "knee_ms"), [("vllm-w4a8", 564), ("sglang-fp4", 800)])
def test_below_the_knee_the_curve_is_linear_from_its_floor(name: str, knee_ms: float) -> None:
    profile = PROFILES[name]
    assert profile.prefill_ms(K) == pytest.approx(knee_ms)
    assert profile.prefill_ms(K // 2) == pytest.approx((profile.floor_ms + knee_ms) / 2)
    assert profile.prefill_ms(1) == pytest.approx(profile.floor_ms, rel=0.01)


@pytest.mark.parametrize("name", PROFILES)
def test_longer_prompts_never_cost_less_and_never_jump(name: str) -> None:
    ladder = [measure_ttft_ms(name, tokens) for tokens in range(6 * 1024, 20 * 1024, 256)]
    growth = [later - earlier for earlier, later in pairwise(ladder)]
    assert min(growth) > 0
    assert max(growth) < 80  # ms for 256 tokens, also where a new chunk begins


def test_cached_context_costs_little_and_only_once() -> None:
    profile = PROFILES["vllm-w4a8"]
    assert profile.chunk_ms(0, 100, 20_000) - profile.chunk_ms(0, 100, 0) == pytest.approx(20.0)
    assert profile.chunk_ms(100, 100, 20_000) == profile.chunk_ms(100, 100, 0)


def test_speed_divides_every_duration() -> None:
    slow = PROFILES["sglang-fp4"]
    fast = slow.faster(10)
    assert fast.prefill_ms(20_000) == pytest.approx(slow.prefill_ms(20_000) / 10)
    assert fast.chunk_ms(K, K, 0) == pytest.approx(slow.chunk_ms(K, K, 0) / 10)
    assert fast.decode_base_ms == pytest.approx(slow.decode_base_ms / 10)
    assert fast.kv_tokens == slow.kv_tokens


def test_a_bigger_chunk_leaves_less_kv() -> None:
    profile = PROFILES["sglang-fp4"]
    assert profile.kv_capacity_tokens(K) == profile.kv_tokens
    assert profile.kv_capacity_tokens(2 * K) == profile.kv_tokens - 8 * K
    assert profile.kv_capacity_tokens(K, kv_tokens=5000) == 5000
