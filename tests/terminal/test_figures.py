"""What happened between two snapshots."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.reports import Usage
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, FirstToken, Outcome, ReplicaUp
from gateway.routing.histogram import bucket_quantile
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.terminal.figures import Watched

BOUNDS = (1.0, 2.0, 4.0)


def router() -> Router:
    made = Router([PoolSpec("p", "m", (ReplicaSpec("p-0", "http://a"),))], rng=Random(1))
    made.observe(ReplicaUp("p-0", 0.0))
    return made


def served(one: Router, number: int, now: float, ttft_s: float, cached: int, outcome: Outcome) -> None:
    request = RouteRequest(str(number), "m", chain(b"n", b"x" * 4096), True, now)
    decision = one.route(request, now)
    assert isinstance(decision, Decision)
    one.observe(FirstToken(decision.ticket, now + ttft_s))
    one.observe(Finished(decision.ticket, now + ttft_s + 1, outcome, Usage(1000, 10, cached)))


def test_quantiles_lie_in_their_bucket() -> None:
    assert bucket_quantile(BOUNDS, (0, 10, 0, 0), 0.5) == pytest.approx(1.5)
    assert bucket_quantile(BOUNDS, (10, 0, 10, 0), 0.99) == pytest.approx(2 + 2 * 0.98)
    assert bucket_quantile(BOUNDS, (0, 0, 0, 5), 0.5) == 4.0
    assert bucket_quantile(BOUNDS, (0, 0, 0, 0), 0.5) is None


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_quantiles_grow_with_their_share(counts: list[int], one: float, other: float) -> None:
    low, high = (bucket_quantile(BOUNDS, counts, share) for share in sorted((one, other)))
    assert (low is None) == (high is None) == (sum(counts) == 0)
    assert low is None or high is None or low <= high


def test_the_first_snapshot_shows_all_that_was() -> None:
    one, watched = router(), Watched()
    served(one, 1, 1.0, 0.5, 600, Outcome.COMPLETED)
    watched.add(one.snapshot(10.0))
    assert watched.whole().hit_rate == pytest.approx(0.6)
    assert watched.whole().requests_per_s == 0.0
    assert watched.by_replica()["p-0"].added.requests == 1


def test_later_ones_show_what_was_added() -> None:
    one, watched = router(), Watched()
    served(one, 1, 1.0, 0.5, 600, Outcome.COMPLETED)
    watched.add(one.snapshot(10.0))
    for number in range(2, 7):
        served(one, number, 11.0, 3.5, 900, Outcome.ENGINE_FAILED if number == 2 else Outcome.COMPLETED)
    watched.add(one.snapshot(20.0))
    flow = watched.whole()
    assert flow.requests_per_s == pytest.approx(0.5)
    assert flow.hit_rate == pytest.approx(0.9)
    assert flow.added.failed == 1
    ttft_s = flow.ttft_s(0.5)
    assert ttft_s is not None
    assert 3 < ttft_s < 4
    assert list(watched.rates) == [pytest.approx(0.5)]


def test_old_snapshots_leave_the_window() -> None:
    one, watched = router(), Watched()
    for at in range(100):
        served(one, at, float(at), 0.1, 0, Outcome.COMPLETED)
        watched.add(one.snapshot(at + 1.5))
    assert watched.whole().seconds == pytest.approx(30.0, abs=1.0)
    assert watched.whole().requests_per_s == pytest.approx(1.0)
    assert len(watched.rates) == 60


def test_a_gateway_that_was_started_again_begins_anew() -> None:
    before, watched = router(), Watched()
    for number in range(5):
        served(before, number, 1.0, 0.5, 0, Outcome.COMPLETED)
    watched.add(before.snapshot(1000.0))
    after = router()
    served(after, 1, 1.0, 0.5, 500, Outcome.COMPLETED)
    watched.add(after.snapshot(5.0))
    assert watched.whole().added.requests == 1
    assert watched.whole().hit_rate == pytest.approx(0.5)
