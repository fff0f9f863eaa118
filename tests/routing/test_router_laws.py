"""Laws of the Router under any facts in any order."""

from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import structs
from thoroughness import examples

from engines.cache_events import BlocksCleared, BlocksRemoved, BlocksStored, CacheEvent
from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing.chain import chain, token_chain
from gateway.routing.congestion import LEAST_SHARE
from gateway.routing.curves import ENOUGH
from gateway.routing.decision import Decision, Held, Rejection, RouteRequest
from gateway.routing.facts import (
    AttemptFailed,
    CacheEvents,
    CacheFenced,
    CacheLost,
    CacheReset,
    CacheSynced,
    Dispatched,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    Refused,
    ReplicaDown,
    ReplicaRestarted,
    ReplicaUp,
    ResponseStored,
    Withdrawn,
)
from gateway.routing.policies import HOLDING, POLICIES
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import LOOKS, Router
from gateway.routing.snapshot import ReplicaView, SeriesView

BLOCK = 16
NAMES = ("r1", "r2", "s1")
POOLS = (
    PoolSpec("p", "m", (ReplicaSpec("r1", "http://r1"), ReplicaSpec("r2", "http://r2"))),
    PoolSpec("q", None, (ReplicaSpec("s1", "http://s1"),), encoding="letters"),
)
"""The second one is followed by tokens, as soon as it has said its block size."""

LETTERS = ("aaaaaa", "aaaa", "aaab", "aabbbbb", "ab", "bbbb", "bba", "baaaaaaa", "a", "")
TEXTS = st.sampled_from([b"".join(letter.encode() * BLOCK for letter in word) + b"tail" for word in LETTERS])
"""A letter is a block, of 16 bytes and of as many tokens."""
MAYBE_NAME = st.sampled_from([None, None, None, *NAMES])
REPLICAS = st.sampled_from(NAMES)
TOKENS = st.integers(0, 500)
USAGES = st.none() | st.builds(Usage, TOKENS, TOKENS, st.none() | TOKENS)
REPORTS = st.builds(
    LoadReport,
    running_requests=st.none() | st.integers(0, 9),
    kv_capacity_tokens=st.none() | st.integers(0, 60),
    block_tokens=st.none() | st.sampled_from([1, 4, 16, 16, 32]),
)
DESCRIPTIONS = st.builds(
    EngineDescription,
    reports_cached_tokens=st.none() | st.booleans(),
    kv_capacity_tokens=st.none() | st.integers(1, 60),
)
RANKS = st.sampled_from([0, 0, 0, 1])
CARDS = st.lists(st.sampled_from(["m", "n"]), unique=True).map(lambda ids: tuple(map(ModelCard, ids)))


def ids(text: bytes) -> bytes:
    """A token a byte."""
    return b"".join(byte.to_bytes(4, "little") for byte in text)


@st.composite
def events(draw: st.DrawFn) -> CacheEvent:
    """What an engine with blocks of 16 tokens may say of a prompt."""
    text = draw(TEXTS).removesuffix(b"tail")
    keys = tuple(text[: end * BLOCK] for end in range(1, len(text) // BLOCK + 1))
    start = draw(st.integers(0, len(keys)))
    kind = draw(st.sampled_from(["stored", "stored", "removed", "cleared"]))
    if kind == "cleared":
        return BlocksCleared()
    if kind == "removed":
        return BlocksRemoved(keys[start:])
    return BlocksStored(keys[start:], keys[start - 1] if start else None, ids(text[start * BLOCK :]), BLOCK)


@dataclass
class Waiting:
    """A held request."""

    request: RouteRequest
    salted: bool


@dataclass
class Attempt:
    decision: Decision
    salted: bool
    saw_first_token: bool = False
    settled: bool = False
    """Its first token showed what is cached now: there were no events to say so."""


class RouterMachine(RuleBasedStateMachine):
    """Drives one router with anything, and keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10.0
        self.tickets = 0
        self.open: dict[int, Attempt] = {}
        self.held: dict[int, Waiting] = {}
        self.hold_ms = 0.0
        self.texts: set[bytes] = set()
        self.reporting: set[str] = set()
        self.synced: set[tuple[str, int]] = set()
        self.fences: set[tuple[str, int, str]] = set()
        self.unheard: set[tuple[str, int]] = set()
        self.seen: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.router = Router(POOLS, block_bytes=BLOCK)

    @initialize(
        policy=st.sampled_from([*["ttft"] * len(POLICIES), *sorted(POLICIES)]),
        seed=st.integers(0, 99),
        hold_ms=st.sampled_from([0.0, 1.0, 1.0, 20.0]),
    )
    def start(self, policy: str, seed: int, hold_ms: float) -> None:
        """All are up, and the fleet has a curve of its own."""
        self.router = Router(POOLS, policy=policy, rng=Random(seed), block_bytes=BLOCK, hold_ms=hold_ms)
        self.hold_ms = hold_ms if policy in HOLDING else 0.0
        for name in NAMES:
            self.router.observe(ReplicaUp(name, self.now, (ModelCard("m"),)))
        for _ in range(ENOUGH):
            self.serve(b"tail", streams=True, cached=None)

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    @rule(text=TEXTS, streams=st.booleans())
    def route(self, text: bytes, streams: bool) -> None:
        self.ask(text, "m", streams, None, frozenset(), None, "ann", False)

    @rule(text=TEXTS, count=st.integers(2, 8), pin=MAYBE_NAME)
    def burst(self, text: bytes, count: int, pin: str | None) -> None:
        """More than the replicas are free for: some are held."""
        for _ in range(count):
            self.ask(text, "m", True, pin, frozenset(), None, "ann", False)

    @rule(text=TEXTS, streams=st.booleans(), cached=st.none() | st.integers(0, 120))
    def serve(self, text: bytes, streams: bool, cached: int | None) -> None:
        """A whole request, counted as we count it, so that caches fill and tokens are trusted."""
        before = self.tickets
        self.route(text, streams)
        if self.tickets > before and self.tickets in self.open:
            self.now += 0.05
            if streams:
                self.see_first_token(self.tickets)
            usage = Usage(len(text), 1, None if cached is None else min(cached, len(text)))
            self.see_end(self.tickets, Outcome.COMPLETED, usage, 3)

    @rule(
        text=TEXTS,
        model=st.sampled_from(["m", "n", "unknown", None]),
        streams=st.booleans(),
        pin=MAYBE_NAME,
        tried=st.frozensets(REPLICAS, max_size=2),
        response=st.sampled_from([None, None, "resp_1"]),
        tenant=st.sampled_from(["ann", "bob"]),
        salted=st.booleans(),
    )
    def ask(
        self,
        text: bytes,
        model: str | None,
        streams: bool,
        pin: str | None,
        tried: frozenset[str],
        response: str | None,
        tenant: str,
        salted: bool,
    ) -> None:
        self.texts.add(text)
        salt = "pepper" if salted else None
        of_tokens = (token_chain(form, ids(text), salt=salt, shape="chat") for form in self.router.token_forms())
        request = RouteRequest(
            request_id=f"request {self.tickets % 7}",
            model=model,
            chain=chain(b"salted" if salted else b"m", text, BLOCK, salted=salted),
            streams=streams,
            accepted_at=self.now,
            token_chains=tuple(of_tokens),
            tenant=tenant,
            response_id=response,
            pinned_replica=pin,
            tried=tried,
        )
        before = self.router.preview(anywhere(request), self.now)
        answer = self.router.route(request, self.now)
        if isinstance(answer, Rejection):
            assert answer.message
            return
        self.tickets += 1
        assert answer.ticket == self.tickets
        if isinstance(answer, Held):
            others = {one.request.tenant for one in self.held.values()} - {tenant}
            assert self.hold_ms > 0
            assert others or self.hold_ms <= answer.best.wait_ms
            assert not tried
            assert pin in (None, answer.best.replica)
            self.held[answer.ticket] = Waiting(request, salted)
            return
        assert tried or not 0 < self.hold_ms <= answer.chosen.wait_ms
        self.check(answer, request, before)
        self.open[answer.ticket] = Attempt(answer, salted)

    def check(self, answer: Decision, request: RouteRequest, before: Decision | Rejection) -> None:
        """A decision's laws; `before` is what a preview said of the request without its restrictions."""
        assert isinstance(before, Decision)
        assert answer.request_id == request.request_id
        assert any(answer.chosen is candidate for candidate in answer.candidates)
        assert answer.chosen.replica not in request.tried
        assert request.pinned_replica in (None, answer.chosen.replica)
        best = max(candidate.cached_tokens for candidate in before.candidates)
        assert answer.available_tokens >= best  # broken and busy replicas, which are no candidates, may hold more
        assert answer.available_tokens == best or any(view.breaker != "closed" for view in self.views())
        for candidate in answer.candidates:
            assert 0 <= candidate.cached_tokens <= candidate.overlap.total < candidate.prompt_tokens
            assert min(candidate.overlap) >= 0
            if self.is_fenced(candidate.replica):
                assert candidate.overlap == (0, 0, 0)
            if self.view(candidate.replica).cache.broken:
                assert candidate.cached_tokens == 0
            assert 0 <= candidate.fill <= 1
            assert candidate.prefill_ms > 0
            assert candidate.others_ms >= LEAST_SHARE * candidate.prefill_ms
            assert 0 <= candidate.eviction_ms <= candidate.prefill_ms + candidate.others_ms + 1e-6

    # ── held requests ────────────────────────────────────────────────────────────────────────────

    @precondition(lambda self: self.held)
    @rule()
    def release(self) -> None:
        """Whoever is answered was held until now, and is never answered again."""
        at_all = {name: view.state == "up" for name, view in zip(NAMES, self.views(), strict=True)}
        before = {ticket: self.router.preview(anywhere(one.request), self.now) for ticket, one in self.held.items()}
        answers = self.router.release(self.now)
        assert len(answers) <= LOOKS
        for ticket, answer in answers:
            waiting = self.held.pop(ticket)
            if isinstance(answer, Rejection):
                assert answer.message
                continue
            assert answer.ticket == ticket
            assert at_all[answer.chosen.replica]
            assert answer.chosen.wait_ms < self.hold_ms
            if answers[0] == (ticket, answer):  # the first one's answer changes what others have
                self.check(answer, waiting.request, before[ticket])
            self.open[ticket] = Attempt(answer, waiting.salted)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def withdrawn(self, data: st.DataObject) -> None:
        """Its client left: it is as if it had never been held."""
        ticket = data.draw(st.sampled_from(sorted(self.held)), label="held")
        del self.held[ticket]
        self.router.observe(Withdrawn(ticket, self.now))

    @precondition(lambda self: self.tickets > 0)
    @rule(data=st.data())
    def withdrawn_too_late(self, data: st.DataObject) -> None:
        ticket = self.ticket(data)
        if ticket not in self.held:
            self.router.observe(Withdrawn(ticket, self.now))

    @precondition(lambda self: self.held)
    @rule()
    def all_that_are_held_go_in_the_end(self) -> None:
        """With nothing else in flight and time passing, everybody is answered."""
        self.end_all()
        for _ in range(100):
            self.release()
            if not self.held:
                return
            self.end_all()
            self.now += 0.3
        raise AssertionError(self.held)

    @rule(seconds=st.sampled_from([0.0, 0.001, 0.02, 0.1, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def ticket(self, data: st.DataObject) -> int:
        """An open one mostly; else one that ended, or was never given."""
        anything = st.integers(0, self.tickets + 2)
        opened = st.sampled_from(sorted(self.open)) if self.open else anything
        return data.draw(st.one_of(opened, opened, anything), label="ticket")

    @precondition(lambda self: self.tickets > 0)
    @rule(data=st.data())
    def dispatched(self, data: st.DataObject) -> None:
        ticket = self.ticket(data)
        self.seen["dispatched"] += ticket in self.open
        self.router.observe(Dispatched(ticket, self.now, 0.0001, 0.0002))

    @precondition(lambda self: self.tickets > 0)
    @rule(data=st.data())
    def first_token(self, data: st.DataObject) -> None:
        self.see_first_token(self.ticket(data))

    def covers(self, attempt: Attempt) -> bool:
        """Whether events of its replica say all of its prompt."""
        chosen = attempt.decision.chosen
        heard = any(replica == chosen.replica for replica, _ in self.synced)
        return heard and chosen.counted_in == "tokens" and not attempt.salted

    def see_first_token(self, ticket: int) -> None:
        attempt = self.open.get(ticket)
        if attempt is not None and not attempt.saw_first_token:
            attempt.saw_first_token = True
            attempt.settled = not self.covers(attempt)
            self.seen["first tokens"] += 1
        self.router.observe(FirstToken(ticket, self.now))

    @precondition(lambda self: self.tickets > 0)
    @rule(
        data=st.data(),
        outcome=st.sampled_from([Outcome.COMPLETED, *Outcome]),
        usage=USAGES,
        frames=st.integers(0, 5),
    )
    def finished(self, data: st.DataObject, outcome: Outcome, usage: Usage | None, frames: int) -> None:
        self.see_end(self.ticket(data), outcome, usage, frames)

    def see_end(self, ticket: int, outcome: Outcome, usage: Usage | None, frames: int) -> None:
        attempt = self.open.pop(ticket, None)
        if attempt is not None:
            self.outcomes[outcome] += 1
            if usage is not None:
                self.count(attempt.decision, usage)
        self.router.observe(Finished(ticket, self.now, outcome, usage, frames))

    def count(self, decision: Decision, usage: Usage) -> None:
        replica = decision.chosen.replica
        self.seen["prompt"] += usage.prompt_tokens
        ranks = [rank for name, rank in self.synced if name == replica]
        if usage.cached_tokens and len(ranks) == 1:  # a hit shows that it was not reset
            self.fences.discard((replica, ranks[0], "reset"))
        self.seen["completion"] += usage.completion_tokens
        if usage.cached_tokens is not None:
            self.reporting.add(replica)
        if replica in self.reporting:
            self.seen["delivered"] += usage.cached_tokens or 0
            self.seen["routed"] += decision.chosen.cached_tokens
            self.seen["available"] += decision.available_tokens
        else:
            self.seen["unreported"] += usage.prompt_tokens

    @precondition(lambda self: self.tickets > 0)
    @rule(data=st.data())
    def attempt_failed(self, data: st.DataObject) -> None:
        ticket = self.ticket(data)
        self.seen["retries"] += self.open.pop(ticket, None) is not None
        self.router.observe(AttemptFailed(ticket, self.now))

    @rule(outcome=st.sampled_from(Outcome), model=st.sampled_from(["m", ""]))
    def refused(self, outcome: Outcome, model: str) -> None:
        self.outcomes[outcome] += 1
        self.router.observe(Refused(self.now, model, outcome))

    # ── replicas ─────────────────────────────────────────────────────────────────────────────────

    @rule(replica=REPLICAS, models=CARDS, description=DESCRIPTIONS)
    def replica_up(self, replica: str, models: tuple[ModelCard, ...], description: EngineDescription) -> None:
        if description.reports_cached_tokens:
            self.reporting.add(replica)
        self.router.observe(ReplicaUp(replica, self.now, models, description))

    @rule(replica=REPLICAS)
    def replica_down(self, replica: str) -> None:
        self.router.observe(ReplicaDown(replica, self.now, "connection refused"))

    @rule(replica=REPLICAS)
    def replica_restarted(self, replica: str) -> None:
        self.reporting.discard(replica)
        self.synced = {one for one in self.synced if one[0] != replica}
        self.unheard = {one for one in self.unheard if one[0] != replica}
        self.fences = {one for one in self.fences if one[0] != replica}
        self.router.observe(ReplicaRestarted(replica, self.now))
        assert self.view(replica).index_blocks == 0

    @rule(replica=REPLICAS, report=REPORTS)
    def load_reported(self, replica: str, report: LoadReport) -> None:
        self.router.observe(LoadReported(replica, self.now, report))
        assert self.view(replica).report == report

    @rule(replica=REPLICAS)
    def response_stored(self, replica: str) -> None:
        self.router.observe(ResponseStored(replica, self.now, "resp_1"))
        assert self.router.holder("resp_1") == replica

    # ── what replicas say of their caches ────────────────────────────────────────────────────────

    @rule(replica=REPLICAS, rank=RANKS, said=st.lists(events(), max_size=3).map(tuple))
    def cache_events(self, replica: str, rank: int, said: tuple[CacheEvent, ...]) -> None:
        self.fences.discard((replica, rank, "reset"))
        if (replica, rank) not in self.synced:
            self.fences.add((replica, rank, "feed"))
        self.router.observe(CacheEvents(replica, self.now, rank, said))

    @rule(replica=REPLICAS, rank=RANKS)
    def cache_fenced(self, replica: str, rank: int) -> None:
        self.fences.add((replica, rank, "feed"))
        self.router.observe(CacheFenced(replica, self.now, rank, "a gap"))

    @rule(replica=REPLICAS, rank=RANKS)
    def cache_synced(self, replica: str, rank: int) -> None:
        self.synced.add((replica, rank))
        self.unheard.discard((replica, rank))
        self.fences.discard((replica, rank, "feed"))
        self.router.observe(CacheSynced(replica, self.now, rank))

    @rule(replica=REPLICAS, rank=RANKS)
    def cache_lost(self, replica: str, rank: int) -> None:
        self.synced.discard((replica, rank))
        self.unheard.add((replica, rank))
        self.fences -= {(replica, rank, "feed"), (replica, rank, "reset")}
        self.router.observe(CacheLost(replica, self.now, rank, "began anew"))

    @rule(replica=REPLICAS)
    def cache_reset(self, replica: str) -> None:
        self.fences |= {(name, rank, "reset") for name, rank in self.synced if name == replica}
        self.router.observe(CacheReset(replica, self.now))

    @precondition(lambda self: len(self.open) > 2)
    @rule()
    def all_end(self) -> None:
        self.end_all()

    def end_all(self) -> None:
        for ticket in list(self.open):
            del self.open[ticket]
            self.seen["retries"] += 1
            self.router.observe(AttemptFailed(ticket, self.now))

    # ── invariants ───────────────────────────────────────────────────────────────────────────────

    def view(self, replica: str):  # type: ignore[no-untyped-def]
        return self.router.snapshot(self.now).replicas[NAMES.index(replica)]

    def views(self) -> tuple[ReplicaView, ...]:
        return self.router.snapshot(self.now).replicas

    @invariant()
    def the_held_are_counted(self) -> None:
        assert self.router.holds == self.router.snapshot(self.now).held == len(self.held)
        assert self.held.keys().isdisjoint(self.open)
        assert (self.router.look_at(self.now) is None) == (not self.held)

    @invariant()
    def every_open_ticket_is_booked_once(self) -> None:
        booked = Counter(attempt.decision.chosen.replica for attempt in self.open.values())
        for view in self.router.snapshot(self.now).replicas:
            assert view.inflight == booked[view.name]

    @invariant()
    def the_wait_is_that_of_booked_work(self) -> None:
        work: Counter[str] = Counter()
        for attempt in self.open.values():
            if not attempt.saw_first_token:
                work[attempt.decision.chosen.replica] += attempt.decision.chosen.prefill_ms  # type: ignore[assignment]
        for view in self.router.snapshot(self.now).replicas:
            assert 0 <= view.wait_ms <= work[view.name] + 1e-6
            if work[view.name] == 0:
                assert view.wait_ms == 0

    @invariant()
    def only_attempts_in_flight_promise_and_use_blocks(self) -> None:
        for replica, in_flight in zip(NAMES, self.router._beliefs.index._in_flight, strict=True):
            there = {ticket for ticket, attempt in self.open.items() if attempt.decision.chosen.replica == replica}
            assert in_flight.keys() == there

    @invariant()
    def the_map_holds_what_replicas_hold(self) -> None:
        index = self.router._beliefs.index
        guessed = {link for links in index._guessed for link in links}
        in_flight = {link for attempts in index._in_flight for links in attempts.values() for link in links}
        stated = sum(index.stated_blocks(slot) for slot in range(len(NAMES)))
        assert guessed <= index._holders.keys()
        assert all(index._holders.values())
        assert len(index._holders) <= len(guessed) + stated
        assert index._promises.keys() <= in_flight
        assert all(index._promises.values())

    def is_fenced(self, replica: str) -> bool:
        return any(name == replica for name, _, _ in self.fences)

    @invariant()
    def the_source_of_beliefs_is_said(self) -> None:
        for view in self.router.snapshot(self.now).replicas:
            heard = any(name == view.name for name, _ in self.synced)
            heard = heard and not any(name == view.name for name, _ in self.unheard)
            expected = "fenced" if self.is_fenced(view.name) else "events" if heard else "guess"
            assert view.cache.source == expected
            assert 0 <= view.cache.stated_blocks <= view.index_blocks

    @invariant()
    def totals_are_what_was_observed(self) -> None:
        series = self.router.snapshot(self.now).series
        outcomes: Counter[str] = Counter()
        for view in series:
            outcomes.update(view.outcomes)
        assert outcomes == self.outcomes
        totals = {
            "retries": sum(view.retries for view in series),
            "prompt": sum(view.prompt_tokens for view in series),
            "completion": sum(view.completion_tokens for view in series),
            "unreported": sum(view.unreported_prompt_tokens for view in series),
            "available": sum(view.available_tokens for view in series),
            "routed": sum(view.routed_tokens for view in series),
            "delivered": sum(view.delivered_tokens for view in series),
            "dispatched": counted(series, "route_seconds"),
            "first tokens": counted(series, "ttft_seconds"),
        }
        assert totals == {name: self.seen[name] for name in totals}
        assert all(view.routed_tokens <= view.available_tokens for view in series)

    @invariant()
    def waterfalls_add_up_and_agree(self) -> None:
        """By replica, by tenant and by prefix family the same tokens are counted."""
        snapshot = self.router.snapshot(self.now)
        for views in (snapshot.series, snapshot.tenants, snapshot.families):
            for view in views:
                assert view.available_tokens - view.routing_loss_tokens == view.routed_tokens
                delivered = view.routed_tokens - view.index_loss_tokens + view.index_gain_tokens
                assert delivered == view.delivered_tokens
            assert sum(view.available_tokens for view in views) == self.seen["available"]
            assert sum(view.delivered_tokens for view in views) == self.seen["delivered"]

    @invariant()
    def looking_changes_nothing(self) -> None:
        snapshot = self.router.snapshot(self.now)
        request = RouteRequest("look", "m", chain(b"m", b"a" * BLOCK * 3, BLOCK), True, self.now)
        assert self.router.preview(request, self.now) == self.router.preview(request, self.now)
        assert self.router.snapshot(self.now) == snapshot

    def teardown(self) -> None:
        for ticket in self.open:
            self.router.observe(Finished(ticket, self.now, Outcome.CLIENT_GONE))
        self.open.clear()
        for ticket in self.held:
            self.router.observe(Withdrawn(ticket, self.now))
        assert self.router.holds == 0
        assert self.router.release(self.now + 1) == []
        for view in self.router.snapshot(self.now).replicas:
            assert (view.inflight, view.wait_ms) == (0, 0)
        index = self.router._beliefs.index
        assert not any(index._in_flight)
        assert index._promises == {}
        stated = sum(index.stated_blocks(slot) for slot in range(len(NAMES)))
        assert len(index._holders) <= sum(map(len, index._guessed)) + stated
        assert self.router._learner._tickets == {}


def anywhere(request: RouteRequest) -> RouteRequest:
    """The request without what narrows its choice."""
    return structs.replace(request, response_id=None, pinned_replica=None, tried=frozenset())


def counted(series: tuple[SeriesView, ...], histogram: str) -> int:
    return sum(sum(view.histograms[histogram].counts) for view in series)


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(max_examples=examples(60, 400), stateful_step_count=50, deadline=None)
TestRouterMachine = pytest.mark.law(pytest.mark.no_cover(TestRouterMachine))  # coverage would triple its time
