"""Laws of the Router under any facts in any order, and that the same facts make the same decisions."""

from collections import Counter
from dataclasses import dataclass
from hashlib import sha256
from random import Random

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import (
    AttemptFailed,
    Dispatched,
    Fact,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    Refused,
    ReplicaDown,
    ReplicaRestarted,
    ReplicaUp,
    ResponseStored,
)
from gateway.routing.fleet import PoolSpec, ReplicaSpec
from gateway.routing.index import CONFIRMED
from gateway.routing.policies import POLICIES
from gateway.routing.router import Router
from gateway.routing.snapshot import SeriesView

BLOCK = 16
NAMES = ("r1", "r2", "s1")
POOLS = (
    PoolSpec("p", "m", (ReplicaSpec("r1", "http://r1"), ReplicaSpec("r2", "http://r2"))),
    PoolSpec("q", None, (ReplicaSpec("s1", "http://s1"),)),
)

LETTERS = ("aaaaaa", "aaaa", "aaab", "aabbbbb", "ab", "bbbb", "bba", "baaaaaaa", "a", "")
TEXTS = st.sampled_from([b"".join(letter.encode() * BLOCK for letter in word) + b"tail" for word in LETTERS])
"""A letter is a block."""
MAYBE_NAME = st.sampled_from([None, None, None, *NAMES])
REPLICAS = st.sampled_from(NAMES)
TOKENS = st.integers(0, 500)
USAGES = st.none() | st.builds(Usage, TOKENS, TOKENS, st.none() | TOKENS)
REPORTS = st.builds(
    LoadReport,
    running_requests=st.none() | st.integers(0, 9),
    kv_capacity_tokens=st.none() | st.integers(0, 60),
    block_tokens=st.none() | st.sampled_from([1, 4, 16]),
)
DESCRIPTIONS = st.builds(
    EngineDescription,
    reports_cached_tokens=st.none() | st.booleans(),
    kv_capacity_tokens=st.none() | st.integers(1, 60),
)
CARDS = st.lists(st.sampled_from(["m", "n"]), unique=True).map(lambda ids: tuple(map(ModelCard, ids)))


@dataclass
class Attempt:
    decision: Decision
    saw_first_token: bool = False


class RouterMachine(RuleBasedStateMachine):
    """Drives one router with anything, and keeps its own books."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 10.0
        self.tickets = 0
        self.open: dict[int, Attempt] = {}
        self.texts: set[bytes] = set()
        self.reporting: set[str] = set()
        self.seen: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.router = Router(POOLS, block_bytes=BLOCK)

    @initialize(policy=st.sampled_from(sorted(POLICIES)), seed=st.integers(0, 99))
    def start(self, policy: str, seed: int) -> None:
        self.router = Router(POOLS, policy=policy, rng=Random(seed), block_bytes=BLOCK)
        for name in NAMES:
            self.router.observe(ReplicaUp(name, self.now, (ModelCard("m"),)))

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    @rule(text=TEXTS, streams=st.booleans())
    def route(self, text: bytes, streams: bool) -> None:
        self.ask(text, "m", streams, None, frozenset(), None)

    @rule(text=TEXTS, streams=st.booleans(), usage=USAGES)
    def serve(self, text: bytes, streams: bool, usage: Usage | None) -> None:
        """A whole request, so that caches fill."""
        before = self.tickets
        self.route(text, streams)
        if self.tickets > before:
            self.now += 0.05
            if streams:
                self.see_first_token(self.tickets)
            self.see_end(self.tickets, Outcome.COMPLETED, usage, 3)

    @rule(
        text=TEXTS,
        model=st.sampled_from(["m", "n", "unknown", None]),
        streams=st.booleans(),
        pin=MAYBE_NAME,
        tried=st.frozensets(REPLICAS, max_size=2),
        response=st.sampled_from([None, None, "resp_1"]),
    )
    def ask(
        self,
        text: bytes,
        model: str | None,
        streams: bool,
        pin: str | None,
        tried: frozenset[str],
        response: str | None,
    ) -> None:
        self.texts.add(text)
        request = RouteRequest(
            request_id=f"request {self.tickets % 7}",
            model=model,
            chain=chain(b"m", text, BLOCK),
            streams=streams,
            accepted_at=self.now,
            response_id=response,
            pinned_replica=pin,
            tried=tried,
        )
        answer = self.router.route(request, self.now)
        if not isinstance(answer, Decision):
            assert answer.message
            return
        self.tickets += 1
        assert answer.ticket == self.tickets
        assert any(answer.chosen is candidate for candidate in answer.candidates)
        assert answer.chosen.replica not in tried
        assert pin in (None, answer.chosen.replica)
        assert answer.available_tokens == max(candidate.cached_tokens for candidate in answer.candidates)
        for candidate in answer.candidates:
            assert 0 <= candidate.cached_tokens < candidate.prompt_tokens
            assert 0 <= candidate.fill <= 1
            assert candidate.prefill_ms > 0
        self.open[answer.ticket] = Attempt(answer)

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

    def see_first_token(self, ticket: int) -> None:
        attempt = self.open.get(ticket)
        if attempt is not None and not attempt.saw_first_token:
            attempt.saw_first_token = True
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

    @precondition(lambda self: len(self.open) > 2)
    @rule()
    def all_end(self) -> None:
        for ticket in list(self.open):
            del self.open[ticket]
            self.seen["retries"] += 1
            self.router.observe(AttemptFailed(ticket, self.now))

    # ── invariants ───────────────────────────────────────────────────────────────────────────────

    def view(self, replica: str):  # type: ignore[no-untyped-def]
        return self.router.snapshot(self.now).replicas[NAMES.index(replica)]

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
    def blocks_are_confirmed_or_promised_by_an_attempt_in_flight_there(self) -> None:
        for replica, held in zip(NAMES, self.router._index._held, strict=True):
            promising = {
                ticket
                for ticket, attempt in self.open.items()
                if attempt.decision.chosen.replica == replica and not attempt.saw_first_token
            }
            assert set(held.values()) <= promising | {CONFIRMED}

    @invariant()
    def blocks_are_held_with_all_that_stand_before_them(self) -> None:
        for text in self.texts:
            links = chain(b"m", text, BLOCK)
            overlaps = self.router._index.overlaps(links)
            for overlap, held in zip(overlaps, self.router._index._held, strict=True):
                assert overlap == sum(link in held for link in links.hashes)

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
    def looking_changes_nothing(self) -> None:
        snapshot = self.router.snapshot(self.now)
        request = RouteRequest("look", "m", chain(b"m", b"a" * BLOCK * 3, BLOCK), True, self.now)
        assert self.router.preview(request, self.now) == self.router.preview(request, self.now)
        assert self.router.snapshot(self.now) == snapshot

    def teardown(self) -> None:
        for ticket in self.open:
            self.router.observe(Finished(ticket, self.now, Outcome.CLIENT_GONE))
        self.open.clear()
        for view in self.router.snapshot(self.now).replicas:
            assert (view.inflight, view.wait_ms) == (0, 0)
        for held in self.router._index._held:
            assert set(held.values()) <= {CONFIRMED}
        assert self.router._tickets == {}


def counted(series: tuple[SeriesView, ...], histogram: str) -> int:
    return sum(sum(view.histograms[histogram].counts) for view in series)


TestRouterMachine = RouterMachine.TestCase
TestRouterMachine.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)


# ── determinism ──────────────────────────────────────────────────────────────────────────────────

FAMILIES = [bytes([65 + n]) * (700 * n) for n in range(1, 9)]


class Run:
    """500 requests with the fate that a seed gives them; a digest of all decisions and of the last snapshot."""

    def __init__(self, policy: str, *, router_seed: int = 1, looks: bool = False) -> None:
        self.router = Router(POOLS, policy=policy, rng=Random(router_seed))
        self.fate = Random(42)
        self.looks = looks
        self.now = 0.0
        self.open: list[Decision] = []
        self.digest = sha256()

    def observe(self, fact: Fact) -> None:
        self.router.observe(fact)
        if self.looks:
            self.router.snapshot(self.now)

    def play(self) -> str:
        for name in NAMES:
            self.observe(ReplicaUp(name, self.now, (ModelCard("m"),)))
        for n in range(500):
            self.now += self.fate.expovariate(10)
            self.request(n)
            while len(self.open) > self.fate.randrange(12):
                self.end(self.open.pop(self.fate.randrange(len(self.open))))
            self.weather()
        self.digest.update(msgspec.json.encode(self.router.snapshot(self.now)))
        return self.digest.hexdigest()

    def request(self, n: int) -> None:
        text = self.fate.choice(FAMILIES) + b"question %d " % self.fate.randrange(50) * 30
        streams = self.fate.random() < 0.6
        request = RouteRequest(f"request {n}", "m", chain(b"m", text), streams, self.now)
        if self.looks:
            self.router.preview(request, self.now)
        answer = self.router.route(request, self.now)
        self.digest.update(msgspec.json.encode(answer))
        if isinstance(answer, Decision):
            self.open.append(answer)
            self.observe(Dispatched(answer.ticket, self.now, 0.0001, 0.0002))

    def end(self, decision: Decision) -> None:
        self.now += self.fate.random() * 0.2
        if self.looks:
            self.router.snapshot(self.now - 0.01)
        if self.fate.random() < 0.8:
            self.observe(FirstToken(decision.ticket, self.now))
            self.now += self.fate.random() * 0.05
        if self.fate.random() < 0.1:
            self.observe(AttemptFailed(decision.ticket, self.now))
            return
        outcome = self.fate.choice([Outcome.COMPLETED] * 8 + list(Outcome))
        cached = self.fate.randrange(decision.chosen.prompt_tokens)
        self.observe(Finished(decision.ticket, self.now, outcome, Usage(decision.chosen.prompt_tokens, 20, cached), 5))

    def weather(self) -> None:
        name, luck = self.fate.choice(NAMES), self.fate.random()
        if luck < 0.02:
            self.observe(ReplicaDown(name, self.now, "connection refused"))
        elif luck < 0.2:
            self.observe(ReplicaUp(name, self.now, (ModelCard("m"),)))
        elif luck < 0.22:
            self.observe(ReplicaRestarted(name, self.now))
        elif luck < 0.3:
            self.observe(LoadReported(name, self.now, LoadReport(kv_capacity_tokens=self.fate.randrange(1000, 20_000))))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_and_facts_make_the_same_decisions(policy: str) -> None:
    assert Run(policy).play() == Run(policy).play()


@pytest.mark.parametrize("policy", POLICIES)
def test_looking_in_between_changes_no_decision(policy: str) -> None:
    """So that a journal, which holds requests and facts only, replays to the same decisions."""
    assert Run(policy).play() == Run(policy, looks=True).play()


def test_another_seed_makes_other_decisions() -> None:
    assert Run("random").play() != Run("random", router_seed=2).play()
