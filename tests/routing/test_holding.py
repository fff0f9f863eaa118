"""Held requests: who is held, whose turn is next, where they go when a replica is free, and what leaves no trace."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.chain import PrefixChain
from gateway.routing.decision import Decision, Held, Rejection, RejectionReason, RouteRequest
from gateway.routing.facts import Withdrawn
from gateway.routing.holding import DEFAULT_HOLD_MS, LOOK_S, RELOOK_S, HeldRequest, HeldRequests
from gateway.routing.policies import HOLDING, POLICIES
from gateway.routing.router import LOOKS

HOLD_MS = 600.0
REQUEST = RouteRequest("a", "m", PrefixChain(), True, 0.0)
PRIOR_MS, MS_PER_BYTE = 17.0, 547 / 8192 / 4


def prompt(ms: float, name: str) -> str:
    """A prompt of its own whose prefill takes about so long by the curve that the drivers here have learned."""
    return (name + "-") * round((ms - PRIOR_MS) / MS_PER_BYTE / (len(name) + 1))


@pytest.fixture
def start(drive, pool_of):
    """`start(*replica names)`: a driver that holds, whose engines were measured and are as fast as the prior."""

    def begin(*names, hold_ms=HOLD_MS, **more):
        driver = drive(pool_of("p", *(names or ("r1",))), hold_ms=hold_ms, **more)
        for number in range(20 * max(len(names), 1)):
            decision = driver.route(f"short {number}")
            driver.first_token(decision, decision.chosen.prefill_ms)
            driver.finish(decision)
        driver.now += 120
        return driver

    return begin


def fill(driver, ms, *replicas):
    """Keep the replicas busy: their requests, in order."""
    return [driver.route(prompt(ms, f"busy {name}"), pinned_replica=name) for name in replicas or ("r1",)]


# ── who is held ──────────────────────────────────────────────────────────────────────────────────


def test_a_request_is_held_from_so_much_queued_prefill_on(start):
    driver = start()
    driver.route(prompt(550, "a"))
    second = driver.route(prompt(100, "b"))
    assert 500 < second.chosen.wait_ms < HOLD_MS
    held = driver.hold(prompt(50, "c"))
    assert HOLD_MS <= held.best.wait_ms < 700
    assert (held.best.replica, driver.router.holds) == ("r1", 1)
    assert driver.router.snapshot(driver.now).held == 1
    assert driver.replica("r1").inflight == 2, "nothing is booked for it"


def test_none_is_held_while_another_replica_is_better(start):
    driver = start("r1", "r2")
    fill(driver, 2000, "r1")
    assert driver.route(prompt(100, "a")).chosen.replica == "r2"
    assert driver.router.holds == 0


def test_the_default_holds(drive):
    driver = drive(hold_ms=DEFAULT_HOLD_MS)
    assert driver.router._hold_ms == DEFAULT_HOLD_MS > 0


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - HOLDING))
def test_other_policies_hold_none(start, policy):
    driver = start(policy=policy)
    for number in range(5):
        driver.route(prompt(1000, f"{number}"))
    assert driver.router.holds == 0
    assert driver.router.look_at(driver.now) is None
    assert driver.release() == {}


def test_zero_holds_none(start):
    driver = start(hold_ms=0.0)
    for number in range(5):
        driver.route(prompt(1000, f"{number}"))
    assert driver.replica("r1").wait_ms > 4000


def test_a_request_that_failed_elsewhere_is_never_held(start):
    driver = start("r1", "r2")
    fill(driver, 2000, "r1", "r2")
    assert driver.route(prompt(100, "a"), tried=frozenset({"r2"})).chosen.wait_ms > HOLD_MS


def test_a_preview_holds_none(start):
    driver = start()
    fill(driver, 2000)
    request = driver.request(prompt(100, "a"))
    assert isinstance(driver.router.preview(request, driver.now), Decision)
    assert driver.router.holds == 0


def test_tickets_are_kept_and_given_once(start):
    driver = start()
    [busy] = fill(driver, 2000)
    first, second = driver.hold(prompt(100, "a"), request_id="same"), driver.hold(prompt(100, "b"), request_id="same")
    retried = driver.route("short", tried=frozenset({"r0"}))
    assert [first.ticket, second.ticket, retried.ticket] == [busy.ticket + 1, busy.ticket + 2, busy.ticket + 3]
    driver.fail(retried)
    driver.first_token(busy, 2000)
    answers = driver.release()
    assert list(answers) == [first.ticket, second.ticket]
    assert [answer.ticket for answer in answers.values()] == list(answers)
    assert driver.route("short").ticket == retried.ticket + 1


# ── when they go ─────────────────────────────────────────────────────────────────────────────────


def test_a_first_token_lets_them_go(start):
    driver = start()
    first, second = driver.route(prompt(500, "a")), driver.route(prompt(590, "b"))
    held = driver.hold(prompt(100, "c"))
    assert driver.release() == {}
    driver.first_token(first, 300)
    answer = driver.release()[held.ticket]
    assert (answer.ticket, answer.chosen.replica, answer.request_id) == (held.ticket, "r1", "request-23")
    assert answer.chosen.wait_ms == pytest.approx(second.chosen.prefill_ms)
    assert driver.replica("r1").inflight == 3
    assert driver.router.holds == driver.router.snapshot(driver.now).held == 0
    assert driver.release() == {}


def test_time_lets_them_go(start):
    driver = start()
    driver.route(prompt(700, "a"))
    assert driver.router.look_at(driver.now) is None
    held = driver.hold(prompt(100, "b"))
    assert driver.router.look_at(driver.now) == driver.now + LOOK_S
    driver.now += held.best.wait_ms / 1000 - HOLD_MS / 1000 - 0.005
    assert driver.release() == {}
    driver.now += 0.01
    assert list(driver.release()) == [held.ticket]
    assert driver.router.look_at(driver.now) is None


@pytest.mark.parametrize("how", ["fail", "finish"])
def test_the_end_of_another_lets_them_go(start, how):
    driver = start()
    [busy] = fill(driver, 2000)
    held = driver.hold(prompt(100, "a"))
    getattr(driver, how)(busy)
    assert list(driver.release()) == [held.ticket]


def test_no_more_go_than_the_replica_is_free_for(start):
    driver = start()
    [busy] = fill(driver, 2000)
    held = [driver.hold(prompt(250, f"{number}")).ticket for number in range(6)]
    driver.first_token(busy, 2000)
    assert list(driver.release()) == held[:3], "after 250, 500 and 750 ms it is busy again"
    assert driver.router.holds == 3


def test_those_with_little_work_go_first(start):
    driver = start()
    [busy] = fill(driver, 2000)
    held = {ms: driver.hold(prompt(ms, f"{ms} ms")).ticket for ms in (700, 300, 500, 100)}
    driver.first_token(busy, 2000)
    assert list(driver.release()) == [held[100], held[300], held[500]]


def test_a_cached_prefix_is_little_work(start):
    driver = start()
    long, short = prompt(900, "long"), prompt(200, "short")
    driver.serve(long)
    [busy] = fill(driver, 2000)
    behind, before = driver.hold(short), driver.hold(long)
    driver.first_token(busy, 2000)
    assert list(driver.release()) == [before.ticket, behind.ticket]


def test_the_time_waited_counts_against_the_work(start):
    driver = start()
    [busy] = fill(driver, 3000)
    long = driver.hold(prompt(700, "long"))
    driver.now += 0.5
    shorter = driver.hold(prompt(300, "shorter"))  # 400 ms less of work, 500 ms later
    short = driver.hold(prompt(100, "short"))  # 600 ms less of work
    driver.first_token(busy, 3000)
    assert list(driver.release()) == [short.ticket, long.ticket]
    assert driver.router.holds == 1
    assert [one.ticket for one in driver.router._queue.held] == [shorter.ticket]


@given(st.lists(st.tuples(st.floats(0, 5000), st.floats(0, 10)), max_size=12), st.floats(0, 100))
def test_the_order_is_that_of_work_less_time_waited_whenever_it_is_asked(waiting, later):
    held = HeldRequests()
    now = 10.0 + later
    for ticket, (work_ms, since) in enumerate(waiting):
        held.add(HeldRequest(ticket, REQUEST, "m", since, 0, work_ms, since))
    turns = [one.work_ms - 1000 * (now - one.since) for one in held.by_turn(lambda _: True)]
    assert turns == pytest.approx(sorted(turns), abs=1e-6)
    assert len(held) == len(turns) == len(waiting)


def test_so_many_are_looked_at_in_one_go(start):
    driver = start(hold_ms=5000.0)
    [busy] = fill(driver, 6000)
    held = [driver.hold(f"short {number}").ticket for number in range(LOOKS + 6)]
    driver.first_token(busy, 6000)
    assert list(driver.release()) == held[:LOOKS]
    assert list(driver.release()) == held[LOOKS:]


# ── where they go ────────────────────────────────────────────────────────────────────────────────


def busy_pair(driver, text):
    """`text` is cached at r1; both replicas are busy with work for longer than it would take: theirs, and it."""
    driver.serve(text, pinned_replica="r1")
    driver.now += 120
    busy = fill(driver, 3000, "r1", "r2")
    return busy, driver.hold(text + "a question")


def test_it_goes_elsewhere_when_that_has_become_better(start):
    """Its prefix is at r1, but r2 is free so much sooner that it is quicker to compute it there."""
    driver = start("r1", "r2")
    busy, held = busy_pair(driver, prompt(1000, "text"))
    assert held.best.replica == "r1"
    driver.first_token(busy[1], 200)  # r2 is free, r1 has 2.8 s to go
    assert driver.release() == {}, "it was looked at just now"
    driver.now += RELOOK_S
    answer = driver.release()[held.ticket]
    assert (answer.chosen.replica, answer.chosen.cached_tokens) == ("r2", 0)
    assert answer.available_tokens > 10_000
    assert (driver.replica("r1").inflight, driver.replica("r2").inflight) == (1, 2)


def test_it_waits_on_while_its_replica_stays_the_best(start):
    """r2 is free, but r1 will have it served before r2 could."""
    driver = start("r1", "r2")
    busy, held = busy_pair(driver, prompt(2500, "text"))
    driver.first_token(busy[1], 1000)
    driver.now += RELOOK_S
    assert driver.release() == {}
    assert driver.router.holds == 1
    driver.first_token(busy[0], 800)
    assert driver.release()[held.ticket].chosen.replica == "r1"


def test_it_is_asked_again_only_so_often(start):
    driver = start("r1", "r2")
    busy, held = busy_pair(driver, prompt(2500, "text"))
    driver.first_token(busy[1], 300)
    looked = [driver.now]
    for _ in range(100):
        driver.release()
        looked.append(driver.router._queue.held.get(held.ticket).looked_at)
        driver.now += 0.01
    gaps = [later - sooner for sooner, later in pairwise(sorted(set(looked)))]
    assert len(gaps) == 3
    assert all(RELOOK_S <= gap < RELOOK_S + 0.015 for gap in gaps)


def test_a_pin_is_kept(start):
    driver = start("r1", "r2")
    busy = fill(driver, 2000, "r1", "r2")
    held = driver.hold(prompt(100, "a"), pinned_replica="r1")
    driver.first_token(busy[1], 2000)
    driver.now += RELOOK_S
    driver.release()
    driver.first_token(busy[0], 2000)
    driver.release()
    assert driver.replica("r1").inflight == 2
    assert held.best.replica == "r1"


# ── replicas that go ─────────────────────────────────────────────────────────────────────────────


def test_with_its_replica_down_it_goes_to_another(start):
    driver = start("r1", "r2")
    _, held = busy_pair(driver, prompt(2500, "text"))
    driver.down("r1")
    driver.now += 2.9
    driver.release()
    driver.now += RELOOK_S
    assert driver.router.holds == 0
    assert driver.replica("r2").inflight == 2
    assert held.best.replica == "r1"


def test_with_all_down_it_is_told_when_to_come_again(start):
    driver = start("r1", "r2")
    fill(driver, 2000, "r1", "r2")
    held = [driver.hold(prompt(100, f"{number}")).ticket for number in range(5)]
    driver.down("r1", "r2")
    driver.now += RELOOK_S
    answers = {}
    for _ in held:
        answers |= driver.release()
    assert answers.keys() == set(held)
    for answer in answers.values():
        assert isinstance(answer, Rejection)
        assert answer.reason is RejectionReason.NO_REPLICA
        assert answer.retry_after_s > 0
    assert driver.router.holds == 0
    assert [driver.replica(name).inflight for name in ("r1", "r2")] == [1, 1]


# ── those who leave ──────────────────────────────────────────────────────────────────────────────


def test_one_who_leaves_leaves_no_trace(start):
    driver = start("r1", "r2")
    busy = fill(driver, 2000, "r1", "r2")
    before = msgspec.json.encode(driver.router.snapshot(driver.now))
    held = driver.hold(prompt(1000, "a"))
    driver.withdraw(held)
    assert msgspec.json.encode(driver.router.snapshot(driver.now)) == before
    assert driver.router.record("request-43") is None
    driver.first_token(busy[0], 2000)
    driver.now += RELOOK_S
    assert driver.release() == {}
    assert driver.predicted(prompt(1000, "a"), "r1") == driver.predicted(prompt(1000, "a"), "r2") == 0


def test_only_a_held_request_can_be_withdrawn(start):
    driver = start()
    [busy] = fill(driver, 2000)
    held = driver.hold(prompt(100, "a"))
    for ticket in (busy.ticket, held.ticket + 1, -1):
        driver.router.observe(Withdrawn(ticket, driver.now))
    assert (driver.router.holds, driver.replica("r1").inflight) == (1, 1)
    driver.first_token(busy, 2000)
    driver.release()
    driver.withdraw(held)
    assert driver.replica("r1").inflight == 2, "it was sent: its attempt ends like any other"


def test_facts_of_a_held_ticket_are_ignored(start):
    driver = start()
    fill(driver, 2000)
    held = driver.hold(prompt(100, "a"))
    before = msgspec.json.encode(driver.router.snapshot(driver.now))
    ticket = Decision(held.ticket, "a", "ttft", "m", (), held.best, 0)
    driver.dispatched(ticket)
    driver.first_token(ticket)
    driver.finish(ticket)
    driver.fail(ticket)
    assert msgspec.json.encode(driver.router.snapshot(driver.now)) == before
    assert isinstance(held, Held)
