"""The same requests, facts and seed make the same decisions, looks in between or not."""

from hashlib import sha256
from random import Random

import msgspec
import pytest

from engines.cache_events import BlocksCleared, BlocksRemoved, BlocksStored
from engines.reports import LoadReport, ModelCard, Usage
from gateway.routing.chain import chain, token_chain
from gateway.routing.decision import Decision, Held, Rejection, RouteRequest
from gateway.routing.facts import (
    AttemptFailed,
    CacheEvents,
    CacheFenced,
    CacheLost,
    CacheReset,
    CacheSynced,
    Dispatched,
    Fact,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    ReplicaDown,
    ReplicaRestarted,
    ReplicaUp,
    Withdrawn,
)
from gateway.routing.policies import POLICIES
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

NAMES = ("r1", "r2", "s1")
POOLS = (
    PoolSpec("p", "m", (ReplicaSpec("r1", "http://r1"), ReplicaSpec("r2", "http://r2"))),
    PoolSpec("q", None, (ReplicaSpec("s1", "http://s1"),), encoding="bytes"),
)

FAMILIES = [bytes([65 + n]) * (700 * n) for n in range(1, 9)]


class Run:
    """500 requests with the fate that a seed gives them; a digest of all decisions and of the last snapshot."""

    def __init__(self, policy: str, *, router_seed: int = 1, looks: bool = False, hold_ms: float = 0.0) -> None:
        self.router = Router(POOLS, policy=policy, rng=Random(router_seed), hold_ms=hold_ms)
        self.fate = Random(42)
        self.looks = looks
        self.now = 0.0
        self.open: list[Decision] = []
        self.held: dict[int, Held] = {}
        self.released = self.withdrawn = 0
        self.digest = sha256()

    def observe(self, fact: Fact) -> None:
        self.router.observe(fact)
        if self.looks:
            self.router.snapshot(self.now)
        self.release()

    def release(self) -> None:
        """As drivers do: after every fact, and now and then."""
        if not self.router.holds:
            return
        for ticket, answer in self.router.release(self.now):
            del self.held[ticket]
            self.released += 1
            self.answered(answer)

    def answered(self, answer: Decision | Rejection) -> None:
        self.digest.update(msgspec.json.encode(answer))
        if isinstance(answer, Decision):
            self.open.append(answer)
            self.observe(Dispatched(answer.ticket, self.now, 0.0001, 0.0002))

    def play(self) -> str:
        for name in NAMES:
            self.observe(ReplicaUp(name, self.now, (ModelCard("m"),)))
        for n in range(500):
            self.now += self.fate.expovariate(10)
            self.request(n)
            while len(self.open) > self.fate.randrange(12):
                self.end(self.open.pop(self.fate.randrange(len(self.open))))
            self.weather()
            if self.held and self.fate.random() < 0.1:
                self.withdraw()
        self.digest.update(msgspec.json.encode(self.router.snapshot(self.now)))
        return self.digest.hexdigest()

    def request(self, n: int) -> None:
        text = self.fate.choice(FAMILIES) + b"question %d " % self.fate.randrange(50) * 30
        streams = self.fate.random() < 0.6
        ids = b"".join(byte.to_bytes(4, "little") for byte in text)
        of_tokens = tuple(token_chain(form, ids, shape="chat") for form in self.router.token_forms())
        tenant = self.fate.choice(["ann", "bob"])
        request = RouteRequest(f"request {n}", "m", chain(b"m", text), streams, self.now, of_tokens, tenant)
        if self.looks:
            self.router.preview(request, self.now)
        answer = self.router.route(request, self.now)
        if isinstance(answer, Held):
            self.digest.update(msgspec.json.encode(answer))
            self.held[answer.ticket] = answer
        else:
            self.answered(answer)

    def withdraw(self) -> None:
        ticket = self.fate.choice(list(self.held))
        del self.held[ticket]
        self.withdrawn += 1
        self.observe(Withdrawn(ticket, self.now))

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
            capacity = self.fate.randrange(1000, 20_000)
            self.observe(LoadReported(name, self.now, LoadReport(kv_capacity_tokens=capacity, block_tokens=64)))
        elif luck < 0.35:
            self.observe(self.fate.choice([CacheFenced, CacheLost])(name, self.now, 0, "a gap"))
        elif luck < 0.4:
            self.observe(CacheSynced(name, self.now, 0))
        elif luck < 0.42:
            self.observe(CacheReset(name, self.now))
        elif luck < 0.7:
            self.observe(CacheEvents(name, self.now, 0, (self.event(),)))

    def event(self) -> BlocksStored | BlocksRemoved | BlocksCleared:
        family, blocks = self.fate.randrange(len(FAMILIES)), self.fate.randrange(1, 10)
        keys = tuple(family * 100 + block for block in range(blocks))
        luck = self.fate.random()
        if luck < 0.05:
            return BlocksCleared()
        if luck < 0.3:
            return BlocksRemoved(keys[-2:])
        ids = b"".join(byte.to_bytes(4, "little") for byte in FAMILIES[family][:64]) * blocks
        return BlocksStored(keys, None, ids, 64)


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_seed_and_facts_make_the_same_decisions(policy: str) -> None:
    assert Run(policy).play() == Run(policy).play()


@pytest.mark.parametrize("policy", POLICIES)
def test_looking_in_between_changes_no_decision(policy: str) -> None:
    """So that a journal, which holds requests and facts only, replays to the same decisions."""
    assert Run(policy).play() == Run(policy, looks=True).play()


def test_holding_is_no_more_random_than_the_rest() -> None:
    """What is held, and where it goes in the end, follows from requests, facts and times of release alone."""
    runs = [Run("ttft", hold_ms=5), Run("ttft", hold_ms=5, looks=True)]
    first, looked = (run.play() for run in runs)
    assert first == looked
    assert runs[0].released == runs[1].released > 50
    assert runs[0].withdrawn > 5


def test_another_seed_makes_other_decisions() -> None:
    assert Run("random").play() != Run("random", router_seed=2).play()
