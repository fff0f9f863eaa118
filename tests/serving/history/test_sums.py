"""Counters become what was added since the last look, and histograms quantiles."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.histogram import SECONDS, Histogram, bucket_quantile
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.routing.savings import skipped_gpu_s
from gateway.routing.snapshot import SeriesView, Snapshot
from gateway.serving.history.sums import Meter, Place, Sums, added


def series(
    replica: str, model: str, requests: int, prompt: int = 0, cached: int = 0, ttfts: tuple[float, ...] = ()
) -> SeriesView:
    histogram = Histogram(SECONDS)
    for ttft_s in ttfts:
        histogram.observe(ttft_s)
    return SeriesView(
        "p", replica, model, {"completed": requests, "timed_out": 1, "rejected": 2}, 0, {}, {}, prompt, 0, requests,
        requests, cached, cached, cached, 0, 0, 0, None, None, None, None, {"ttft_seconds": histogram},
    )  # fmt: skip


def snapshot(*rows: SeriesView) -> Snapshot:
    pool = PoolSpec("p", "m", (ReplicaSpec("a", "http://a"), ReplicaSpec("b", "http://b")))
    return replace(Router([pool]).snapshot(0.0), series=rows)


def test_what_came_is_told_once_and_models_are_added_up() -> None:
    meter = Meter(snapshot(series("a", "m", 5, 100, 50)))
    later = snapshot(series("a", "m", 7, 160, 70, (0.1,)), series("a", "n", 3, 10, 10), series("b", "m", 1))
    came = meter.read(later, {"p": 2})
    first = came[Place("p", "a")]
    assert (first.requests, first.prompt_tokens, first.delivered_tokens) == (2 + 3 + 3, 70, 30)
    assert (first.failed, first.refused, sum(first.ttft)) == (1, 2, 1)
    assert came[Place("p", "b")].requests == 1 + 3
    assert meter.read(later, {"p": 2}) == {}


def test_a_counter_that_falls_for_a_while_is_not_counted_twice() -> None:
    meter = Meter(snapshot(series("a", "m", 0)))
    whole = snapshot(series("a", "m", 10))
    assert meter.read(whole, {})[Place("p", "a")].requests == 10
    assert meter.read(snapshot(series("a", "m", 4)), {}) == {}, "a worker's figures are missing"
    assert meter.read(whole, {}) == {}
    assert meter.read(snapshot(series("a", "m", 11)), {})[Place("p", "a")].requests == 1


def test_skipped_prefill_is_the_curve_over_the_cached_part() -> None:
    view = replace(snapshot().replicas[0], curve_ms_per_token=0.1, curve_ms_per_token2=0.0001)
    whole, rest = (0.1 * tokens + 0.0001 * tokens**2 for tokens in (1000, 400))
    assert skipped_gpu_s(view, 2, 5, 5000, 3000) == pytest.approx(5 * 2 * (whole - rest) / 1000)
    assert skipped_gpu_s(view, 2, 0, 0, 0) == 0


@given(st.lists(st.floats(0.0, 100.0), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    true = sorted(values)[max(-(-int(share * len(values) * 1e9) // 10**9), 1) - 1]
    told = bucket_quantile(histogram.bounds, histogram.counts, share)
    bounds = (0.0, *SECONDS)
    assert told is not None
    assert any(low <= told <= high and low <= true <= high for low, high in zip(bounds, SECONDS, strict=False))


def test_nothing_has_no_quantile_and_sums_add_up() -> None:
    assert bucket_quantile(SECONDS, (0,) * 25, 0.5) is None
    one = Sums(requests=1, ttft_s=0.5, ttft=(1,) + (0,) * 24)
    assert added((one, one, Sums())) == Sums(requests=2, ttft_s=1.0, ttft=(2,) + (0,) * 24)
