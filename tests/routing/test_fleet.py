"""The queue of booked prefill at one replica: what it lets a newcomer wait, and that looking changes nothing."""

from dataclasses import dataclass

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.reports import ModelCard
from gateway.routing.beliefs import Beliefs, CacheView
from gateway.routing.calibration import Overlap
from gateway.routing.chain import PrefixChain
from gateway.routing.curves import PrefillCurve
from gateway.routing.fleet import Fleet
from gateway.routing.health import Health, HealthRules
from gateway.routing.replica import Booking, Pool, PoolSpec, Replica, ReplicaSpec


def cache() -> CacheView:
    return Beliefs().add_replica(100, lambda: ())


def replica() -> Replica:
    spec = ReplicaSpec("r", "http://r")
    curves = (PrefillCurve(), PrefillCurve(), PrefillCurve())
    return Replica(spec, Pool(PoolSpec("p", "m", (spec,))), cache(), curves, Health(HealthRules()))


def book(queue: Replica, ticket: int, now: float, prefill_ms: float, *, streams: bool = True) -> Booking:
    booking = Booking(
        ticket=ticket,
        request_id=f"request-{ticket}",
        model="m",
        tenant="anonymous",
        chain=PrefixChain(),
        text=PrefixChain(),
        overlap=Overlap(),
        streams=streams,
        accepted_at=now,
        booked_at=now,
        prompt_tokens=100,
        available_tokens=0,
        routed_tokens=0,
        wait_ms=queue.wait_ms(now),
        prefill_ms=prefill_ms,
    )
    queue.book(booking)
    return booking


def test_a_newcomer_waits_for_the_work_booked_before_it() -> None:
    queue = replica()
    assert queue.wait_ms(0.0) == 0.0
    book(queue, 1, 0.0, 100)
    book(queue, 2, 0.0, 50)
    assert queue.wait_ms(0.0) == 150
    assert queue.wait_ms(0.06) == pytest.approx(90)


def test_the_head_is_credited_with_no_more_than_its_own_work() -> None:
    queue = replica()
    book(queue, 1, 0.0, 100)
    book(queue, 2, 0.0, 50)
    assert queue.wait_ms(60.0) == 50


def test_a_first_token_lets_the_next_begin() -> None:
    queue = replica()
    book(queue, 1, 0.0, 100)
    book(queue, 2, 0.0, 50)
    queue.prefilled(1, 0.3)
    assert queue.wait_ms(0.3) == 50
    assert queue.wait_ms(0.32) == pytest.approx(30)
    queue.prefilled(2, 0.4)
    assert queue.wait_ms(0.4) == 0
    assert set(queue.bookings) == {1, 2}, "decoding goes on"


def test_idle_time_is_no_credit() -> None:
    queue = replica()
    book(queue, 1, 0.0, 100)
    queue.release(1, 0.1)
    book(queue, 2, 50.0, 100)
    assert queue.wait_ms(50.0) == 100


def test_a_first_token_out_of_turn_takes_the_credit() -> None:
    """The engine worked on that one, so the head's time is still to come."""
    queue = replica()
    book(queue, 1, 0.0, 100)
    book(queue, 2, 0.0, 50)
    queue.prefilled(2, 0.06)
    assert queue.wait_ms(0.06) == 100


def test_one_that_leaves_before_its_turn_does_not_take_the_credit_of_the_head() -> None:
    queue = replica()
    book(queue, 1, 0.0, 100)
    book(queue, 2, 0.0, 50)
    queue.release(2, 0.06)
    assert queue.wait_ms(0.06) == pytest.approx(40)


def test_a_plain_request_stops_counting_when_it_is_due() -> None:
    queue = replica()
    book(queue, 1, 0.0, 100, streams=False)
    book(queue, 2, 0.0, 50)
    assert queue.wait_ms(0.05) == pytest.approx(100)
    assert queue.wait_ms(0.1) == 50
    assert queue.wait_ms(0.12) == pytest.approx(30), "the next one began when the plain one was due"
    assert set(queue.bookings) == {1, 2}


def test_the_one_behind_a_plain_request_that_is_due_is_the_head() -> None:
    queue = replica()
    book(queue, 1, 0.0, 100, streams=False)
    book(queue, 2, 0.0, 500)
    book(queue, 3, 0.0, 80)
    queue.release(2, 0.3)
    assert queue.wait_ms(0.3) == 80, "the third begins when the second leaves"


def test_plain_requests_that_are_all_due_leave_no_wait() -> None:
    queue = replica()
    for ticket in range(1, 5):
        book(queue, ticket, 0.0, 100, streams=False)
    assert queue.wait_ms(0.399) == pytest.approx(1)
    assert queue.wait_ms(0.4) == 0
    book(queue, 5, 1.0, 70)
    assert queue.wait_ms(1.0) == 70


def test_releasing_an_unknown_ticket_is_a_broken_promise() -> None:
    with pytest.raises(KeyError):
        replica().release(7, 0.0)


@dataclass(frozen=True)
class Event:
    """After `pause_s`: book that much prefill (streamed or not), or end a ticket by its first token or for good."""

    pause_s: float
    verb: str
    prefill_ms: float
    streams: bool
    ticket: int


EVENTS = st.lists(
    st.builds(
        Event,
        pause_s=st.floats(0, 0.3),
        verb=st.sampled_from(["book", "book", "prefilled", "release"]),
        prefill_ms=st.floats(1, 400),
        streams=st.booleans(),
        ticket=st.integers(1, 12),
    ),
    max_size=30,
)


def apply(queue: Replica, event: Event, now: float) -> None:
    if event.verb == "book":
        book(queue, max(queue.bookings, default=0) + 1, now, event.prefill_ms, streams=event.streams)
    elif event.verb == "prefilled":
        queue.prefilled(event.ticket, now)
    elif event.ticket in queue.bookings:
        queue.release(event.ticket, now)


@given(EVENTS)
def test_looking_changes_nothing(events: list[Event]) -> None:
    """A replayed journal holds facts, not looks: snapshots in between must not alter what follows."""
    seen, unseen, now = replica(), replica(), 0.0
    for event in events:
        for part in range(1, 4):
            seen.wait_ms(now + event.pause_s * part / 4)
        now += event.pause_s
        apply(seen, event, now)
        apply(unseen, event, now)
        assert seen.wait_ms(now) == unseen.wait_ms(now)
        assert list(map(msgspec.structs.asdict, seen.bookings.values())) == list(
            map(msgspec.structs.asdict, unseen.bookings.values())
        )


@given(EVENTS)
def test_the_wait_is_never_negative_nor_more_than_all_that_is_booked(events: list[Event]) -> None:
    queue, now = replica(), 0.0
    for event in events:
        now += event.pause_s
        before = queue.wait_ms(now)
        apply(queue, event, now)
        after = queue.wait_ms(now)
        assert 0 <= after <= sum(booking.prefill_ms for booking in queue.bookings.values()) + 1e-6
        if event.verb == "release":
            assert after <= before + 1e-6, "nobody waits longer because somebody left"
    for ticket in list(queue.bookings):
        queue.release(ticket, now)
    assert queue.wait_ms(now) == 0.0


def test_the_fleet_lists_every_model_with_its_replicas_in_order() -> None:
    fleet = Fleet(HealthRules())
    named = fleet.add_pool(PoolSpec("named", "m", ()))
    open_pool = fleet.add_pool(PoolSpec("open", None, ()))
    fleet.add_replica(named, ReplicaSpec("a", "http://a"), cache())
    fleet.add_replica(open_pool, ReplicaSpec("b", "http://b"), cache())
    assert {model: [r.spec.name for r in rs] for model, rs in fleet.served.items()} == {"m": ["a"]}
    fleet.replica("b").models = {"m": ModelCard("m"), "lora": ModelCard("lora", 4096, parent="m")}
    fleet.replica("a").models = {"m": ModelCard("m")}
    fleet.list_models()
    served = {model: [r.spec.name for r in rs] for model, rs in fleet.served.items()}
    assert served == {"m": ["a", "b"], "lora": ["b"]}
    assert fleet.adapters == {"lora"}
    with pytest.raises(KeyError):
        fleet.replica("c")
