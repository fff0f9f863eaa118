"""More requests than engines can serve, in virtual time: clients of several tenants, the Router, simulated engines."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

import msgspec

from engines.reports import Usage
from engines.simulated.cache import hash_blocks
from engines.simulated.sequences import Job, StepResult
from engines.simulated.sequences import Sequence as EngineSequence
from gateway.routing.decision import Decision, Held, Priority, Rejection, RejectionReason
from gateway.routing.facts import AttemptFailed, Cause, Finished, FirstToken, Outcome
from gateway.routing.holding import DEFAULT_HOLD_MS
from gateway.routing.queue_limits import UNLIMITED, QueueLimits
from gateway.simulation.clock import Clock
from gateway.simulation.engine import VirtualEngine
from gateway.simulation.fleet import SimulatedReplica
from gateway.simulation.routed import RoutedChooser
from gateway.simulation.run import _report
from gateway.simulation.trace import own_tokens

POLL_S = 1.0


@dataclass(frozen=True)
class Client:
    """A tenant's stream of requests: a Poisson process from `since` to `until`.

    Each prompt begins with one of `families` texts of `shared` tokens, and goes on with `own` ones of its own.
    """

    tenant: str
    per_s: float
    priority: Priority = Priority.INTERACTIVE
    since: float = 0.0
    until: float = 60.0
    families: int = 8
    shared: int = 2048
    own: int = 2048
    output: int = 32


@dataclass
class Fate:
    """What became of a request; a refused one that came again goes on to be the same request."""

    number: int
    client: Client
    asked_at: float
    prompt: bytes
    accepted_at: float = 0.0
    tries: int = 0
    slot: int | None = None
    sent_at: float | None = None
    first_at: float | None = None
    cached: int = 0
    done_at: float | None = None
    refused_at: float | None = None
    reason: RejectionReason | None = None
    retry_after_s: float = 0.0

    @property
    def ttft_s(self) -> float:
        assert self.first_at is not None
        return self.first_at - self.accepted_at

    @property
    def tokens(self) -> int:
        """What it cost an engine."""
        return len(self.prompt) // 4 - self.cached + self.client.output


@dataclass
class Overload:
    """One run. `returns`: how often a refused client comes again, each time when it was told to."""

    fleet: Sequence[SimulatedReplica]
    clients: Sequence[Client]
    limits: QueueLimits = UNLIMITED
    hold_ms: float = DEFAULT_HOLD_MS
    seed: int = 1
    returns: int = 0
    refuses: Callable[[Fate, int, "Overload"], bool] = lambda fate, slot, run: False
    """Whether the engine answers that it is overloaded."""
    fates: list[Fate] = field(default_factory=list)
    most_waiting: int = 0
    answered: int = 0

    def __post_init__(self) -> None:
        self.clock = Clock()
        self.chooser = RoutedChooser(
            self.fleet, "ttft", self.seed, events=True, hold_ms=self.hold_ms, queue=self.limits
        )
        self.router = self.chooser.router
        self._rng = Random(self.seed)
        self._engines = [self._engine(slot) for slot in range(len(self.fleet))]
        self._held: dict[int, Fate] = {}
        self._jobs: dict[str, tuple[Fate, int, EngineSequence]] = {}
        self._look = float("inf")
        self._open = 0

    def run(self) -> "Overload":
        """Until everybody has an answer."""
        for client in self.clients:
            self.clock.at(client.since + self._rng.expovariate(client.per_s), partial(self._arrive, client))
        self._poll()
        end = max(client.until for client in self.clients)
        while self.clock.now < end or self._open:
            self.clock.run_next()
            self._release()
        return self

    # ── the engines ──────────────────────────────────────────────────────────────────────────────

    def _engine(self, slot: int) -> VirtualEngine:
        clock = self.clock
        return VirtualEngine(
            self.fleet[slot].engine(), clock, self._ended, lambda events: self.chooser.changed(slot, events, clock.now)
        )

    def _poll(self) -> None:
        for slot, engine in enumerate(self._engines):
            self.chooser.reported(slot, _report(engine, waiting_tokens=True), self.clock.now)
        self.clock.at(self.clock.now + POLL_S, self._poll)

    def in_engine(self, slot: int) -> int:
        model = self._engines[slot].model
        return len(model.running) + len(model.waiting)

    def _ended(self, result: StepResult) -> None:
        now = self.clock.now
        for sequence in result.first:
            fate, ticket, _ = self._jobs[sequence.job.id]
            fate.first_at, fate.cached = now, sequence.cached_tokens
            self.router.observe(FirstToken(ticket, now))
        for sequence in result.finished:
            fate, ticket, _ = self._jobs.pop(sequence.job.id)
            fate.done_at = now
            self._open -= 1
            usage = Usage(sequence.prompt_tokens, sequence.output_tokens, sequence.cached_tokens)
            self.router.observe(Finished(ticket, now, Outcome.COMPLETED, usage))

    # ── the clients ──────────────────────────────────────────────────────────────────────────────

    def _arrive(self, client: Client) -> None:
        now = self.clock.now
        if now >= client.until:
            return
        self.clock.at(now + self._rng.expovariate(client.per_s), partial(self._arrive, client))
        number = len(self.fates)
        family = own_tokens(1 << 40 | self._rng.randrange(client.families), client.shared)
        fate = Fate(number, client, now, family + own_tokens(number, client.own))
        self.fates.append(fate)
        self._open += 1
        self._ask(fate)

    def _ask(self, fate: Fate) -> None:
        now = self.clock.now
        fate.accepted_at, fate.tries = now, fate.tries + 1
        client = fate.client
        refusal = self.router.refusal("simulated", client.tenant, client.priority, None, now)
        self._answered(fate, refusal or self.router.route(self._request(fate), now))

    def _request(self, fate: Fate):  # type: ignore[no-untyped-def]
        request = self.chooser.request(fate.number, fate.prompt, None, fate.accepted_at)
        return msgspec.structs.replace(request, tenant=fate.client.tenant, priority=fate.client.priority)

    def _release(self) -> None:
        now = self.clock.now
        while answers := self.router.release(now):
            for ticket, answer in answers:
                self._answered(self._held.pop(ticket), answer)
        self.most_waiting = max(self.most_waiting, self.router.holds)
        look = self.router.look_at(now)
        if look is not None and not now < self._look <= look:
            self._look = look
            self.clock.at(look, lambda: None)

    def _answered(self, fate: Fate, answer: Decision | Rejection | Held) -> None:
        now = self.clock.now
        match answer:
            case Held():
                self._held[answer.ticket] = fate
            case Decision():
                self._send(fate, answer)
            case Rejection():
                fate.refused_at, fate.reason, fate.retry_after_s = now, answer.reason, answer.retry_after_s or 0.0
                if fate.tries <= self.returns:
                    self.clock.at(now + fate.retry_after_s, partial(self._ask, fate))
                else:
                    self._open -= 1

    def _send(self, fate: Fate, decision: Decision) -> None:
        now, slot = self.clock.now, decision.chosen.slot
        if self.refuses(fate, slot, self):
            self.router.observe(AttemptFailed(decision.ticket, now, Cause.OVERLOADED))
            self._answered(fate, self.router.hold(self._request(fate), now))
            return
        fate.sent_at, fate.slot, fate.refused_at, fate.reason = now, slot, None, None
        blocks = hash_blocks(fate.prompt, self.fleet[0].limits.block_tokens, b"")
        job = Job(
            str(decision.ticket), fate.prompt, own_tokens(fate.number | 1 << 62, fate.client.output), hashes=blocks
        )
        self._jobs[job.id] = fate, decision.ticket, self._engines[slot].submit(job)

    # ── what came of it ──────────────────────────────────────────────────────────────────────────

    def served(self, tenant: str | None = None, priority: Priority | None = None) -> list[Fate]:
        return [one for one in self.fates if one.done_at is not None and _is(one, tenant, priority)]

    def refused(self, tenant: str | None = None, priority: Priority | None = None) -> list[Fate]:
        return [one for one in self.fates if one.refused_at is not None and _is(one, tenant, priority)]

    def goodput(self, since: float, until: float, tenant: str | None = None, priority: Priority | None = None) -> float:
        """Tokens served per second of that time, counted when the first token came."""
        fates = self.served(tenant, priority)
        return sum(one.tokens for one in fates if since <= (one.first_at or 0) < until) / (until - since)


def _is(fate: Fate, tenant: str | None, priority: Priority | None) -> bool:
    client = fate.client
    return tenant in (None, client.tenant) and priority in (None, client.priority)


def quantile(values: Iterable[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)]


def hit_rate(fates: Sequence[Fate]) -> float:
    return sum(one.cached for one in fates) / sum(len(one.prompt) // 4 for one in fates)
