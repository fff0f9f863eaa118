"""Circuit breakers and back-off: what opens one, what does not, and that a request is never refused because of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.facts import Cause, Outcome
from gateway.routing.health import MOST_PAUSE_S, BreakerState, Health, HealthRules

RULES = HealthRules()


def opened(now: float = 0.0) -> Health:
    health = Health(RULES)
    for ticket in range(3):
        health.failed(ticket, now)
    return health


def prove(health: Health, now: float) -> None:
    for ticket in (100, 101):
        health.booked(ticket, now)
        health.succeeded(ticket, now)


def test_three_failures_in_a_row_open_it_and_it_is_half_open_after_a_while() -> None:
    health = Health(RULES)
    health.failed(1, 0.0)
    health.failed(2, 0.2)
    assert health.state(0.3) is BreakerState.CLOSED
    health.failed(3, 0.4)
    assert health.state(0.5) is BreakerState.OPEN
    assert not health.admits(2.3)
    assert health.state(2.5) is BreakerState.HALF_OPEN
    assert health.admits(2.5)


def test_failures_far_apart_or_among_many_successes_do_not() -> None:
    health = Health(RULES)
    for ticket in range(100):
        health.failed(ticket, 60.0 * ticket)
        assert not health.is_broken
    health = Health(RULES)
    for ticket in range(0, 400, 4):
        health.failed(ticket, ticket * 0.01)
        for other in range(1, 4):
            health.succeeded(ticket + other, ticket * 0.01)
        assert not health.is_broken


def test_two_failures_in_three_do() -> None:
    health = Health(RULES)
    for ticket in range(0, 30, 3):
        health.failed(ticket, ticket * 0.01)
        health.failed(ticket + 1, ticket * 0.01)
        health.succeeded(ticket + 2, ticket * 0.01)
    assert health.opened == 1


def test_only_so_many_probes_at_a_time_and_so_many_successes_close_it() -> None:
    health = opened()
    health.booked(10, 3.0)
    assert health.admits(3.0)
    health.booked(11, 3.0)
    assert not health.admits(3.0)
    health.succeeded(10, 3.1)
    assert not health.admits(3.1)
    health.succeeded(11, 3.1)
    assert health.state(3.1) is BreakerState.CLOSED


def test_a_probe_whose_client_leaves_makes_room_for_another() -> None:
    health = opened()
    health.booked(10, 3.0)
    health.booked(11, 3.0)
    health.left(10)
    assert health.admits(3.0)


def test_a_probe_that_fails_opens_it_for_twice_as_long_up_to_a_limit() -> None:
    health, now, waits = opened(), 0.0, []
    for ticket in range(10, 20):
        begun = now
        while not health.admits(now):
            now += 0.5
        waits.append(now - begun)
        health.booked(ticket, now)
        health.failed(ticket, now)
    assert waits[:5] == [2, 4, 8, 16, 32]
    assert set(waits[5:]) == {60}


def test_what_was_sent_before_it_opened_says_nothing_new() -> None:
    health = opened()
    for ticket in range(50, 90):
        health.failed(ticket, 1.0)
    assert health.admits(2.0)
    assert health.opened == 1


def test_it_flaps_slower_each_time_and_begins_anew_after_a_calm_minute() -> None:
    health = opened(0.0)
    prove(health, 2.0)
    for ticket in range(3):
        health.failed(ticket, 10.0)
    assert not health.admits(13.9)
    assert health.admits(14.0)
    prove(health, 14.0)
    for ticket in range(3):
        health.failed(ticket, 80.0)
    assert health.admits(82.0)


def test_a_new_process_starts_well() -> None:
    health = opened()
    health.busy(0.0, None)
    health.restarted()
    assert health.is_clear(0.0)


def test_busy_again_and_again_it_is_left_alone_for_longer_up_to_a_limit() -> None:
    health, now, pauses = Health(RULES), 100.0, []
    for _ in range(7):
        health.busy(now, None)
        begun = now
        while health.paused(now):
            now += 0.125
        pauses.append(now - begun)
    assert pauses == [0.25, 0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    health.busy(now + 100, None)
    assert not health.paused(now + 100.25)
    health.busy(now + 200, 3600.0)
    assert health.paused(now + 200 + MOST_PAUSE_S - 0.1)
    assert not health.paused(now + 200 + MOST_PAUSE_S)


@given(
    st.lists(
        st.tuples(st.sampled_from(["booked", "failed", "succeeded", "left"]), st.integers(1, 6), st.floats(0, 30)),
        max_size=60,
    )
)
def test_whatever_happens_it_lets_somebody_through_in_the_end(steps: list[tuple[str, int, float]]) -> None:
    health, now, open_tickets = Health(RULES), 0.0, set()
    for what, ticket, passed in steps:
        now += passed
        if what == "booked":
            if health.admits(now):
                open_tickets.add(ticket)
                health.booked(ticket, now)
        elif what == "left":
            open_tickets.discard(ticket)
            health.left(ticket)
        else:
            open_tickets.discard(ticket)
            getattr(health, what)(ticket, now)
    for ticket in open_tickets:
        health.left(ticket)
    assert health.admits(now + RULES.most_open_s)


# ── as the router uses it ────────────────────────────────────────────────────────────────────────


@pytest.fixture
def three(drive, pool_of):
    return drive(pool_of("a", "a-0", "a-1", "a-2"), policy="round-robin")


def spread(scene, count=12):
    seen = set()
    for number in range(count):
        decision = scene.route(f"prompt {number}")
        seen.add(decision.chosen.replica)
        scene.finish(decision)
    return seen


def break_down(scene, replica, cause=Cause.ENGINE):
    for number in range(3):
        scene.fail(scene.route(f"{number}", pinned_replica=replica), cause)


@pytest.mark.parametrize("cause", [Cause.CONNECTION, Cause.ENGINE, Cause.CONTINUED])
def test_a_broken_replica_gets_nothing_until_it_is_probed(three, cause):
    break_down(three, "a-1", cause)
    assert spread(three) == {"a-0", "a-2"}
    three.now += 3
    assert spread(three) == {"a-0", "a-1", "a-2"}
    assert spread(three, 30) == {"a-0", "a-1", "a-2"}
    assert three.router.snapshot(three.now).replicas[1].breaker == "closed"


@pytest.mark.parametrize("cause", [Cause.OVERLOADED, Cause.HEDGED, Cause.CLIENT_GONE])
def test_what_is_not_the_engines_fault_opens_nothing(three, cause):
    for _ in range(3):
        break_down(three, "a-1", cause)
    assert spread(three) == {"a-0", "a-1", "a-2"}


@pytest.mark.parametrize("outcome", [Outcome.ENGINE_FAILED, Outcome.TIMED_OUT])
def test_requests_that_end_badly_count_as_well(three, outcome):
    for number in range(3):
        three.finish(three.route(f"{number}", pinned_replica="a-1"), outcome)
    assert spread(three) == {"a-0", "a-2"}


def test_a_busy_replica_is_left_alone_for_a_moment(three):
    three.busy("a-0")
    assert spread(three) == {"a-1", "a-2"}
    three.now += 0.3
    assert spread(three) == {"a-0", "a-1", "a-2"}


def test_when_all_are_busy_or_broken_requests_are_still_served(three):
    break_down(three, "a-0")
    break_down(three, "a-1")
    three.busy("a-2")
    assert spread(three) == {"a-2"}
    break_down(three, "a-2")
    assert spread(three) == {"a-0", "a-1", "a-2"}


def test_who_is_pinned_to_a_broken_replica_still_goes_there(three):
    break_down(three, "a-0")
    assert three.route("x", pinned_replica="a-0").chosen.replica == "a-0"


def test_a_retry_prefers_those_in_good_health(three):
    break_down(three, "a-0")
    for number in range(6):
        decision = three.route(f"again {number}", tried=frozenset({"a-1"}))
        assert decision.chosen.replica == "a-2"
        three.finish(decision)


def test_the_snapshot_says_it(three):
    break_down(three, "a-1")
    three.busy("a-2")
    views = three.router.snapshot(three.now).replicas
    assert [view.breaker for view in views] == ["closed", "open", "closed"]
    assert [view.breaker_opened for view in views] == [0, 1, 0]
    assert [view.overloaded for view in views] == [0, 0, 1]
    three.restarted("a-1")
    assert three.router.snapshot(three.now).replicas[1].breaker == "closed"


def test_nothing_is_looked_at_once_all_is_well_again(three):
    three.busy("a-0")
    three.now += 10
    three.load("a-0")
    assert not three.router._fleet.ailing
