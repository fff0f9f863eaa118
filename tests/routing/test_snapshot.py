"""Snapshots: frozen, complete and fit for JSON; histograms and quantiles by their definitions."""

from bisect import bisect_left
from fractions import Fraction
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.reports import Usage
from gateway.routing import histogram
from gateway.routing.facts import Outcome, Refused
from gateway.routing.histogram import Histogram
from gateway.routing.snapshot import Snapshot, quantile

ALL_BOUNDS = [
    histogram.SECONDS,
    histogram.ITL_SECONDS,
    histogram.OWN_SECONDS,
    histogram.ERROR_TOKENS,
    histogram.ERROR_SECONDS,
]

# ── histograms ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("bounds", ALL_BOUNDS)
def test_bounds_rise(bounds):
    assert all(low < high for low, high in pairwise(bounds))


@pytest.mark.parametrize(
    ("value", "bucket"), [(-5, 0), (0.99, 0), (1, 0), (1.01, 1), (2, 1), (3.5, 2), (4, 2), (4.01, 3), (1e9, 3)]
)
def test_a_bucket_holds_values_up_to_its_bound(value, bucket):
    counted = Histogram((1, 2, 4))
    counted.observe(value)
    assert counted.counts == [int(n == bucket) for n in range(4)]
    assert counted.total == value


@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.integers(0, 50)), max_size=40), st.sampled_from(ALL_BOUNDS))
def test_counts_and_total_are_those_of_the_values(observed, bounds):
    counted = Histogram(bounds)
    for value, times in observed:
        counted.observe(value, times)
    assert counted.total == pytest.approx(sum(value * times for value, times in observed), abs=1e-3)
    for place, bound in enumerate(bounds):
        at_most = sum(times for value, times in observed if value <= bound)
        assert sum(counted.counts[: place + 1]) == at_most
    assert sum(counted.counts) == sum(times for _, times in observed)


def test_a_copy_is_independent():
    original = Histogram((1, 2))
    original.observe(1)
    copy = original.copy()
    original.observe(5, 3)
    assert (copy.counts, copy.total) == ([1, 0, 0], 1)
    assert copy.bounds == original.bounds


def test_histograms_do_not_share_their_counts():
    one, other = Histogram((1,)), Histogram((1,))
    one.observe(0)
    assert other.counts == [0, 0]


# ── quantiles ────────────────────────────────────────────────────────────────────────────────────


def test_a_quantile_of_nothing_is_none():
    assert quantile([], 0.5) is None


@pytest.mark.parametrize(
    ("size", "share", "rank"),
    [(1, 0.99, 1), (2, 0.5, 1), (3, 0.5, 2), (10, 0.9, 9), (100, 0.99, 99), (100, 0.5, 50), (101, 0.99, 100)],
)
def test_quantiles_of_known_samples(size, share, rank):
    assert quantile([float(n) for n in range(1, size + 1)], share) == rank


@pytest.mark.parametrize(("share", "exact"), [(0.5, Fraction(1, 2)), (0.9, Fraction(9, 10)), (0.99, Fraction(99, 100))])
def test_quantiles_are_the_nearest_rank_at_every_size(share, exact):
    """The least value that at least the share of all values does not exceed."""
    for size in range(1, 600):
        rank = quantile([float(n) for n in range(1, size + 1)], share)
        assert rank is not None
        assert rank >= exact * size > rank - 1


@given(st.lists(st.floats(0, 100), min_size=1, max_size=60).map(sorted), st.floats(0, 1))
def test_a_quantile_is_one_of_the_values(ordered, share):
    value = quantile(ordered, share)
    assert value in ordered
    assert bisect_left(ordered, value) <= share * len(ordered)
    assert quantile(ordered, 0.0) == ordered[0]
    assert quantile(ordered, 1.0) == ordered[-1]


# ── snapshots ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def busy(drive, pool_of):
    """A fleet with something of everything."""
    driver = drive(pool_of("p", "r1", "r2"), pool_of("q", "s1", model=None), up=["r1"])
    driver.up("s1", models=["m", "lora"], version="0.5", block_tokens=64, reports_cached_tokens=True)
    driver.load("r1", kv_capacity_tokens=5000, running_requests=2, kv_usage=0.5)
    driver.down("r2", reason="connection refused")
    for n in range(20):
        driver.serve(f"question {n} " * 100, after_ms=10.0 * (n + 1), usage=Usage(400, 20, 64), pinned_replica="r1")
    driver.serve("hello " * 300, model="lora", usage=Usage(450, 9))
    driver.route("in flight " * 500, pinned_replica="s1")
    driver.router.observe(Refused(driver.now, "m", Outcome.REJECTED))
    return driver


def test_a_snapshot_survives_json(busy):
    snapshot = busy.router.snapshot(busy.now)
    encoded = msgspec.json.encode(snapshot)
    assert msgspec.json.decode(encoded, type=Snapshot) == snapshot


def test_the_snapshot_of_a_router_that_has_seen_nothing_survives_json(drive):
    driver = drive(up=[])
    plain = msgspec.json.decode(msgspec.json.encode(driver.router.snapshot(0.0)))
    assert [replica["state"] for replica in plain["replicas"]] == ["starting", "starting"]
    assert plain["series"] == []
    assert plain["policy"] == "ttft"


def test_a_snapshot_does_not_change_under_its_reader(busy):
    snapshot = busy.router.snapshot(busy.now)
    before = msgspec.json.encode(snapshot)
    decision = busy.serve("later " * 500, usage=Usage(700, 3, 0))
    busy.fail(busy.route("more " * 500))
    busy.down("r1", reason="gone")
    assert msgspec.json.encode(snapshot) == before
    assert busy.router.record(decision.request_id) is not None


def test_looking_changes_no_snapshot(busy):
    assert busy.router.snapshot(busy.now) == busy.router.snapshot(busy.now)


def test_a_snapshot_shows_pools_and_replicas(busy):
    snapshot = busy.router.snapshot(busy.now)
    assert snapshot.at == busy.now
    assert [(pool.name, pool.model) for pool in snapshot.pools] == [("p", "m"), ("q", None)]
    r1, r2, s1 = snapshot.replicas
    assert [view.name for view in (r1, r2, s1)] == ["r1", "r2", "s1"]
    assert [view.pool for view in (r1, r2, s1)] == ["p", "p", "q"]
    assert [view.model for view in (r1, r2, s1)] == ["m", "m", "lora,m"]
    assert [(view.state, view.reason) for view in (r1, r2, s1)] == [
        ("up", ""),
        ("down", "connection refused"),
        ("up", ""),
    ]
    assert [view.inflight for view in (r1, r2, s1)] == [0, 0, 1]
    assert s1.wait_ms > 0
    assert s1.version == "0.5"
    assert s1.index_bytes > s1.index_blocks > 0
    assert r1.index_fill <= 1.0
    assert r1.report.running_requests == 2
    assert r2.index_blocks == r2.index_bytes == r2.index_fill == r2.wait_ms == 0


def test_a_snapshot_shows_series(busy):
    series = busy.series("r1")
    assert series.outcomes == {"completed": 20}
    assert (series.prompt_tokens, series.completion_tokens, series.delivered_tokens) == (8000, 400, 1280)
    assert series.hit_rate == 0.16
    assert series.ttft_p50_s == pytest.approx(0.1)
    assert series.ttft_p90_s == pytest.approx(0.18)
    assert series.ttft_p99_s == pytest.approx(0.2)
    assert busy.series("s1", "lora").hit_rate == 0.0
    nobody = busy.series("")
    assert (nobody.pool, nobody.outcomes, nobody.hit_rate) == ("", {"rejected": 1}, None)
    assert (nobody.ttft_p50_s, nobody.ttft_p90_s, nobody.ttft_p99_s) == (None, None, None)


def test_percentiles_are_of_the_recent_requests(drive):
    driver = drive(up=["r1"])
    for n in range(600):
        driver.serve("hello", after_ms=1000 if n < 88 else 10)
    series = driver.series("r1")
    assert series.ttft_p99_s == pytest.approx(0.01)
    assert sum(series.histograms["ttft_seconds"].counts) == 600
