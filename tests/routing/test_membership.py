"""Replicas that come, drain and go while requests are in flight."""

from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from thoroughness import examples

from engines.cache_events import BlocksStored
from engines.reports import Usage
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, Rejection, RejectionReason, RouteRequest
from gateway.routing.facts import (
    Finished,
    FirstToken,
    Outcome,
    PeerGone,
    PeerHeard,
    PoolConfigured,
    PoolRemoved,
    ReplicaAdded,
    ReplicaDraining,
    ReplicaRemoved,
    ReplicaResumed,
    ReplicaUp,
    RoutingChanged,
)
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

LONG = "the same long document " * 200


def add(driver, name: str, pool: str = "p", *, up: bool = True) -> None:
    driver.router.observe(ReplicaAdded(driver.now, pool, ReplicaSpec(name, f"http://{name}")))
    if up:
        driver.up(name)


def remove(driver, name: str) -> None:
    driver.router.observe(ReplicaRemoved(name, driver.now))


def drain(driver, name: str) -> None:
    driver.router.observe(ReplicaDraining(name, driver.now))


def names(driver) -> list[str]:
    return [view.name for view in driver.router.snapshot(driver.now).replicas]


# ── draining ─────────────────────────────────────────────────────────────────────────────────────


def test_a_draining_replica_takes_nothing_new_and_finishes_what_it_has(drive):
    driver = drive()
    first = driver.route(LONG)
    drain(driver, first.chosen.replica)
    for number in range(6):
        assert driver.route(LONG, request_id=f"more-{number}").chosen.replica != first.chosen.replica
    assert driver.replica(first.chosen.replica).state == "draining"
    assert driver.replica(first.chosen.replica).reason == "draining: it takes no new requests"
    driver.first_token(first)
    driver.finish(first, usage=Usage(1000, 5, 0))
    assert driver.series(first.chosen.replica).outcomes == {"completed": 1}


def test_also_the_only_one_takes_nothing_and_a_pin_does_not_help(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    drain(driver, "r1")
    assert driver.refused(LONG).reason is RejectionReason.NO_REPLICA
    refused = driver.refused(LONG, pinned_replica="r1")
    assert refused.message == "no replica of the model `m` is usable now: r1: draining: it takes no new requests"
    assert driver.router.usable_models() == {"m": False}
    driver.router.observe(ReplicaResumed("r1", driver.now))
    assert driver.route(LONG).chosen.replica == "r1"


def test_going_down_and_up_again_does_not_end_a_drain(drive):
    driver = drive()
    drain(driver, "r1")
    driver.down("r1")
    assert driver.replica("r1").state == "down"
    driver.up("r1")
    assert driver.replica("r1").state == "draining"
    assert {driver.serve(f"{LONG} {n}").chosen.replica for n in range(8)} == {"r2"}


def test_requests_held_for_it_go_elsewhere(drive):
    driver = drive(hold_ms=1.0)
    busy = [driver.answer(f"{number} {LONG}") for number in range(2)]
    held = driver.hold(f"2 {LONG}")
    best = held.best.replica
    other = next(name for name in ("r1", "r2") if name != best)
    for decision in busy:
        if isinstance(decision, Decision) and decision.chosen.replica == other:
            driver.first_token(decision)
    drain(driver, best)
    [answer] = driver.release().values()
    assert isinstance(answer, Decision)
    assert answer.chosen.replica == other


# ── coming and going ─────────────────────────────────────────────────────────────────────────────


def test_a_newcomer_is_chosen_and_a_removed_one_is_not(drive):
    driver = drive()
    add(driver, "r3")
    assert {driver.route(f"{number} {LONG}").chosen.replica for number in range(12)} == {"r1", "r2", "r3"}
    remove(driver, "r1")
    assert names(driver) == ["r2", "r3"]
    assert {driver.route(f"{number} {LONG}").chosen.replica for number in range(20, 32)} == {"r2", "r3"}


def test_a_slot_is_given_on_without_what_was_known_of_it(drive):
    driver = drive()
    prompt = LONG
    for name in ("r1", "r2"):
        driver.serve(prompt, pinned_replica=name)
    assert driver.predicted(prompt, "r1") > 0
    remove(driver, "r1")
    add(driver, "r3")
    assert [one.slot for one in driver.router._fleet.replicas] == [0, 1]
    assert names(driver) == ["r3", "r2"]
    assert driver.predicted(prompt, "r3") == 0
    assert driver.predicted(prompt, "r2") > 0
    assert driver.replica("r3").index_blocks == 0
    assert driver.router._congestion._requests[0] == 0


def test_what_events_state_goes_with_the_replica(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2", encoding="letters"))
    driver.up("r1", block_tokens=16)
    driver.synced("r1")
    driver.said("r1", BlocksStored((b"h1",), None, bytes(64), 16, False))
    assert driver.replica("r1").cache.stated_blocks == 1
    remove(driver, "r1")
    assert driver.router._beliefs.index._holders == {}


def test_a_slot_stays_while_requests_are_in_flight(drive):
    driver = drive()
    decision = driver.route(LONG, pinned_replica="r1")
    remove(driver, "r1")
    add(driver, "r3")
    assert [one.slot for one in driver.router._fleet.replicas] == [1, 2]
    assert driver.router.unfinished("r1") == 1
    driver.first_token(decision)
    driver.finish(decision, usage=Usage(1000, 5, 0))
    assert driver.router.unfinished("r1") == 0
    assert driver.series("r1").outcomes == {"completed": 1}
    assert driver.router._beliefs.index._holders == {}
    add(driver, "r4")
    assert [one.slot for one in driver.router._fleet.replicas] == [0, 1, 2]


def test_a_name_and_a_url_can_come_back(drive):
    driver = drive()
    decision = driver.route(LONG, pinned_replica="r1")
    remove(driver, "r1")
    add(driver, "r1")
    assert driver.replica("r1").inflight == 0
    assert driver.router.unfinished("r1") == 1
    driver.fail(decision)
    assert driver.router.unfinished("r1") == 0
    with pytest.raises(ValueError, match="r1"):
        add(driver, "r1")


def test_stored_responses_go_with_their_replica(drive):
    driver = drive()
    driver.stored("r1", "resp_1")
    driver.stored("r2", "resp_2")
    remove(driver, "r1")
    assert driver.router.holder("resp_1") is None
    assert driver.router.holder("resp_2") == "r2"


def test_a_model_without_replicas_is_known_and_unavailable(drive):
    driver = drive()
    remove(driver, "r1")
    remove(driver, "r2")
    refused = driver.refused(LONG)
    assert refused.reason is RejectionReason.NO_REPLICA
    assert refused.message == "the model `m` has no replica now"
    assert driver.router.usable_models() == {"m": False}
    assert driver.refused(LONG, model="other").reason is RejectionReason.MODEL_NOT_FOUND


def test_a_pool_that_takes_its_model_from_its_replicas_waits_for_them(drive, pool_of):
    driver = drive(pool_of("q", model=None))
    assert driver.refused(LONG).message == "not known yet which models are served: the pool q has no replicas now"
    driver.router.observe(ReplicaAdded(driver.now, "q", ReplicaSpec("r9", "http://r9")))
    driver.up("r9", models=["m"])
    assert driver.route(LONG).chosen.replica == "r9"


def test_pools_come_change_and_go(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    driver.router.observe(PoolConfigured(driver.now, pool_of("q", model="other")))
    add(driver, "s1", "q")
    assert driver.route(LONG, model="other").chosen.pool == "q"
    driver.router.observe(PoolConfigured(driver.now, pool_of("q", model="another")))
    assert driver.route(LONG, model="another").chosen.replica == "s1"
    assert driver.refused(LONG, model="other").reason is RejectionReason.MODEL_NOT_FOUND
    driver.router.observe(PoolRemoved(driver.now, "q"))
    assert set(driver.router.models()) == {"m"}  # it is offered no longer, though it has a replica yet
    assert names(driver) == ["r1", "s1"]
    driver.router.observe(PoolConfigured(driver.now, pool_of("q", model="another")))
    assert driver.route(LONG, model="another").chosen.replica == "s1"
    driver.router.observe(PoolRemoved(driver.now, "q"))
    remove(driver, "s1")
    assert [view.name for view in driver.router.snapshot(driver.now).pools] == ["p"]
    driver.router.observe(PoolConfigured(driver.now, pool_of("q")))
    driver.router.observe(PoolRemoved(driver.now, "q"))
    assert [view.name for view in driver.router.snapshot(driver.now).pools] == ["p"]


def test_the_policy_can_change(drive):
    driver = drive(policy="round-robin")
    driver.router.observe(RoutingChanged(driver.now, "prefix", 0.0))
    assert driver.router.policy == "prefix"
    assert len({driver.serve(LONG).chosen.replica for _ in range(4)}) == 1


# ── peers ────────────────────────────────────────────────────────────────────────────────────────


def test_what_peers_have_in_flight_keeps_the_slot_too(drive):
    driver, peer = drive(), drive()
    outbox = peer.router.tell_peers("peer")
    decision = peer.route(LONG, pinned_replica="r1")
    batch = outbox.take(peer.now + 1)
    assert batch is not None
    driver.router.observe(PeerHeard(driver.now, batch))
    assert driver.replica("r1").peers_inflight == 1
    remove(driver, "r1")
    assert driver.router.unfinished("r1") == 0  # it is ours that are waited for
    add(driver, "r3")
    assert driver.router._fleet.replica("r3").slot == 2
    peer.first_token(decision)
    peer.finish(decision, usage=Usage(1000, 5, 0))
    ended = outbox.take(peer.now + 1)
    assert ended is not None
    driver.router.observe(PeerHeard(driver.now, ended))
    assert driver.router._fleet.retired == []
    assert driver.router._beliefs.index._holders == {}
    driver.router.observe(PeerGone(driver.now, "peer"))


def test_what_peers_tell_of_removed_replicas_is_left_out(drive):
    driver, peer = drive(), drive()
    outbox = peer.router.tell_peers("peer")
    remove(driver, "r1")
    peer.route(LONG, pinned_replica="r1")
    peer.stored("r1", "resp_1")
    batch = outbox.take(peer.now + 1)
    assert batch is not None
    driver.router.observe(PeerHeard(driver.now, batch))
    assert driver.router.holder("resp_1") is None
    assert driver.router._learner._tickets == {}


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────

NAMES = ("a", "b", "c", "d")
BLOCK = 16
PROMPTS = st.sampled_from([bytes([letter]) * BLOCK * blocks for letter in b"xyz" for blocks in (1, 2, 5)])


class MembershipMachine(RuleBasedStateMachine):
    """Any replicas come, drain and go in any order, with requests in flight."""

    def __init__(self) -> None:
        super().__init__()
        self.router = Router([PoolSpec("p", "m", ())], rng=Random(0), block_bytes=BLOCK, hold_ms=0.0)
        self.now = 0.0
        self.there: dict[str, bool] = {}
        """Those that are there, and whether they drain."""
        self.open: dict[int, tuple[str, int]] = {}
        """Attempts in flight: where, in which life of that replica."""
        self.lives: dict[str, int] = dict.fromkeys(NAMES, 0)

    @rule(name=st.sampled_from(NAMES))
    def comes(self, name: str) -> None:
        if name not in self.there:
            self.router.observe(ReplicaAdded(self.now, "p", ReplicaSpec(name, f"http://{name}")))
            self.router.observe(ReplicaUp(name, self.now))
            self.there[name] = False
            self.lives[name] += 1

    @precondition(lambda self: self.there)
    @rule(data=st.data())
    def goes(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        self.router.observe(ReplicaRemoved(name, self.now))
        del self.there[name]

    @precondition(lambda self: self.there)
    @rule(data=st.data(), drains=st.booleans())
    def drains(self, data: st.DataObject, drains: bool) -> None:
        name = data.draw(st.sampled_from(sorted(self.there)))
        self.router.observe(ReplicaDraining(name, self.now) if drains else ReplicaResumed(name, self.now))
        self.there[name] = drains

    @rule(prompt=PROMPTS)
    def asked(self, prompt: bytes) -> None:
        request = RouteRequest("r", "m", chain(b"m", prompt, BLOCK), True, self.now)
        answer = self.router.route(request, self.now)
        taking = {name for name, drains in self.there.items() if not drains}
        if isinstance(answer, Decision):
            assert answer.chosen.replica in taking
            broken = {view.name for view in self.router.snapshot(self.now).replicas if view.breaker != "closed"}
            rows = {row.replica for row in answer.candidates}
            assert taking - broken <= rows <= taking
            self.open[answer.ticket] = answer.chosen.replica, self.lives[answer.chosen.replica]
        else:
            assert isinstance(answer, Rejection)
            assert not taking

    @precondition(lambda self: self.open)
    @rule(data=st.data(), completed=st.booleans(), cached=st.integers(0, 30))
    def ends(self, data: st.DataObject, completed: bool, cached: int) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.open)))
        self.now += 0.01
        if completed:
            self.router.observe(FirstToken(ticket, self.now))
        outcome = Outcome.COMPLETED if completed else Outcome.ENGINE_FAILED
        self.router.observe(Finished(ticket, self.now, outcome, Usage(40, 1, cached) if completed else None))
        del self.open[ticket]

    @invariant()
    def every_replica_has_a_slot_of_its_own(self) -> None:
        fleet = self.router._fleet
        slots = [one.slot for one in (*fleet.replicas, *fleet.retired)]
        assert len(set(slots)) == len(slots)
        assert slots[: len(fleet.replicas)] == sorted(slots[: len(fleet.replicas)])
        assert {one.spec.name for one in fleet.replicas} == self.there.keys()
        assert set(slots).isdisjoint(self.router._beliefs.index._vacant)
        assert len(self.router._beliefs.index._guessed) == len(slots) + len(self.router._beliefs.index._vacant)

    @invariant()
    def what_is_in_flight_is_counted_where_it_is(self) -> None:
        views = {view.name: view for view in self.router.snapshot(self.now).replicas}
        for name in NAMES:
            alive = sum(where == (name, self.lives[name]) for where in self.open.values())
            if name in views:
                assert views[name].inflight == alive
            assert self.router.unfinished(name) == sum(where == name for where, _ in self.open.values())

    @invariant()
    def nothing_is_known_of_vacant_slots(self) -> None:
        index = self.router._beliefs.index
        vacant = sum(7 << 3 * slot for slot in index._vacant)
        assert not any(mask & vacant for mask in (*index._holders.values(), *index._promises.values()))

    def teardown(self) -> None:
        for ticket in self.open:
            self.router.observe(Finished(ticket, self.now, Outcome.CLIENT_GONE))
        for name in self.there:
            self.router.observe(ReplicaRemoved(name, self.now))
        index = self.router._beliefs.index
        assert self.router._fleet.retired == []
        assert index._holders == index._promises == {}
        assert not any(index._stated)
        assert self.router._learner._tickets == {}


TestMembershipMachine = MembershipMachine.TestCase
TestMembershipMachine.settings = settings(max_examples=examples(40, 200), stateful_step_count=40, deadline=None)
TestMembershipMachine = pytest.mark.law(pytest.mark.no_cover(TestMembershipMachine))  # coverage would triple its time
