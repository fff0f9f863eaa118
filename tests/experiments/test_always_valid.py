"""The boundary that may be looked at for ever, and what follows from it."""

from math import exp, inf, log, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm, t

from gateway.experiments.always_valid import boundary, contrast, student
from gateway.experiments.estimates import mean, share
from gateway.experiments.outlook import outlook

ERRORS = st.floats(1e-3, 1.0)


@settings(max_examples=20, deadline=None)
@given(ERRORS, st.sampled_from((0.01, 0.05, 0.2)))
def test_the_boundary_is_where_the_mixture_reaches_its_limit(error: float, alpha: float) -> None:
    """Against the integral of the likelihood ratio over the mixture, of which Ville's inequality speaks."""
    expected, estimate = 0.15, boundary(error, 0.15, alpha) * error

    def ratio(change: float) -> float:
        return exp((estimate * change - change**2 / 2) / error**2 - log(1 / alpha)) * norm.pdf(change, 0, expected)

    middle = estimate * expected**2 / (expected**2 + error**2)
    width = 12 * expected * error / sqrt(expected**2 + error**2)
    assert quad(ratio, middle - width, middle + width)[0] == pytest.approx(1.0, rel=1e-3)


@given(ERRORS)
def test_it_is_wider_than_an_interval_for_one_look(error: float) -> None:
    assert boundary(error, 0.15, 0.05) > 2.4
    assert boundary(error, 0.15, 0.01) > boundary(error, 0.15, 0.05)


def test_a_walk_without_drift_rarely_ever_leaves_it() -> None:
    rng = np.random.default_rng(5)
    steps = rng.normal(size=(1000, 1000))
    seen = np.arange(1, 1001)
    z = np.abs(np.cumsum(steps, axis=1)) / np.sqrt(seen)
    limit = np.array([boundary(1 / sqrt(count), 0.15, 0.05) for count in seen])
    assert 0.002 < np.mean(np.any(z > limit, axis=1)) <= 0.05


@given(st.floats(0.5, 6), st.floats(1.0, 200))
def test_student_is_as_rare_as_the_normal(critical: float, degrees: float) -> None:
    assert t.sf(student(critical, degrees), degrees) == pytest.approx(norm.sf(critical), rel=1e-5)


def test_without_degrees_nothing_is_ruled_out() -> None:
    assert student(2.0, 0.5) == inf
    assert student(inf, 50.0) == inf
    assert boundary(inf, 0.15, 0.05) == inf


def between(change: float, units: int = 400):
    rng = np.random.default_rng(3)
    values = rng.lognormal(0, 0.5, units)
    return contrast("relative", mean(values * (1 + change), np.arange(units)), mean(values, np.arange(units)))


def test_a_change_is_a_factor() -> None:
    found = between(0.2)
    assert exp(found.change) == pytest.approx(1.2)
    low, high = found.always_valid(0.05)
    assert low < found.change < high
    assert high - found.change == pytest.approx(found.change - low)
    assert found.error == pytest.approx(sqrt(2) * 0.5 / sqrt(400), rel=0.15)


def test_points_are_a_difference() -> None:
    whole, unit = np.ones(500), np.arange(500)
    found = contrast("points", share(whole * 0.5, whole, unit), share(whole * 0.4, whole, unit))
    assert found.change == pytest.approx(0.1)


def test_what_has_no_value_is_not_compared() -> None:
    nothing, some = mean(np.zeros(0), np.zeros(0, dtype=np.intp)), mean(np.ones(9), np.arange(9))
    assert contrast("relative", nothing, some) is None
    assert contrast("relative", some, nothing) is None


@settings(max_examples=20, deadline=None)
@given(st.floats(0.005, 0.1))
def test_so_many_times_the_units_reach_just_so_far(target: float) -> None:
    ahead = outlook(between(0.0, 200), 0.05)
    times = ahead.times_until(target)
    if times > 1:
        assert ahead.reach(times) == pytest.approx(target, rel=1e-2)
    else:
        assert ahead.reach(1.0) <= target


def test_power_grows_with_units_and_difference() -> None:
    ahead = outlook(between(0.0), 0.05)
    chances = [ahead.power(0.1, 0.05, times) for times in (1, 2, 4, 8, 16)]
    assert chances == sorted(chances)
    assert chances[0] < 0.5 < chances[-1]
    assert ahead.power(0.3, 0.05, 1) > chances[0]
    assert ahead.power(0.04, 0.05, 1000) < 0.01  # within the tie band it is never found
