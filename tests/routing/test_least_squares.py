"""The quadratic fit: exact where it can be, the best non-negative one otherwise, forgetting only in one direction."""

from collections.abc import Callable

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gateway.routing.least_squares import QuadraticSums, Terms

positions = st.floats(0.01, 10)
points = st.lists(st.tuples(positions, st.floats(0, 100), st.floats(0.1, 10)), min_size=1, max_size=12)


def sums_of(observed: list[tuple[float, float, float]]) -> QuadraticSums:
    sums = QuadraticSums()
    for x, y, weight in observed:
        sums.add(x, y, weight)
    return sums


def value(terms: Terms | None, x: float) -> float:
    assert terms is not None
    return terms[0] + terms[1] * x + terms[2] * x * x


def squared_error(terms: Terms | None, observed: list[tuple[float, float, float]]) -> float:
    return sum(weight * (value(terms, x) - y) ** 2 for x, y, weight in observed)


def on(curve: Callable[[float], float], *places: float) -> QuadraticSums:
    return sums_of([(x, curve(x), 1.0) for x in places])


@given(st.tuples(*[st.floats(0.1, 10)] * 3))
def test_a_curve_through_three_points_is_found(terms: Terms) -> None:
    found = on(lambda x: value(terms, x), 0, 1, 3).fit()
    assert found == pytest.approx(terms, rel=1e-6)


def test_nothing_fits_nothing() -> None:
    assert QuadraticSums().fit() is None


def test_all_points_at_one_place_fit_there() -> None:
    assert value(on(lambda x: 7.0, 2, 2, 2).fit(), 2) == pytest.approx(7)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (lambda x: 5 - x, (2.5, 0, 0)),
        (lambda x: 4 * x - 2, (0, 4 - 2 * 10 / 30, 0)),
        (lambda x: 5 + 4 * x - x * x, None),
        (lambda x: x * x - 3, None),
        (lambda x: -1.0, (0, 0, 0)),
    ],
)
def test_no_term_is_negative(curve: Callable[[float], float], expected: Terms | None) -> None:
    places = (0, 1, 2, 3, 4) if expected != (2.5, 0, 0) else (0, 5)
    found = on(curve, *places).fit()
    if expected == (0, 0, 0):
        assert found is None, "no allowed curve is better than none"
        return
    assert found is not None
    assert min(found) >= 0
    assert max(found) > 0


@given(points, st.tuples(*[st.floats(0, 50)] * 3))
def test_no_other_allowed_curve_is_better(observed: list[tuple[float, float, float]], other: Terms) -> None:
    found = sums_of(observed).fit()
    assume(found is not None)
    assert found is not None
    assert min(found) >= 0
    least = squared_error(found, observed)
    for place in range(3):  # its neighbours, too
        for step in (-1e-3, 1e-3):
            near = list(found)
            near[place] = max(near[place] * (1 + step) + step, 0.0)
            assert squared_error((near[0], near[1], near[2]), observed) >= least - 1e-6 * (1 + least)
    assert squared_error(other, observed) >= least - 1e-6 * (1 + least)


@given(points, st.floats(0.1, 10))
def test_scaling_is_as_if_all_had_been_scaled(observed: list[tuple[float, float, float]], factor: float) -> None:
    sums = sums_of(observed)
    sums.scale(factor)
    expected = sums_of([(x, y * factor, weight / factor**2) for x, y, weight in observed])
    found, wanted = sums.fit(), expected.fit()
    if wanted is not None:
        scaled = [(x, y * factor, weight / factor**2) for x, y, weight in observed]
        assert squared_error(found, scaled) == pytest.approx(squared_error(wanted, scaled), rel=1e-6, abs=1e-6)


def test_an_observation_fades_only_what_is_like_it() -> None:
    """A curve through three places; at one of them another value is then seen, again and again."""
    sums = on(lambda x: 10 + 5 * x, 0, 1, 8)
    for _ in range(20):
        sums.add(8.0, 80.0, 1.0, keep=0.9)
    assert value(sums.fit(), 8) == pytest.approx(80, rel=0.01)
    assert value(sums.fit(), 1) == pytest.approx(15, rel=0.01)
    assert value(sums.fit(), 0) == pytest.approx(10, rel=0.01)


def test_what_is_seen_nowhere_else_stays_known() -> None:
    sums = on(lambda x: 10 + 5 * x, 0, 1, 8)
    for n in range(10_000):
        x = 0.01 * (n % 7)
        sums.add(x, 10 + 5 * x, 1.0, keep=0.9)
    assert value(sums.fit(), 8) == pytest.approx(50)


def test_forgetting_alone_changes_no_fit() -> None:
    sums, same = on(lambda x: 10 + 5 * x + x * x, 0, 1, 8), on(lambda x: 10 + 5 * x + x * x, 0, 1, 8)
    same.add(2.0, 24.0, 0.0, keep=0.5)
    assert sums.fit() == pytest.approx(same.fit())


@given(st.lists(st.tuples(st.floats(0, 130), st.floats(0, 1e6)), min_size=1, max_size=30), st.integers(1, 60))
def test_a_long_life_breaks_nothing(observed: list[tuple[float, float]], times: int) -> None:
    sums = on(lambda x: 17 + 547 * x, 0, 1, 8)
    for x, y in observed * times:
        sums.add(x, y, 1 / max(y, 1.0) ** 2, keep=0.97)
        found = sums.fit()
        assert found is not None
        assert min(found) >= 0
        assert max(found) < 1e9
