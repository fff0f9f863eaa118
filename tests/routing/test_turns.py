"""Turns: shares are those of the weights, whatever is asked for; for the time of not waiting nothing is owed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.turns import CREDIT, Turns

WEIGHTS = st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=2, max_size=5)
SIZES = st.lists(st.integers(1, 5000), min_size=60, max_size=60)


def serve(turns: Turns[int], weights: list[float], sizes: list[int], given: list[float]) -> int:
    """Serve the next of those who all wait; who it was."""
    who = min(range(len(weights)), key=turns.mark)
    tokens = sizes[int(sum(given)) % len(sizes)]
    turns.give(who, tokens, weights[who])
    given[who] += tokens
    return who


@given(WEIGHTS, SIZES)
def test_who_waits_is_never_further_behind_than_one_request_of_each(weights: list[float], sizes: list[int]) -> None:
    turns: Turns[int] = Turns()
    given = [0.0] * len(weights)
    for who in range(len(weights)):
        turns.join(who)
    for _ in range(200):
        serve(turns, weights, sizes, given)
        normal = [tokens / weight for tokens, weight in zip(given, weights, strict=True)]
        assert max(normal) - min(normal) <= max(sizes) / min(weights)


@given(WEIGHTS, SIZES)
def test_who_comes_later_is_owed_nothing(weights: list[float], sizes: list[int]) -> None:
    turns: Turns[int] = Turns()
    turns.join(0)
    for _ in range(50):
        turns.give(0, 5000, weights[0])
    turns.join(1)
    assert turns.mark(0) - turns.mark(1) <= 5000 / weights[0], "but for the one that is being served"
    given = [0.0, 0.0]
    for _ in range(100):
        serve(turns, weights[:2], [2500 + size for size in sizes], given)
    assert given[0] > 0, "the newcomer does not get all that the other one had"


def test_who_was_served_alone_and_left_does_not_begin_anew() -> None:
    """Short visits, again and again, are no way to get more."""
    turns: Turns[str] = Turns()
    turns.join("steady")
    given = {"steady": 0, "visits": 0}
    for _ in range(300):
        turns.join("visits")
        who = min(("steady", "visits"), key=turns.mark)
        turns.give(who, 100, 1.0)
        given[who] += 100
    assert given["steady"] == pytest.approx(given["visits"], rel=0.02)


def test_credit_has_an_end() -> None:
    turns: Turns[str] = Turns()
    turns.join("blocked")
    turns.join("other")
    for _ in range(1000):
        turns.give("other", 10_000, 1.0)
    assert turns.mark("other") - turns.mark("blocked") <= CREDIT + 10_000


def test_many_strangers_are_forgotten() -> None:
    turns: Turns[int] = Turns()
    for who in range(20_000):
        turns.join(who)
        turns.give(who, 10, 1.0)
    assert len(turns._marks) < 5000
