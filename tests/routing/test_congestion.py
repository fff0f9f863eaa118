"""What a second of prefill costs others: a floor on an idle fleet, more the busier it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.congestion import LEAST_SHARE, MOST_BUSY, WEIGHT, WINDOW_S, Congestion


def steady(busy: float, replicas: int = 1, seconds: float = 120.0) -> tuple[Congestion, float]:
    """A fleet that has been sent so much work for so long, in pieces of 100 ms of the clock; and now."""
    congestion, now = Congestion(), 0.0
    for number in range(round(10 * seconds)):
        now = number / 10
        congestion.routed(now, number % replicas, 100 * busy * replicas)
    return congestion, now


def test_an_idle_fleet_has_the_least_share() -> None:
    congestion = Congestion()
    assert congestion.busy(5.0, [0, 1, 2]) == 0
    assert congestion.price(5.0, [0, 1, 2]).share == LEAST_SHARE == 0.3


@pytest.mark.parametrize("busy", [0.1, 0.3, 0.5, 0.7, 0.85])
@pytest.mark.parametrize("replicas", [1, 4])
def test_the_share_of_what_replicas_can_do(busy: float, replicas: int) -> None:
    congestion, now = steady(busy, replicas)
    assert congestion.busy(now, range(replicas)) == pytest.approx(busy, rel=0.01)
    expected = max(LEAST_SHARE, WEIGHT * busy / (1 - busy))
    assert congestion.price(now, range(replicas)).share == pytest.approx(expected, rel=0.06)


def test_other_replicas_work_is_not_theirs() -> None:
    """Those of another model, or all but the one that a request is pinned to."""
    congestion, now = steady(0.8)
    assert congestion.busy(now, [0]) == pytest.approx(0.8, rel=0.01)
    assert congestion.busy(now, [1, 2]) == 0
    assert congestion.busy(now, [0, 1]) == pytest.approx(0.4, rel=0.01)


def test_more_than_the_fleet_can_do_counts_as_nearly_full() -> None:
    congestion, now = steady(3.0)
    assert congestion.busy(now, [0]) == MOST_BUSY
    assert congestion.price(now, [0]).share == pytest.approx(WEIGHT * 9)


def test_only_the_last_minute_counts() -> None:
    congestion, now = steady(0.8)
    assert congestion.busy(now + WINDOW_S / 2, [0]) == pytest.approx(0.4, rel=0.01)
    assert congestion.busy(now + WINDOW_S + 1, [0]) == 0
    assert congestion._work_ms == {}
    assert not congestion._routed


def test_the_first_seconds_are_not_taken_for_a_minute() -> None:
    congestion, now = steady(0.5, seconds=20)
    assert congestion.busy(now, [0]) == pytest.approx(0.5, rel=0.02)
    one = Congestion()
    one.routed(100.0, 0, 1000)
    assert one.busy(100.0, [0]) == pytest.approx(0.2), "nor for an instant"


@given(
    st.lists(st.tuples(st.floats(0, 100), st.floats(0, 5000), st.booleans()), max_size=40),
    st.integers(1, 8),
)
def test_against_a_sum_over_all(steps: list[tuple[float, float, bool]], replicas: int) -> None:
    congestion, now = Congestion(), 1000.0
    sent: list[tuple[float, float]] = []
    for wait_s, work_ms, look in steps:
        now += wait_s
        if look:
            congestion.price(now, range(replicas))
        congestion.routed(now, len(sent) % replicas, work_ms)
        sent.append((now, work_ms))
        work = sum(ms for at, ms in sent if at >= now - WINDOW_S)
        window_s = min(max(now - sent[0][0], 5.0), WINDOW_S)
        expected = min(work / (1000 * window_s * replicas), MOST_BUSY)
        assert congestion.busy(now, range(replicas)) == pytest.approx(expected, abs=1e-9)
        share = congestion.price(now, range(replicas)).share
        assert LEAST_SHARE <= share <= WEIGHT * MOST_BUSY / (1 - MOST_BUSY) + 1e-9


def test_a_busy_fleet_makes_prefill_dearer(drive) -> None:  # type: ignore[no-untyped-def]
    """Two replicas with 60 % of what they can do."""
    driver = drive()
    for number in range(150):
        decision = driver.route(f"prompt {number} " * 2000)
        driver.first_token(decision, decision.chosen.prefill_ms)
        driver.finish(decision)
        driver.now += decision.chosen.prefill_ms / 1000 * (1 / 1.2 - 1)
    chosen = driver.route("one more " * 2000).chosen
    assert 0.35 < chosen.others_ms / chosen.prefill_ms < 0.6  # 0.25 × 0.6 / 0.4, and those who come meanwhile


def test_long_prompts_cost_more_where_many_others_come() -> None:
    congestion = Congestion()
    for second in range(60):
        congestion.routed(float(second), second % 4 // 3, 10)  # 45 requests to replica 0, 15 to replica 1
    price = congestion.price(60.0, [0, 1, 2])
    idle = 1 - congestion.busy(60.0, [0, 1, 2])
    for slot, per_s in ((0, 0.75), (1, 0.25), (2, 0.0)):
        delayed_ms = idle * per_s * 4.0**2 / 2 * 1000  # those who come in its four seconds wait for half of them
        cost_ms = 4000 * (price.share + price.per_request * price.requests[slot] * 4000)
        assert cost_ms == pytest.approx(4000 * price.share + delayed_ms, rel=0.03)
