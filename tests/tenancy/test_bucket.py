"""The token bucket: never more than a minute's worth and what has flowed in since, whatever is asked and when."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.tenancy.bucket import Bucket

asks = st.lists(st.tuples(st.integers(0, 200), st.floats(0, 90)), max_size=40)
"""What is asked for, and seconds since the one before."""


@given(asks, st.integers(1, 100))
def test_no_window_lets_more_through_than_a_bucket_and_its_inflow(wanted: list[tuple[int, float]], size: int) -> None:
    bucket, now = Bucket(size), 0.0
    taken: list[tuple[float, int]] = []
    for amount, pause in wanted:
        now += pause
        amount = min(amount, size)
        if not bucket.wait_s(amount, now):
            bucket.take(amount, now)
            taken.append((now, amount))
    for start in range(len(taken)):
        for end in range(start, len(taken)):
            window = taken[end][0] - taken[start][0]
            assert sum(amount for _, amount in taken[start : end + 1]) <= size * (1 + window / 60) + 1e-6


@given(asks, st.integers(1, 100))
def test_who_waits_as_long_as_told_gets_it(wanted: list[tuple[int, float]], size: int) -> None:
    bucket, now = Bucket(size), 0.0
    for amount, pause in wanted:
        now += pause
        now += bucket.wait_s(amount, now) + 1e-6
        assert bucket.wait_s(amount, now) == 0
        bucket.take(amount, now)


def test_a_full_bucket_is_one_minute() -> None:
    bucket = Bucket(60)
    bucket.take(60, 10.0)
    assert bucket.wait_s(1, 10.0) == pytest.approx(1)
    assert bucket.wait_s(1000, 10.0) == pytest.approx(60), "nobody waits for more than a full one"
    assert bucket.left(40.0) == pytest.approx(30)
    assert bucket.left(10_000.0) == 60


def test_what_is_owed_is_paid_first_and_what_is_put_back_is_there() -> None:
    bucket = Bucket(60)
    bucket.take(90, 0.0)
    assert bucket.left(0.0) == -30
    assert bucket.wait_s(1, 0.0) == pytest.approx(31)
    bucket.take(-20, 0.0)
    assert bucket.left(0.0) == -10
    bucket.take(-500, 0.0)
    assert bucket.left(0.0) == 60


def test_clocks_that_go_back_give_nothing() -> None:
    bucket = Bucket(60)
    bucket.take(60, 100.0)
    assert bucket.left(50.0) == 0
    assert bucket.left(101.0) == pytest.approx(1)


def test_another_size_keeps_what_was_taken() -> None:
    bucket = Bucket(60)
    bucket.take(50, 0.0)
    bucket.resize(100, 0.0)
    assert bucket.left(0.0) == 50
    bucket.resize(10, 0.0)
    assert bucket.left(0.0) == -40
