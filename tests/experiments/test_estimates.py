"""Laws of estimates whose requests come in units."""

from math import inf, isnan, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.experiments.clusters import spread
from gateway.experiments.estimates import held, mean, quantile, quantiles, rate, share, total, weighted_median

REQUESTS = st.lists(st.tuples(st.integers(0, 9), st.floats(0.01, 100)), min_size=1, max_size=60)


def columns(requests: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([value for _, value in requests]), np.array([unit for unit, _ in requests], dtype=np.intp)


def everything(values: np.ndarray, unit: np.ndarray) -> list:
    return [
        mean(values, unit),
        total(values, unit),
        share(values * 0.3, values, unit),
        rate((values > 50).astype(float), unit),
        *quantiles(values, unit, (0.5, 0.9, 0.99)),
        weighted_median(values, unit, np.ones_like(values), np.zeros(len(values), dtype=np.intp))
        if len(np.unique(unit)) > 1
        else quantile(values, unit, 0.5),
    ]


@settings(max_examples=30, deadline=None)
@given(REQUESTS)
def test_limits_hold_the_value_and_widen(requests: list[tuple[int, float]]) -> None:
    for estimate in everything(*columns(requests)):
        previous = (estimate.value, estimate.value)
        for critical in (0.5, 2.0, 5.0):
            low, high = estimate.limits(critical)
            assert low <= previous[0] + 1e-9
            assert high >= previous[1] - 1e-9
            previous = (low, high)
        assert previous[0] >= 0


@settings(max_examples=30, deadline=None)
@given(REQUESTS)
def test_units_are_names_only(requests: list[tuple[int, float]]) -> None:
    values, unit = columns(requests)
    for one, other in zip(everything(values, unit), everything(values, (9 - unit) * 3), strict=True):
        assert one.value == pytest.approx(other.value)
        assert one.spread.error == pytest.approx(other.spread.error)
        assert one.spread.effective_units == pytest.approx(other.spread.effective_units)


@settings(max_examples=30, deadline=None)
@given(REQUESTS)
def test_effective_units_are_no_more_than_the_units(requests: list[tuple[int, float]]) -> None:
    for estimate in everything(*columns(requests)):
        assert 1.0 <= estimate.spread.effective_units <= estimate.spread.units + 1e-6


def test_nothing_observed_has_no_value() -> None:
    nothing, unit = np.zeros(0), np.zeros(0, dtype=np.intp)
    for estimate in (mean(nothing, unit), total(nothing, unit), share(nothing, nothing, unit), rate(nothing, unit)):
        assert isnan(estimate.value)
        assert estimate.spread.error == inf
    assert isnan(quantile(nothing, unit, 0.5).value)
    assert isnan(weighted_median(nothing, unit, nothing, unit).value)


def test_one_unit_says_nothing_of_its_error() -> None:
    values, unit = np.arange(1.0, 101.0), np.zeros(100, dtype=np.intp)
    for estimate in (mean(values, unit), total(values, unit), quantile(values, unit, 0.5)):
        assert estimate.value > 0
        assert estimate.limits(1.96) == (0.0, inf)


def test_units_of_one_request_have_the_usual_error() -> None:
    values = np.random.default_rng(1).lognormal(size=400)
    found = mean(values, np.arange(400)).spread
    assert found.error * values.mean() == pytest.approx(values.std(ddof=1) / sqrt(400), rel=1e-6)
    assert found.effective_units == pytest.approx(400)


def test_a_request_seen_ten_times_says_no_more_than_once() -> None:
    values = np.random.default_rng(1).lognormal(size=80)
    once, tenfold = (
        quantile(values, np.arange(80), 0.5),
        quantile(np.repeat(values, 10), np.repeat(np.arange(80), 10), 0.5),
    )
    assert tenfold.spread.error == pytest.approx(once.spread.error, rel=0.02)
    assert tenfold.spread.effective_units == pytest.approx(once.spread.effective_units, rel=0.02)


def test_degrees_of_freedom_are_those_of_the_matrix() -> None:
    """Against Bell & McCaffrey's degrees by plain linear algebra, requests of a unit being all alike."""
    counts = np.array([1, 2, 3, 5, 8, 13, 40])
    parts = counts / counts.sum()
    centred = np.eye(len(counts)) - np.ones((len(counts), 1)) @ parts[None]
    divided = np.diag(parts / np.sqrt(1 - parts))
    square = divided @ centred @ centred.T @ divided
    unit = np.repeat(np.arange(len(counts)), counts)
    found = spread(np.where(unit % 2, 1.0, -1.0), np.ones(len(unit)), unit)
    assert found.degrees == pytest.approx(np.trace(square) ** 2 / np.trace(square @ square))
    assert found.degrees < 2  # of seven units, the largest of which has more than half


def test_what_was_never_seen_may_still_happen() -> None:
    unit = np.repeat(np.arange(50), 200)
    never = rate(np.zeros(10_000), unit)
    once = rate(np.eye(1, 10_000)[0], unit)
    assert never.value == 0
    assert never.limits(1.96)[1] == pytest.approx(0.07, abs=0.02)
    assert once.limits(1.96)[1] == pytest.approx(never.limits(1.96)[1], rel=0.01)


def test_many_events_are_counted_as_usual() -> None:
    events = (np.arange(20_000) % 10 == 0).astype(float)
    low, high = rate(events, np.arange(20_000)).limits(1.96)
    assert (high - low) / 2 == pytest.approx(1.96 * sqrt(0.1 * 0.9 / 20_000), rel=0.02)


def test_the_tail_of_few_requests_is_open_above() -> None:
    values = np.arange(1.0, 101.0)
    low, high = quantile(values, np.arange(100), 0.99).limits(1.96)
    assert 90 <= low < 99
    assert high == inf


def test_equal_values_have_no_error() -> None:
    assert quantile(np.full(50, 0.2), np.arange(50), 0.5).limits(4.0) == (0.2, 0.2)


def test_weights_move_the_median() -> None:
    values, unit = np.array([1.0, 2.0, 3.0, 10.0]), np.arange(4)
    stratum = np.zeros(4, dtype=np.intp)
    assert weighted_median(values, unit, np.ones(4), stratum).value == 2.0
    assert weighted_median(values, unit, np.array([1.0, 1.0, 1.0, 9.0]), stratum).value == 10.0


def test_strata_make_a_median_surer() -> None:
    rng = np.random.default_rng(2)
    stratum = np.repeat(np.arange(4), 500).astype(np.intp)
    values, unit = np.exp(stratum) * rng.lognormal(0, 0.1, 2000), rng.permutation(2000)
    plain = quantile(values, unit, 0.5).spread.error
    assert weighted_median(values, unit, np.ones(2000), stratum).spread.error < plain / 2


def test_held_is_the_part_of_the_stratum() -> None:
    unit, stratum = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 1])
    assert held(unit, stratum).tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3, 1 / 2, 1 / 2])
