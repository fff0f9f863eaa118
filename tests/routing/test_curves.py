"""The learned curves: known lines and quadratics are recovered, and nothing that is measured can break them."""

from collections.abc import Callable
from math import isfinite
from random import Random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from engines.simulated.profile import PROFILES, REFERENCE_CHUNK_TOKENS, EngineProfile
from gateway.routing.curves import (
    PRIOR_BASE_MS,
    PrefillCurve,
    TokenRatio,
    TokenRatios,
    best_known,
)

SIZES = (100, 500, 2000, 8000, 24_000)


def learned(
    base_ms: float,
    ms_per_token: float,
    *,
    noise: float = 0.0,
    stalled: float = 0.0,
    too_short: float = 0.0,
    times: int = 400,
    seed: int = 7,
) -> PrefillCurve:
    """A curve after `times` samples of a line, with log-normal noise and shares of samples 20 times off or 0."""
    rng, curve = Random(seed), PrefillCurve()
    for _ in range(times):
        tokens = rng.choice(SIZES)
        ms = (base_ms + ms_per_token * tokens) * rng.lognormvariate(0, noise)
        luck = rng.random()
        if luck < stalled:
            ms *= 20
        elif luck < stalled + too_short:
            ms = 0.0
        curve.observe(tokens, ms)
    return curve


def worst_error(curve: PrefillCurve, base_ms: float, ms_per_token: float) -> float:
    return max(abs(curve.predict_ms(size) / (base_ms + ms_per_token * size) - 1) for size in SIZES)


def test_before_any_measurement_the_prior_speaks() -> None:
    curve = PrefillCurve()
    assert curve.observations == 0
    assert curve.predict_ms(0) == PRIOR_BASE_MS
    assert curve.predict_ms(24_576) == pytest.approx(1658, rel=0.01)


@pytest.mark.parametrize("base_ms", [5.0, 17.0, 120.0])
@pytest.mark.parametrize("ms_per_token", [0.005, 0.0668, 0.6])
def test_an_exact_line_is_recovered(base_ms: float, ms_per_token: float) -> None:
    curve = learned(base_ms, ms_per_token, times=3000)
    assert curve.base_ms == pytest.approx(base_ms, rel=0.02)
    assert curve.ms_per_token == pytest.approx(ms_per_token, rel=0.02)
    assert curve.ms_per_token2 * SIZES[-1] < 0.02 * ms_per_token


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.05, 0.2])
def test_a_noisy_line_is_recovered(noise: float, seed: int) -> None:
    assert worst_error(learned(30.0, 0.05, noise=noise, seed=seed), 30.0, 0.05) < 0.15


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("stalled", "too_short"), [(0.05, 0.0), (0.0, 0.05), (0.05, 0.05), (0.0, 0.2)])
def test_stalls_and_impossible_measurements_do_not_bend_it(stalled: float, too_short: float, seed: int) -> None:
    """A measurement of 0 is real: it is what remains when the predicted wait was too long."""
    curve = learned(30.0, 0.05, noise=0.1, stalled=stalled, too_short=too_short, seed=seed)
    assert worst_error(curve, 30.0, 0.05) < 0.3


@pytest.mark.parametrize("measured_ms", [0.0, 1e9])
def test_one_absurd_measurement_moves_a_settled_curve_little(measured_ms: float) -> None:
    curve = learned(30.0, 0.05)
    before = {size: curve.predict_ms(size) for size in SIZES}
    curve.observe(8000, measured_ms)
    for size, ms in before.items():
        assert curve.predict_ms(size) == pytest.approx(ms, rel=0.15)


def test_it_follows_an_engine_that_changes_its_pace() -> None:
    curve = learned(30.0, 0.05)
    rng = Random(3)
    for pace in (3.0, 0.3):
        for _ in range(400):
            tokens = rng.choice(SIZES)
            curve.observe(tokens, pace * (30.0 + 0.05 * tokens))
        assert worst_error(curve, pace * 30.0, pace * 0.05) < 0.05


@pytest.mark.parametrize("tokens", [1, 1000, 24_000])
def test_requests_all_alike_teach_their_own_size(tokens: int) -> None:
    curve = PrefillCurve()
    for _ in range(600):
        curve.observe(tokens, 400.0)
    assert curve.predict_ms(tokens) == pytest.approx(400.0, rel=0.03)
    assert curve.base_ms > 0
    assert curve.ms_per_token > 0


def test_a_curve_may_start_from_another_line() -> None:
    curve = PrefillCurve()
    curve.start_from(5.0, 0.02)
    assert curve.predict_ms(1000) == 25.0
    curve.observe(1000, 25.0)
    assert curve.predict_ms(24_000) == pytest.approx(485.0)


def test_longer_prompts_are_never_predicted_faster() -> None:
    """Measurements that fall with size teach that size makes (almost) no difference."""
    rng, curve = Random(5), PrefillCurve()
    for _ in range(1000):
        tokens = rng.choice(SIZES)
        curve.observe(tokens, 1000 - 0.04 * tokens)
    predictions = [curve.predict_ms(size) for size in SIZES]
    assert predictions == sorted(predictions)
    assert 40 < predictions[0] < predictions[-1] < 1000


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 1_000_000), st.floats(0, 1e7)), min_size=1, max_size=12),
    st.integers(1, 60),
)
@example([(4000, 0.0)], 2000)
@example([(0, 0.0), (1_000_000, 1e7)], 300)
@example([(1, 0.0), (24_000, 5.0)], 300)
def test_nothing_measured_makes_it_useless(measured: list[tuple[int, float]], times: int) -> None:
    curve = PrefillCurve()
    for tokens, ms in measured * times:
        curve.observe(tokens, ms)
        assert isfinite(curve.base_ms)
        assert curve.base_ms > 0
        assert isfinite(curve.ms_per_token)
        assert curve.ms_per_token > 0
        assert isfinite(curve.ms_per_token2)
        assert curve.ms_per_token2 >= 0
        assert -1 <= (curve.bias or 0) <= 1
        assert 0 <= (curve.mape or 0) <= 1
    assert curve.observations == len(measured) * times


def test_an_engine_that_answers_at_once_is_predicted_so() -> None:
    """A stub in front of which a test runs for long: the curve comes down to its floor and stays there."""
    curve = PrefillCurve()
    for _ in range(40_000):
        curve.observe(1000, 0.0)
    assert curve.predict_ms(1000) == pytest.approx(0.1, rel=0.02)


# ── curvature ────────────────────────────────────────────────────────────────────────────────────


def taught(
    truth: Callable[[int], float],
    sizes: Callable[[Random], int],
    *,
    noise: float = 0.0,
    times: int = 400,
    seed: int = 7,
    curve: PrefillCurve | None = None,
) -> PrefillCurve:
    """A curve (a new one if none is given) after so many samples of a truth."""
    rng, learner = Random(seed), curve or PrefillCurve()
    for _ in range(times):
        tokens = sizes(rng)
        learner.observe(tokens, truth(tokens) * rng.lognormvariate(0, noise))
    return learner


def off(curve: PrefillCurve, truth: Callable[[int], float], *sizes: int) -> float:
    """The worst error of the predictions at these sizes, as a share."""
    return max(abs(curve.predict_ms(size) / truth(size) - 1) for size in sizes or SIZES)


def one_of_the_sizes(rng: Random) -> int:
    return rng.choice(SIZES)


def mostly_hits(rng: Random) -> int:
    """Follow-ups with a few hundred new tokens, and now and then a new conversation."""
    return rng.randint(50, 400) if rng.random() < 0.97 else rng.randint(4000, 30_000)


def bent(tokens: int) -> float:
    return 25 + 0.03 * tokens + 1.5e-6 * tokens**2


def straight(tokens: int) -> float:
    return 30 + 0.05 * tokens


@settings(max_examples=40, deadline=None)
@given(st.floats(2, 200), st.floats(0.01, 0.3), st.floats(1e-7, 5e-6))
def test_an_exact_quadratic_is_recovered(base_ms: float, ms_per_token: float, ms_per_token2: float) -> None:
    def truth(tokens: int) -> float:
        return base_ms + ms_per_token * tokens + ms_per_token2 * tokens**2

    assert off(taught(truth, one_of_the_sizes, times=1500), truth) < 0.03


def test_the_terms_of_a_quadratic_are_recovered() -> None:
    curve = taught(bent, one_of_the_sizes, times=3000)
    assert curve.base_ms == pytest.approx(25, rel=0.01)
    assert curve.ms_per_token == pytest.approx(0.03, rel=0.01)
    assert curve.ms_per_token2 == pytest.approx(1.5e-6, rel=0.01)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("noise", "worst"), [(0.05, 0.06), (0.2, 0.15)])
def test_a_noisy_quadratic_is_recovered(noise: float, worst: float, seed: int) -> None:
    assert off(taught(bent, one_of_the_sizes, noise=noise, seed=seed), bent) < worst


@pytest.mark.parametrize("seed", range(5))
def test_long_prompts_are_not_forgotten_over_short_ones(seed: int) -> None:
    curve = taught(bent, one_of_the_sizes, noise=0.05, seed=seed)
    taught(bent, lambda rng: rng.randint(50, 400), noise=0.15, times=3000, seed=seed, curve=curve)
    assert off(curve, bent, 8000, 24_000) < 0.2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("truth", [straight, bent])
def test_rare_long_prompts_are_learned_among_short_ones(truth: Callable[[int], float], seed: int) -> None:
    curve = taught(truth, mostly_hits, noise=0.15, times=1200, seed=seed)
    assert off(curve, truth, 100, 300, 8000, 24_000) < 0.25


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_the_simulated_engines_are_fitted(profile: EngineProfile) -> None:
    def ladder(tokens: int) -> float:
        """Chunk after chunk on an idle engine. For some profiles the first chunk is the steepest, which no curve is."""
        starts = range(0, tokens, REFERENCE_CHUNK_TOKENS)
        return sum(profile.chunk_ms(at, min(REFERENCE_CHUNK_TOKENS, tokens - at), 0) for at in starts)

    curve = taught(ladder, lambda rng: int(100 * 400 ** rng.random()), noise=0.05, times=600)
    assert off(curve, ladder, 100, 500, 2000, 8000) < 0.08
    assert off(curve, ladder, 16_384, 24_576, 40_000) < 0.25
    assert curve.mape is not None
    assert curve.mape < 0.07


# ── changes and stalls ───────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("sizes", [one_of_the_sizes, mostly_hits])
@pytest.mark.parametrize(("pace", "worst"), [(1.3, 0.11), (0.7, 0.18)])
def test_a_replica_of_another_pace_is_learned_within_fifty_requests(
    pace: float, worst: float, sizes: Callable[[Random], int], seed: int
) -> None:
    def paced(tokens: int) -> float:
        return pace * straight(tokens)

    curve = taught(straight, sizes, noise=0.05, seed=seed)
    taught(paced, sizes, noise=0.05, times=50, seed=seed + 100, curve=curve)
    assert sum(off(curve, paced, size) for size in SIZES) / len(SIZES) < worst


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("stalled", "worst", "after"), [(5, 0.12, 0.06), (20, 0.4, 0.12), (100, 12, 0.2)])
def test_a_stall_bends_it_little_and_not_for_long(stalled: int, worst: float, after: float, seed: int) -> None:
    """Ten times as slow for so many requests, then as before for sixty."""
    curve = taught(straight, one_of_the_sizes, noise=0.1, seed=seed)
    taught(lambda tokens: 10 * straight(tokens), one_of_the_sizes, times=stalled, seed=seed, curve=curve)
    assert off(curve, straight) < worst
    taught(straight, one_of_the_sizes, noise=0.1, times=60, seed=seed + 50, curve=curve)
    assert off(curve, straight) < after


@pytest.mark.parametrize("pace", [0.1, 5.0, 20.0])
def test_other_hardware_is_learned_within_sixty_requests(pace: float) -> None:
    def truth(tokens: int) -> float:
        return pace * (17 + 0.0668 * tokens)

    assert off(taught(truth, one_of_the_sizes, noise=0.1, times=60), truth) < 0.25


# ── its own error ────────────────────────────────────────────────────────────────────────────────


def test_its_error_is_unknown_before_it_is_measured() -> None:
    curve = PrefillCurve()
    assert (curve.bias, curve.mape) == (None, None)


def test_its_error_is_that_of_the_prediction_before_it_learned() -> None:
    curve = PrefillCurve(100.0, 0.01)
    predicted = curve.predict_ms(5000)
    curve.observe(5000, 1.2 * predicted)
    assert (curve.bias, curve.mape) == (pytest.approx(0.2), pytest.approx(0.2))
    then = curve.predict_ms(800)
    curve.observe(800, 0.9 * then)
    assert curve.bias == pytest.approx((0.98 * 0.2 - 0.1) / 1.98)
    assert curve.mape == pytest.approx((0.98 * 0.2 + 0.1) / 1.98)


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_its_error_is_honest(noise: float) -> None:
    """Recounted from outside: what was predicted for each request, before it was learned from."""
    rng, curve = Random(11), PrefillCurve()
    errors = []
    for _ in range(600):
        tokens = one_of_the_sizes(rng)
        measured = bent(tokens) * rng.lognormvariate(0, noise)
        errors.append(min(measured / curve.predict_ms(tokens) - 1, 1.0))
        curve.observe(tokens, measured)
    weights = [0.98**age for age in reversed(range(len(errors)))]
    weighed = list(zip(weights, errors, strict=True))
    assert curve.bias == pytest.approx(sum(weight * error for weight, error in weighed) / sum(weights))
    assert curve.mape == pytest.approx(sum(weight * abs(error) for weight, error in weighed) / sum(weights))
    assert curve.mape == pytest.approx(noise * 0.8, rel=0.4)
    assert abs(curve.bias or 0) < 0.04


def test_an_engine_that_became_slower_shows_as_bias() -> None:
    curve = taught(straight, one_of_the_sizes)
    assert curve.mape == pytest.approx(0, abs=0.01)
    taught(lambda tokens: 1.5 * straight(tokens), one_of_the_sizes, times=10, curve=curve)
    assert curve.bias is not None
    assert curve.bias > 0.05
    assert curve.bias == pytest.approx(curve.mape, abs=0.01)


def test_one_stall_is_not_all_of_the_error() -> None:
    curve = taught(straight, one_of_the_sizes)
    curve.observe(1000, 1e9)
    assert curve.mape == pytest.approx(1 / 50, rel=0.05)


# ── which curve is used, and the token ratios ────────────────────────────────────────────────────


def experienced(times: int) -> PrefillCurve:
    curve = PrefillCurve()
    for _ in range(times):
        curve.observe(1000, 50.0)
    return curve


def test_the_most_particular_curve_that_has_seen_enough_is_used() -> None:
    own, of_pool, of_fleet = experienced(16), experienced(20), experienced(50)
    assert best_known((own, of_pool, of_fleet)) is own
    assert best_known((experienced(15), of_pool, of_fleet)) is of_pool
    assert best_known((experienced(0), experienced(15), of_fleet)) is of_fleet
    fresh = experienced(0)
    assert best_known((experienced(0), experienced(0), fresh)) is fresh


def test_the_token_ratio_is_learned() -> None:
    ratio = TokenRatio()
    assert ratio.bytes_per_token == 4.0
    for _ in range(300):
        ratio.observe(6000, 2000)
    assert ratio.bytes_per_token == pytest.approx(3.0, rel=0.01)


def test_the_token_ratio_weighs_by_size() -> None:
    """A ratio of sums: a short prompt with its fixed template tokens counts for little."""
    ratio = TokenRatio()
    for _ in range(200):
        ratio.observe(40_000, 10_000)
        ratio.observe(10, 10)
    assert ratio.bytes_per_token == pytest.approx(4.0, rel=0.01)


@pytest.mark.parametrize(
    ("prompt_bytes", "prompt_tokens"),
    [(0, 0), (0, 500), (500, 0), (100, 1000), (40_000, 1000)],
    ids=["nothing", "no text", "no tokens", "an image", "more text than tokens can hold"],
)
def test_what_is_not_plain_text_teaches_no_ratio(prompt_bytes: int, prompt_tokens: int) -> None:
    ratio = TokenRatio()
    ratio.observe(prompt_bytes, prompt_tokens)
    assert ratio.bytes_per_token == 4.0


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=50))
def test_the_token_ratio_stays_that_of_text(measured: list[tuple[int, int]]) -> None:
    ratio = TokenRatio()
    for prompt_bytes, prompt_tokens in measured:
        ratio.observe(prompt_bytes, prompt_tokens)
    assert 0.5 <= ratio.bytes_per_token <= 32.0


def test_a_family_has_the_ratio_of_its_latest_prompt() -> None:
    ratios = TokenRatios(limit=2)
    assert (ratios.of(1, 4.0), ratios.of(None, 4.0)) == (4.0, 4.0)
    ratios.observe(1, 3000, 1000)
    ratios.observe(2, 5000, 1000)
    ratios.observe(1, 2000, 1000)
    assert (ratios.of(1, 4.0), ratios.of(2, 4.0)) == (2.0, 5.0)
    ratios.observe(3, 6000, 1000)
    assert [ratios.of(family, 4.0) for family in (1, 2, 3)] == [2.0, 4.0, 6.0], "the longest unused is forgotten"


@pytest.mark.parametrize(("family", "prompt_bytes", "prompt_tokens"), [(None, 3000, 1000), (1, 3000, 0), (1, 9, 5000)])
def test_a_family_learns_nothing_from_what_is_no_text(
    family: int | None, prompt_bytes: int, prompt_tokens: int
) -> None:
    ratios = TokenRatios()
    ratios.observe(family, prompt_bytes, prompt_tokens)
    assert ratios.of(family, 4.0) == 4.0
    assert ratios.of(1, 4.0) == 4.0
