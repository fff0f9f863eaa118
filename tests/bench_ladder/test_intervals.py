"""Laws of comparisons: who is first does not matter, nor does the unit; noise is no difference, a real one is."""

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.bench.intervals import Ratio, Verdict, ratio_of, slope_of, verdict_of

TIMES = st.lists(st.floats(1, 1000), min_size=1, max_size=7)
SEVERAL = st.lists(st.floats(1, 1000), min_size=4, max_size=7)


@given(TIMES, TIMES)
@settings(max_examples=20, deadline=None)
def test_the_estimate_is_within_its_interval(first: list[float], second: list[float]) -> None:
    ratio = ratio_of(first, second)
    assert ratio.low <= ratio.estimate * (1 + 1e-9)
    assert ratio.estimate <= ratio.high * (1 + 1e-9)


@given(SEVERAL, SEVERAL)
@settings(max_examples=20, deadline=None)
def test_the_other_way_round_is_the_inverse(first: list[float], second: list[float]) -> None:
    there, back = ratio_of(first, second), ratio_of(second, first)
    assert back.estimate == pytest.approx(1 / there.estimate)
    assert back.low == pytest.approx(1 / there.high)
    assert back.high == pytest.approx(1 / there.low)


@given(SEVERAL, SEVERAL, st.floats(0.01, 100))
@settings(max_examples=20, deadline=None)
def test_the_unit_does_not_matter(first: list[float], second: list[float], unit: float) -> None:
    plain = ratio_of(first, second)
    scaled = ratio_of([unit * one for one in first], [unit * one for one in second])
    assert scaled.estimate == pytest.approx(plain.estimate)
    assert (scaled.low, scaled.high) == (pytest.approx(plain.low), pytest.approx(plain.high))


@given(st.floats(0.3, 3), st.floats(1, 1.5), st.floats(1, 1.5), st.floats(0.001, 0.2))
def test_verdicts_turn_with_the_ratio(estimate: float, down: float, up: float, margin: float) -> None:
    ratio = Ratio(estimate, estimate / down, estimate * up)
    turned = Ratio(1 / estimate, 1 / ratio.high, 1 / ratio.low)
    assert verdict_of(turned, margin) is verdict_of(ratio, margin).turned


@given(st.floats(0.5, 2), st.floats(1, 1.3), st.floats(0.001, 0.2), st.floats(1, 3))
def test_a_wider_interval_never_settles_what_a_narrow_one_left_open(
    estimate: float, spread: float, margin: float, wider: float
) -> None:
    narrow = verdict_of(Ratio(estimate, estimate / spread, estimate * spread), margin)
    wide = verdict_of(Ratio(estimate, estimate / spread / wider, estimate * spread * wider), margin)
    assert wide in (narrow, Verdict.OPEN)


def test_too_few_answers_settle_nothing() -> None:
    ratio = ratio_of([10.0, 10.1, 10.2], [20.0, 20.1, 20.2])
    assert (ratio.low, ratio.high) == (0.0, math.inf)
    assert ratio.estimate == pytest.approx(2, rel=0.01)
    assert verdict_of(ratio, 0.02) is Verdict.OPEN


def test_four_answers_are_enough() -> None:
    ratio = ratio_of([10.0, 10.1, 10.2, 10.3], [20.0, 20.1, 20.2, 20.3])
    assert verdict_of(ratio, 0.02) is Verdict.BETTER


def test_an_outlier_does_not_decide() -> None:
    calm = [100.0, 100.2, 100.4, 100.6, 100.8, 101.0]
    ratio = ratio_of(calm, [*calm[1:], 900.0])
    assert ratio.estimate == pytest.approx(1, abs=0.005)
    assert verdict_of(ratio, 0.03) in (Verdict.TIE, Verdict.OPEN)


def test_two_percent_is_a_tie_and_ten_are_not() -> None:
    """The published pairs: 1658 against 1691 and 1824 ms."""
    rng = random.Random(1)
    w4a8, w4a16, fp4 = ([ms + rng.uniform(0, 4) for _ in range(5)] for ms in (1658, 1691, 1824))
    assert verdict_of(ratio_of(w4a8, w4a16), 0.03) is Verdict.TIE
    assert verdict_of(ratio_of(w4a8, fp4), 0.03) is Verdict.BETTER
    assert verdict_of(ratio_of(fp4, w4a16), 0.03) is Verdict.WORSE


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = random.Random(7)
    truth, held = math.exp(0.05), 0
    for _ in range(60):
        first, second = ([math.exp(rng.gauss(mean, 0.1)) for _ in range(5)] for mean in (0, 0.05))
        ratio = ratio_of(first, second)
        held += ratio.low <= truth <= ratio.high
    assert held >= 52


def test_a_line_is_found_in_spite_of_outliers() -> None:
    tokens = [8192, 16_384, 24_576] * 4
    times = [564 + 547 * (one / 8192 - 1) for one in tokens]
    times[2] *= 3
    slope = slope_of(tokens, times)
    assert slope is not None
    assert 8192 * slope.estimate == pytest.approx(547)
    assert slope.low <= slope.estimate <= slope.high


def test_one_length_is_no_line() -> None:
    assert slope_of([8192, 8192], [1.0, 2.0]) is None
