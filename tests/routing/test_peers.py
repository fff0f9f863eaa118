"""What a gateway hears of others' requests it believes as they do, and counts nowhere."""

from collections import Counter
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing.batch import Batch, Booked, Progress, decoded, encoded, packed, unpacked
from gateway.routing.chain import chain, token_chain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import (
    AttemptFailed,
    CacheEvents,
    CacheSynced,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    PeerGone,
    PeerHeard,
    PeersSilent,
    ReplicaUp,
    ResponseStored,
)
from gateway.routing.outbox import BRIEF_MS, BRIEF_S, MOST_WAITING, Outbox
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

NAMES = ("r0", "r1", "r2")
CAPACITY = 4000
BLOCK = 256
AHEAD = 5000.0
"""The hearing gateways' clock before the telling ones'."""
WORDS = [bytes([letter]) * BLOCK for letter in b"abcdefgh"]


class Side:
    """One gateway: a router whose replicas are up, and what it has to tell."""

    def __init__(self, name: str, ahead: float = 0.0, encoding: str = "", names: tuple[str, ...] = NAMES) -> None:
        specs = tuple(ReplicaSpec(f"{name}-{one}", f"http://{one}") for one in names)
        self.ahead = ahead
        self.router = Router([PoolSpec("p", "m", specs, encoding=encoding)], rng=Random(1))
        self.names = [spec.name for spec in specs]
        for spec in specs:
            description = EngineDescription(reports_cached_tokens=True, block_tokens=16)
            self.router.observe(ReplicaUp(spec.name, ahead, (ModelCard("m"),), description))
            report = LoadReport(kv_capacity_tokens=CAPACITY, block_tokens=16)
            self.router.observe(LoadReported(spec.name, ahead, report))
        self.outbox = self.router.tell_peers(name)
        self.asked = 0

    def request(self, text: bytes, now: float, streams: bool = True, replica: int | None = None) -> RouteRequest:
        self.asked += 1
        tokens = ()
        if form := next(iter(self.router.token_forms()), None):
            tokens = (token_chain(form, text[::4], shape="chat"),)
        pin = None if replica is None else self.names[replica]
        chains = chain(b"m", text, BLOCK)
        return RouteRequest(f"id-{self.asked}", "m", chains, streams, now + self.ahead, tokens, pinned_replica=pin)

    def route(self, text: bytes, now: float, streams: bool = True, replica: int | None = None) -> Decision:
        answer = self.router.route(self.request(text, now, streams, replica), now + self.ahead)
        assert isinstance(answer, Decision)
        return answer

    def tell(self, now: float) -> list[Batch]:
        batches = []
        while (batch := self.outbox.take(now + self.ahead)) is not None:
            batches.append(decoded(encoded(batch)))
        return batches

    def hear(self, batches: list[Batch], now: float) -> None:
        for batch in batches:
            self.router.observe(PeerHeard(now + self.ahead, batch))

    def sights(self, text: bytes, now: float) -> list[tuple[object, ...]]:
        """What a request would meet at each replica."""
        preview = self.router.preview(self.request(text, now), now + self.ahead)
        assert isinstance(preview, Decision)
        return [
            (row.overlap, row.cached_tokens, pytest.approx(row.wait_ms, abs=1e-3), row.inflight)
            for row in sorted(preview.candidates, key=lambda row: row.slot)
        ]

    def in_flight(self) -> int:
        return sum(one.inflight + one.peers_inflight for one in self.router.snapshot(self.ahead).replicas)


def counted(router: Router) -> object:
    """All that the scoreboard shows."""
    snapshot = router.snapshot(0.0)
    return snapshot.series, snapshot.tenants, snapshot.families, router.recent(100)


def usage(decision: Decision, off: int = 0) -> Usage:
    chosen = decision.chosen
    return Usage(chosen.prompt_tokens, 5, max(0, min(chosen.cached_tokens + off, chosen.prompt_tokens - 1)))


# ── one request ──────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("encoding", ["", "enc"])
@pytest.mark.parametrize("streams", [True, False])
def test_every_step_is_believed_as_by_the_one_who_took_it(encoding: str, streams: bool) -> None:
    one, other = Side("one", encoding=encoding), Side("other", AHEAD, encoding)
    text = b"".join(WORDS)

    def same(now: float) -> None:
        other.hear(one.tell(now), now)
        for prompt in (text, text[: 3 * BLOCK], text[::-1]):
            assert other.sights(prompt, now) == one.sights(prompt, now)

    decision = one.route(text, 1.0, streams)
    same(1.0)
    same(1.01)
    assert one.in_flight() == other.in_flight() == 1
    if streams:
        one.router.observe(FirstToken(decision.ticket, 1.2))
        same(1.25)
    one.router.observe(Finished(decision.ticket, 1.5, Outcome.COMPLETED, usage(decision), 3))
    same(1.6)
    assert one.in_flight() == other.in_flight() == 0
    assert max(row[1] for row in other.sights(text, 1.6)) > 0  # type: ignore[type-var]


@pytest.mark.parametrize("outcome", [*Outcome, None])
def test_whatever_became_of_it_in_one_batch_is_the_same_in_the_end(outcome: Outcome | None) -> None:
    """Told at once, or step by step."""
    one, steps, whole = Side("one"), Side("steps", AHEAD), Side("whole", 2 * AHEAD)
    batches = []
    for number in range(6):
        now = float(number)
        decision = one.route(b"".join(WORDS[: 3 + number]), now)
        batches += one.tell(now)
        if number % 2:
            one.router.observe(FirstToken(decision.ticket, now + 0.1))
            batches += one.tell(now + 0.1)
        if outcome is None:
            one.router.observe(AttemptFailed(decision.ticket, now + 0.2))
        else:
            said = usage(decision, -600 if number == 4 else 0)
            one.router.observe(Finished(decision.ticket, now + 0.2, outcome, said))
        batches += one.tell(now + 0.2)
    for batch in batches:
        steps.hear([batch], batch.sent_at)
    joined: list[Booked | Progress] = []
    places: dict[int, int] = {}
    for record in (record for batch in batches for record in batch.records):
        if isinstance(record, Booked):
            places[record.ticket] = len(joined)
            joined.append(record)
        elif isinstance(record, Progress):
            booked = joined[places[record.ticket]]
            booked.first_at = booked.first_at if record.first_at is None else record.first_at
            booked.end = record.end
    whole.hear([Batch("one", 1, 6.0, list(joined))], 6.0)
    assert steps.in_flight() == whole.in_flight() == 0
    for words in range(1, 9):
        prompt = b"".join(WORDS[:words])
        assert [row[:2] for row in steps.sights(prompt, 7.0)] == [row[:2] for row in whole.sights(prompt, 7.0)]
        assert steps.sights(prompt, 7.0) == one.sights(prompt, 7.0)


def test_what_is_measured_is_learned_once_by_each() -> None:
    one, other = Side("one"), Side("other", AHEAD)
    for number in range(40):
        now = number * 0.1
        decision = one.route(bytes([number]) * 4 * BLOCK + WORDS[0] * 4, now, replica=0)
        one.router.observe(FirstToken(decision.ticket, now + 0.03))
        other.hear(one.tell(now + 0.03), now + 0.03)
        one.router.observe(Finished(decision.ticket, now + 0.04, Outcome.COMPLETED, usage(decision)))
        other.hear(one.tell(now + 0.04), now + 0.04)
    mine, theirs = (side.router.snapshot(now).replicas[0] for side in (one, other))
    assert mine.curve_observations == theirs.curve_observations == 40
    assert theirs.curve_ms_per_token == pytest.approx(mine.curve_ms_per_token)
    assert theirs.cache.calibrated_on == mine.cache.calibrated_on == 40


def test_of_many_requests_little_is_learned_but_surprises() -> None:
    one, other = Side("one"), Side("other", AHEAD)
    text = WORDS[0] * 4 + WORDS[1] * 4
    for number in range(300):
        now = number * 0.001
        decision = one.route(text, now, replica=0)
        off = -400 if number == 290 else 0
        one.router.observe(Finished(decision.ticket, now, Outcome.COMPLETED, usage(decision, off)))
        other.hear(one.tell(now), now)
        assert other.sights(text, now) == one.sights(text, now)
    learned, same = (side.router._fleet.replicas[0].cache for side in (other, one))
    assert 250 <= learned.calibration.observations == same.calibration.observations < 280
    assert len(learned._strikes) == 1
    assert learned._strikes == same._strikes


# ── bookkeeping ──────────────────────────────────────────────────────────────────────────────────


def test_peers_are_counted_nowhere() -> None:
    one, other = Side("one"), Side("other")
    before = counted(other.router)
    for number in range(20):
        decision = one.route(WORDS[number % 3] * 6, float(number))
        one.router.observe(FirstToken(decision.ticket, number + 0.1))
        one.router.observe(Finished(decision.ticket, number + 0.2, Outcome.COMPLETED, usage(decision)))
        other.hear(one.tell(number + 0.3), number + 0.3)
    assert counted(other.router) == before
    assert other.tell(30.0) == []
    assert all(view.inflight == 0 for view in other.router.snapshot(30.0).replicas)


def test_our_own_word_is_not_news() -> None:
    one = Side("one")
    one.route(WORDS[0] * 4, 1.0)
    one.hear(one.tell(1.0), 1.0)
    assert one.in_flight() == 1
    assert one.router.peers == 0


def test_a_batch_heard_twice_is_heard_once() -> None:
    one, other = Side("one"), Side("other")
    decision = one.route(WORDS[0] * 4, 1.0)
    first = one.tell(1.0)
    other.hear(first + first, 1.0)
    assert other.in_flight() == 1
    one.router.observe(Finished(decision.ticket, 1.1, Outcome.COMPLETED))
    second = one.tell(1.1)
    other.hear(second + first + second, 1.1)
    assert other.in_flight() == 0


def test_unknown_replicas_and_tickets_are_left_out() -> None:
    one, other = Side("one"), Side("other", names=("r1", "elsewhere"))
    tickets = [one.route(WORDS[slot] * 4, 1.0, replica=slot).ticket for slot in range(3)]
    other.hear(one.tell(1.0), 1.0)
    assert [view.peers_inflight for view in other.router.snapshot(1.0).replicas] == [1, 0]
    late = Side("late")
    for ticket in tickets:
        one.router.observe(Finished(ticket, 1.2, Outcome.COMPLETED, Usage(1000, 1, 0)))
    batches = one.tell(1.2)
    other.hear(batches, 1.2)
    late.hear(batches, 1.2)
    assert other.in_flight() == late.in_flight() == 0


def test_a_missing_batch_lets_go_of_what_was_in_flight() -> None:
    one, other = Side("one"), Side("other")
    one.route(WORDS[0] * 4, 1.0)
    other.hear(one.tell(1.0), 1.0)
    one.route(WORDS[1] * 4, 1.1)
    one.tell(1.1)
    one.route(WORDS[2] * 4, 1.2)
    other.hear(one.tell(1.2), 1.2)
    assert other.in_flight() == 1
    assert one.in_flight() == 3
    assert all(row[1] == 0 for row in other.sights(WORDS[0] * 4, 1.2))


def test_a_peer_that_is_gone_or_silent_leaves_nothing_booked_and_what_it_computed() -> None:
    for fact in (PeerGone(20.0, "one"), PeersSilent(20.0, since=10.0)):
        one, other = Side("one"), Side("other")
        seen, unseen = one.route(WORDS[0] * 8, 1.0), one.route(WORDS[1] * 8, 1.0)
        one.router.observe(FirstToken(seen.ticket, 1.3))
        other.hear(one.tell(1.3), 1.3)
        assert (other.in_flight(), other.router.peers) == (2, 1)
        other.router.observe(PeersSilent(5.0, since=0.0))
        assert other.router.peers == 1
        other.router.observe(fact)
        assert (other.in_flight(), other.router.peers) == (0, 0)
        assert max(row[1] for row in other.sights(WORDS[0] * 8, 20.0)) > 0  # type: ignore[type-var]
        assert all(row[1] == 0 for row in other.sights(WORDS[1] * 8, 20.0))
        assert unseen.ticket != seen.ticket
        one.router.observe(Finished(unseen.ticket, 21.0, Outcome.COMPLETED))
        other.hear(one.tell(21.0), 21.0)
        assert (other.in_flight(), other.router.peers) == (0, 1)


def test_a_full_outbox_drops_the_oldest_and_says_so() -> None:
    one, other = Side("one"), Side("other")
    one.route(WORDS[0] * 4, 0.0)
    other.hear(one.tell(0.0), 0.0)
    for number in range(MOST_WAITING + 5):
        one.outbox.stored(one.router._fleet.replicas[0], f"resp-{number}")
    assert len(one.outbox) == MOST_WAITING
    assert one.outbox.dropped == 5
    other.hear(one.tell(1.0), 1.0)
    assert other.in_flight() == 0
    assert other.router.holder("resp-4") is None
    assert other.router.holder(f"resp-{MOST_WAITING + 4}") == "other-r0"


def test_stored_responses_are_known_by_the_hearers_name_of_the_replica() -> None:
    one, other = Side("one"), Side("other", names=("r2", "r0"))
    one.router.observe(ResponseStored("one-r0", 0.0, "resp_1"))
    one.router.observe(ResponseStored("one-r1", 0.0, "resp_2"))
    other.hear(one.tell(0.0), 0.0)
    assert other.router.holder("resp_1") == "other-r0"
    assert other.router.holder("resp_2") is None


def test_where_events_tell_what_is_cached_peers_only_promise() -> None:
    one, other = Side("one", encoding="enc"), Side("other", encoding="enc")
    text = b"".join(WORDS)
    other.router.observe(CacheEvents("other-r0", 0.0, 0, ()))
    other.router.observe(CacheSynced("other-r0", 0.0, 0))
    decision = one.route(text, 1.0, replica=0)
    other.hear(one.tell(1.0), 1.0)
    assert other.sights(text, 1.0)[0][0].promised > 0  # type: ignore[attr-defined]
    one.router.observe(FirstToken(decision.ticket, 1.1))
    one.router.observe(Finished(decision.ticket, 1.2, Outcome.COMPLETED))
    other.hear(one.tell(1.2), 1.2)
    assert other.sights(text, 1.2)[0][0].total == 0  # type: ignore[attr-defined]
    assert one.sights(text, 1.2)[0][0].total > 0  # type: ignore[attr-defined]


def test_a_first_token_heard_late_takes_its_part_of_the_time_from_ours() -> None:
    """Two prompts of one replica: the peer's is computed first, but we hear of that after our own."""
    one, other = Side("one"), Side("other")
    theirs = one.route(WORDS[0] * 8, 0.0, replica=0)
    other.hear(one.tell(0.0), 0.0)
    ours = other.route(WORDS[1] * 8, 0.0, replica=0)
    one.router.observe(FirstToken(theirs.ticket, 0.5))
    other.router.observe(FirstToken(ours.ticket, 0.51))
    booking = other.router._fleet.replicas[0].bookings[ours.ticket]
    assert booking.service_ms == pytest.approx(510)
    other.hear(one.tell(0.515), 0.515)
    assert booking.service_ms == pytest.approx(10)
    assert all(view.wait_ms == 0 for view in other.router.snapshot(0.6).replicas)


# ── the bytes ────────────────────────────────────────────────────────────────────────────────────


def test_links_are_eight_little_endian_bytes() -> None:
    links = (1, 2**64 - 1, 0x0102030405060708)
    assert packed(links) == b"".join(link.to_bytes(8, "little") for link in links)
    assert unpacked(packed(links)) == links
    assert unpacked(packed(links) + b"\1") == links
    assert unpacked(b"") == ()


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(payload: bytes) -> None:
    try:
        batch = decoded(payload)
    except msgspec.MsgspecError:
        return
    assert isinstance(batch, Batch)


# ── any order ────────────────────────────────────────────────────────────────────────────────────

STEPS = st.lists(
    st.tuples(
        st.sampled_from(["route", "first", "end", "fail", "tell", "lose", "repeat", "restart"]),
        st.integers(0, 1),
        st.integers(0, 7),
        st.integers(1, 8),
    ),
    max_size=60,
)


@settings(max_examples=200)
@given(STEPS)
def test_any_course_of_two_peers_leaves_nothing_behind(steps: list[tuple[str, int, int, int]]) -> None:
    """Two gateways tell a third, with batches lost and repeated, and one of them started again now and then."""
    third = Side("third", AHEAD)
    names = Counter[int]()
    sides = [Side("peer-0-0"), Side("peer-1-0")]
    flying: list[list[Decision]] = [[], []]
    told: list[list[Batch]] = [[], []]
    now = 0.0
    for what, which, first, count in steps:
        now += 0.01
        side, mine = sides[which], flying[which]
        if what == "route":
            mine.append(side.route(WORDS[first] * count, now, streams=count % 2 == 0))
        elif what == "first" and mine:
            side.router.observe(FirstToken(mine[first % len(mine)].ticket, now))
        elif what in ("end", "fail") and mine:
            decision = mine.pop(first % len(mine))
            ended = Finished(decision.ticket, now, list(Outcome)[count % 6], usage(decision, 64 * (first - 4)))
            side.router.observe(AttemptFailed(decision.ticket, now) if what == "fail" else ended)
        elif what == "tell":
            told[which] += side.tell(now)
            third.hear(told[which], now)  # again and again
        elif what == "lose":
            side.tell(now)
        elif what == "restart":
            names[which] += 1
            sides[which] = Side(f"peer-{which}-{names[which]}")
            flying[which], told[which] = [], []
        assert third.in_flight() <= sum(names.values()) * 60 + sum(map(len, flying)) + 60
        assert all(view.wait_ms >= 0 for view in third.router.snapshot(now + AHEAD).replicas)
    third.router.observe(PeersSilent(now + AHEAD + 100, now + AHEAD + 50))
    assert third.in_flight() == 0
    assert third.router.peers == 0
    assert all(view.wait_ms == 0 for view in third.router.snapshot(now + AHEAD + 100).replicas)
    index = third.router._beliefs.index
    assert not any(index._in_flight)
    assert set(index._holders) == {link for guessed in index._guessed for link in guessed}
    assert third.router._learner._tickets == {}
    assert third.router.snapshot(0.0).series == ()


@settings(max_examples=100)
@given(STEPS.map(lambda steps: [step for step in steps if step[0] not in ("lose", "restart")]))
def test_two_who_hear_each_other_believe_alike(steps: list[tuple[str, int, int, int]]) -> None:
    """As long as each step is told before the next: depths, waits and bookings."""
    sides = [Side("one"), Side("two", AHEAD)]
    flying: list[list[Decision]] = [[], []]
    now = 0.0
    for what, which, first, count in steps:
        now += 0.1
        side, mine = sides[which], flying[which]
        if what == "route":
            mine.append(side.route(WORDS[first] * count, now, streams=count % 2 == 0))
        elif what == "first" and mine:
            side.router.observe(FirstToken(mine[first % len(mine)].ticket, now + side.ahead))
        elif what == "end" and mine:
            decision = mine.pop(first % len(mine))
            said = usage(decision, 64 * (first - 4))
            side.router.observe(Finished(decision.ticket, now + side.ahead, Outcome.COMPLETED, said))
        elif what == "fail" and mine:
            side.router.observe(AttemptFailed(mine.pop().ticket, now + side.ahead))
        now += 1.1 * BRIEF_S
        sides[1 - which].hear(side.tell(now), now)
        for word in WORDS[:3]:
            assert sides[0].sights(word * 8, now) == sides[1].sights(word * 8, now)


def test_what_will_be_over_in_a_moment_is_told_then() -> None:
    one, other = Side("one"), Side("other")
    known = WORDS[0] * 8
    one.router.observe(Finished(one.route(known, 0.0, replica=0).ticket, 0.1, Outcome.COMPLETED))
    other.hear(one.tell(1.0), 1.0)
    brief, long = one.route(known, 1.0, replica=0), one.route(WORDS[1] * 8, 1.0, replica=1)
    assert brief.chosen.prefill_ms < BRIEF_MS < long.chosen.prefill_ms
    other.hear(one.tell(1.01), 1.01)
    assert other.in_flight() == 1
    one.router.observe(Finished(brief.ticket, 1.02, Outcome.COMPLETED, usage(brief)))
    (batch,) = one.tell(1.02)
    (record,) = batch.records
    assert isinstance(record, Booked)
    other.hear([batch], 1.02)
    assert other.sights(known, 1.02) == one.sights(known, 1.02)
    late = one.route(known, 2.0, replica=0)
    assert one.tell(2.0 + 0.9 * BRIEF_S) == []
    other.hear(one.tell(2.0 + 1.1 * BRIEF_S), 2.1)
    assert other.in_flight() == 2
    one.router.observe(FirstToken(late.ticket, 2.2))
    other.hear(one.tell(2.2), 2.2)
    assert other.sights(known, 2.3) == one.sights(known, 2.3)


def test_a_batch_is_what_it_says() -> None:
    outbox = Outbox("me")
    assert outbox.take(1.0) is None
    alive = outbox.alive(1.0)
    assert (alive.sender, alive.number, alive.sent_at, alive.records) == ("me", 1, 1.0, [])
    assert decoded(encoded(alive)) == alive
