"""Several processes that shared the requests show what one that served them all would."""

from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import count
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.reports import Usage
from gateway.routing.facts import Outcome, Refused
from gateway.routing.fleet import Fleet
from gateway.routing.health import HealthRules
from gateway.routing.index import PrefixIndex
from gateway.routing.merging import KEPT, Share, merged
from gateway.routing.queue_view import QueueView
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.routing.scoreboard import RECENT_TTFTS, Scoreboard
from gateway.routing.snapshot import SHOWN, take_snapshot

EIGHTHS = st.integers(0, 8 * 60).map(lambda eighths: eighths / 8)
"""Seconds that add up exactly."""


@dataclass(frozen=True)
class Request:
    """One ended request."""

    replica: str
    tenant: str
    family: int | None
    outcome: Outcome
    retries: int
    prompt_tokens: int
    available: int
    routed: int
    delivered: int | None
    seconds: float


REQUESTS = st.builds(
    Request,
    st.sampled_from(["a", "b", ""]),
    st.sampled_from(["anonymous", "key-1", "key-2"]),
    st.sampled_from([None, 1, 2, 3]),
    st.sampled_from(list(Outcome)),
    st.integers(0, 2),
    st.integers(1, 1000),
    st.integers(0, 900),
    st.integers(0, 900),
    st.none() | st.integers(0, 1000),
    EIGHTHS,
)


def count_in(board: Scoreboard, request: Request, at: float) -> None:
    """What the learner does at the end of a request."""
    series = board.of("p", request.replica, "m")
    series.end(request.outcome)
    series.retries += request.retries
    for histogram in (series.request, series.ttft, series.itl, series.route, series.overhead, series.held):
        histogram.observe(request.seconds)
    series.recent_ttfts.append((at, request.seconds))
    series.prompt_tokens += request.prompt_tokens
    series.completion_tokens += 7
    if request.delivered is None:
        series.unreported_prompt_tokens += request.prompt_tokens
        return
    series.prediction_error.observe(request.delivered - request.routed)
    for fall in (series.waterfall, board.tenants.of(request.tenant), board.families.of(request.family)):
        fall.add(request.prompt_tokens, request.available, request.routed, request.delivered)


def share_of(board: Scoreboard) -> Share:
    snapshot = take_snapshot("ttft", 0, QueueView(), Fleet(HealthRules()), PrefixIndex(), board, 0.0, KEPT)
    return Share(snapshot, tuple(tuple(series.recent_ttfts) for series in board.series.values()))


def sorted_parts(share: Share) -> Share:
    """In an order that does not depend on who came first."""
    shown = share.shown()
    return Share(
        replace(
            shown,
            series=tuple(sorted(shown.series, key=lambda one: one.replica)),
            tenants=tuple(sorted(shown.tenants, key=lambda one: one.name)),
            families=tuple(sorted(shown.families, key=lambda one: one.name)),
        ),
        (),
    )


@given(st.lists(st.tuples(REQUESTS, st.integers(0, 3)), max_size=40))
def test_the_views_of_a_partition_are_the_view_of_the_whole(served):
    """Counters, histograms, waterfalls, percentiles: `served` says which process took each request."""
    whole, parts = Scoreboard(), [Scoreboard() for _ in range(4)]
    for (request, place), at in zip(served, count(), strict=False):
        count_in(whole, request, at)
        count_in(parts[place], request, at)
    together = merged([share_of(part) for part in parts])
    assert sorted_parts(together) == sorted_parts(share_of(whole))
    sent = [merged([share_of(part), share_of(parts[0])]) for part in parts[1:]]
    assert all(msgspec.msgpack.decode(msgspec.msgpack.encode(one), type=Share) == one for one in sent)


@given(st.lists(st.tuples(REQUESTS, st.integers(0, 2)), max_size=30))
def test_it_does_not_matter_who_is_merged_first(served):
    parts = [Scoreboard() for _ in range(3)]
    for (request, place), at in zip(served, count(), strict=False):
        count_in(parts[place], request, at)
    one, two, three = map(share_of, parts)
    at_once, in_steps = merged([one, two, three]), merged([three, merged([two, one])])
    assert sorted_parts(at_once) == sorted_parts(in_steps)


def test_percentiles_are_of_the_latest_whoever_saw_them():
    """A process that is hardly asked must not have its old times count as much as a busy one's."""
    quiet, busy = Scoreboard(), Scoreboard()
    slow = Request("a", "t", 1, Outcome.COMPLETED, 0, 10, 0, 0, 0, 50.0)
    for at in range(10):
        count_in(quiet, slow, at)
    for at in range(10, 10 + RECENT_TTFTS):
        count_in(busy, replace(slow, seconds=1.0), at)
    [series] = merged([share_of(quiet), share_of(busy)]).snapshot.series
    assert series.ttft_p99_s == 1.0
    assert sum(series.histograms["ttft_seconds"].counts) == 10 + RECENT_TTFTS


def test_a_tenant_that_is_large_only_in_the_sum_is_shown():
    rng = Random(1)
    boards = [Scoreboard() for _ in range(3)]
    for number, board in enumerate(boards):
        for other in range(SHOWN + 20):
            count_in(board, small(f"of-{number}-{other}", rng.randrange(100, 200)), 0.0)
        count_in(board, small("everywhere", 99), 0.0)
    tenants = merged([share_of(board) for board in boards]).shown().tenants
    assert tenants[0].name == "everywhere"
    assert (tenants[0].prompt_tokens, tenants[0].requests) == (3 * 99, 3)
    assert len(tenants) == SHOWN + 1
    total = sum(fall.prompt_tokens for board in boards for fall in share_of(board).snapshot.tenants)
    assert sum(one.prompt_tokens for one in tenants) == total
    assert sum(one.requests for one in tenants) == 3 * (SHOWN + 21)


def small(tenant: str, prompt_tokens: int) -> Request:
    return Request("a", tenant, 1, Outcome.COMPLETED, 0, prompt_tokens, 0, 0, 0, 1.0)


def test_ratios_are_of_sums():
    boards = [Scoreboard(), Scoreboard()]
    for board, (prompt, delivered) in zip(boards, ((100, 100), (900, 0)), strict=True):
        count_in(board, replace(small("t", prompt), delivered=delivered), 0.0)
    snapshot = merged([share_of(board) for board in boards]).shown()
    assert Fraction(snapshot.series[0].hit_rate).limit_denominator(1000) == Fraction(1, 10)
    assert snapshot.tenants[0].hit_rate == snapshot.families[0].hit_rate == snapshot.series[0].hit_rate


@pytest.fixture
def busy(drive, pool_of):
    """Two replicas, one request in flight, some ended."""
    driver = drive(pool_of("p", "r1"), pool_of("q", "s1"))
    driver.load("r1", kv_capacity_tokens=5000, running_requests=2, kv_usage=0.5)
    for n in range(5):
        driver.serve(f"question {n} " * 100, after_ms=10.0 * (n + 1), usage=Usage(400, 20, 64), pinned_replica="r1")
    driver.route("in flight " * 500, pinned_replica="s1")
    driver.router.observe(Refused(driver.now, "m", Outcome.REJECTED))
    return driver


def test_what_all_know_alike_is_not_added_up(busy):
    share = busy.router.share(busy.now)
    together = merged([share, share, share]).shown()
    for one, three in zip(share.snapshot.replicas, together.replicas, strict=True):
        assert three.inflight == 3 * one.inflight
        assert three.index_bytes == 3 * one.index_bytes
        assert replace(three, inflight=one.inflight, index_bytes=one.index_bytes) == one
    assert sum(one.inflight for one in share.snapshot.replicas) == 1
    assert together.pools == share.snapshot.pools
    assert together.held == 3 * share.snapshot.held


def test_only_what_was_counted_outlives_a_process(busy):
    share = busy.router.share(busy.now)
    together = merged([share, share.counted()]).shown()
    assert together.replicas == share.snapshot.replicas
    assert together.held == share.snapshot.held
    for one, two in zip(share.snapshot.series, together.series, strict=True):
        assert two.prompt_tokens == 2 * one.prompt_tokens
        assert two.hit_rate == pytest.approx(one.hit_rate)


def test_a_single_share_is_itself():
    router = Router([PoolSpec("p", "m", (ReplicaSpec("p-0", "http://h:1"),))])
    router.observe(Refused(0.0, "m", Outcome.REJECTED))
    share = router.share(1.0)
    assert merged([share]) is share
    assert share.shown() == router.snapshot(1.0)


@pytest.mark.parametrize(("heard_of", "outside"), [(3, 0), (5, 2), (0, 0)])
def test_who_is_a_peer_to_one_process_is_none_to_all_of_them(busy, heard_of, outside):
    """One request there is the first process's own, 3 are the second's; the rest it has heard of is of outsiders."""
    share = busy.router.share(busy.now)
    first = share_with(share, "s1", inflight=1, peers_inflight=heard_of)
    second = share_with(share, "s1", inflight=3, peers_inflight=1)
    [replica] = [one for one in merged([first, second]).snapshot.replicas if one.name == "s1"]
    assert (replica.inflight, replica.peers_inflight) == (4, outside)


def share_with(share: Share, name: str, **figures: int) -> Share:
    replicas = tuple(replace(one, **figures) if one.name == name else one for one in share.snapshot.replicas)
    return replace(share, snapshot=replace(share.snapshot, replicas=replicas))
