"""A pool and its replicas: what is booked on each, and what each last reported; pure."""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from math import inf
from typing import Final

import msgspec

from engines.reports import EngineDescription, LoadReport, ModelCard, PrefillSettings
from gateway.routing.beliefs import CacheView
from gateway.routing.calibration import Overlap
from gateway.routing.candidates import Alike, Standing
from gateway.routing.capacity import EngineCapacity
from gateway.routing.chain import ChainForm, PrefixChain, token_form
from gateway.routing.curves import ENOUGH, PrefillCurve, TokenRatio, TokenRatios, best_known, blended
from gateway.routing.decision import RouteRequest
from gateway.routing.engine_load import EngineLoad
from gateway.routing.health import Health
from gateway.routing.token_trust import TokenTrust

STEP_SPREAD_S: Final = 0.005
"""First tokens within so long of a step's first one came out of that step of the engine."""
LESSONS_PER_S: Final = 50.0
"""Finished requests of one replica that are learned from whole: to learn one costs as much as to route."""
MOST_LESSONS: Final = 250.0
"""Those that may come at once."""
ROOMY_USAGE: Final = 0.85
"""Share of the KV cache in use from which on there is no room for what need not be."""
STUCK_S: Final = 1.0
STUCK_TIMES: Final = 2.0
"""A prompt whose prefill takes so much longer than predicted after the one before it has not been begun."""


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """One engine process: its name (unique in the fleet) and base URL."""

    name: str
    url: str


@dataclass(frozen=True, slots=True)
class PoolSpec:
    """Replicas with the same engine, model and settings; `model` None means whatever the replicas say.

    `encoding` names the token ids that prompts become there, "" where their chains are of text. `pinned_only`: only
    requests that name the pool, or a replica of it, go there.
    """

    name: str
    model: str | None
    replicas: tuple[ReplicaSpec, ...]
    prefill: PrefillSettings = PrefillSettings()
    encoding: str = ""
    pinned_only: bool = False


class Booking(msgspec.Struct, eq=False, gc=False):
    """One attempt in flight, counted from the moment it was chosen.

    `chain` is the one that its replica is followed by; `text` the prompt's own, in bytes. `overlap` is what was
    believed to be cached, `routed_tokens` what of it was expected.
    """

    ticket: int
    request_id: str
    model: str
    tenant: str
    chain: PrefixChain
    text: PrefixChain
    overlap: Overlap
    streams: bool
    accepted_at: float
    booked_at: float
    prompt_tokens: int
    available_tokens: int
    routed_tokens: int
    wait_ms: float
    prefill_ms: float
    first_token_at: float | None = None
    service_ms: float | None = None
    """What its prefill took of the engine's time, once it is done."""
    counted: bool = True
    """Whether it is in any figures (see `RouteRequest`)."""
    token_count: tuple[str, int] | None = None
    """The kind of request and our count of its tokens, where we have one."""
    begun: bool = False
    """Whether its first token is not the client's first."""

    @property
    def predicted_ttft_ms(self) -> float:
        """From booking to first token, as predicted then."""
        return self.wait_ms + self.prefill_ms

    @property
    def due_at(self) -> float:
        """When its first token is predicted, in seconds on the router's clock."""
        return self.booked_at + self.predicted_ttft_ms / 1000

    def overdue(self, now: float) -> bool:
        """Whether a plain (not streamed) request, which shows no first token, must be past its prefill."""
        return not self.streams and now >= self.due_at


class ReplicaState(StrEnum):
    """Whether a replica may be chosen."""

    STARTING = "starting"
    UP = "up"
    DOWN = "down"
    DRAINING = "draining"
    """Up, and taking no new requests: only ever shown, as it may go down and come up again meanwhile."""


@dataclass(slots=True, eq=False)
class Replica:
    """One replica as the router knows it. `slot` is its place in the prefix index."""

    spec: ReplicaSpec
    pool: "Pool"
    cache: CacheView
    curves: tuple[PrefillCurve, PrefillCurve, PrefillCurve]
    """Its own, its pool's and the fleet's."""
    health: Health
    state: ReplicaState = ReplicaState.STARTING
    reason: str = "not probed yet"
    draining: bool = False
    """It takes no new requests, by an operator's word."""
    removed: bool = False
    """It is gone for good; some of its requests may yet be in flight."""
    models: Mapping[str, ModelCard] = field(default_factory=dict)
    """What it says that it serves, by name."""
    description: EngineDescription = EngineDescription()
    report: LoadReport = LoadReport()
    block_tokens: int | None = None
    """The engine's block size by its own word."""
    form: ChainForm | None = None
    """The form of token chain that the replica is followed by; None where only text will do."""
    reports_cached_tokens: bool = False
    load: EngineLoad = field(default_factory=EngineLoad)
    capacity: EngineCapacity = field(default_factory=EngineCapacity)
    bookings: dict[int, Booking] = field(default_factory=dict)
    standing: Standing | None = None
    """None since the last fact about it."""
    _lessons: float = MOST_LESSONS
    _lessons_at: float = 0.0
    _curve: PrefillCurve | None = None
    """Its pool's at its own pace, once it has one."""
    _prefilling: OrderedDict[int, Booking] = field(default_factory=OrderedDict)
    _prefilling_ms: float = 0.0
    _prefill_since: float = 0.0
    _step: list[Booking] = field(default_factory=list)
    """Those whose first tokens came last, and together: of one forward pass."""
    _step_since: float = 0.0
    _step_at: float = 0.0

    @property
    def slot(self) -> int:
        """Its place in the prefix index and in the fleet's order."""
        return self.cache.slot

    @property
    def takes_requests(self) -> bool:
        """Whether it may be sent new requests."""
        return self.state is ReplicaState.UP and not self.draining

    @property
    def has_room(self) -> bool:
        """Whether, by its own word, nobody waits there and its cache is not nearly full; and it can run one more."""
        report = self.report
        idle = not report.waiting_requests and (report.kv_usage is None or report.kv_usage < ROOMY_USAGE)
        return idle and len(self.bookings) < self.capacity.limit and not self.capacity.closed_until

    @property
    def shown_state(self) -> ReplicaState:
        """Its state as people are told it."""
        return ReplicaState.DRAINING if self.draining and self.state is ReplicaState.UP else self.state

    @property
    def shown_reason(self) -> str:
        """Why it takes no requests, in a few words."""
        said = "draining: it takes no new requests" if self.draining else ""
        return "; ".join(words for words in (self.reason, said) if words)

    @property
    def own_bookings(self) -> int:
        """How many of its bookings are of our requests, not of other gateways'."""
        return sum(ticket > 0 for ticket in self.bookings)

    @property
    def alike(self) -> Alike:
        """What it shares with replicas that see a prompt as it does; the same object for all of them."""
        return _interned((self.pool.spec.name, self.form, self.block_tokens))

    @property
    def curve(self) -> PrefillCurve:
        """What its prefills are predicted by."""
        return self._curve or best_known(self.curves)

    def stand(self, fill: float) -> Standing:
        """What is true of it until the next fact about it; `fill` is the share of its index in use."""
        curve, load, spec = self.curve, self.load, self.spec
        self.standing = Standing(
            spec.name,
            self.pool.spec.name,
            spec.url,
            self.cache.slot,
            self.alike,
            None if self.cache.watch.broken else self.cache.calibration,
            curve.base_ms,
            curve.ms_per_token,
            curve.ms_per_token2,
            len(self.bookings),
            bool(self._prefilling) or load.others_ms > 0,
            fill,
            inf if load.free_tokens is None or not load.used_tokens else load.free_tokens,
            len(self.bookings) >= self.capacity.limit or bool(self.capacity.closed_until),
        )
        return self.standing

    @property
    def borrows(self) -> bool:
        """Whether it is predicted by a curve that others' prefills change."""
        return self._curve is None

    def heard(self) -> None:
        """The replica said something of its blocks: follow it in what its ledger, or else its report, has them be."""
        block_tokens = self.cache.ledger.block_tokens or self.block_tokens
        encoding = self.pool.spec.encoding
        self.form = token_form(encoding, block_tokens) if encoding and block_tokens else None

    def reported(self, report: LoadReport, now: float) -> None:
        """Take the engine's word on its load."""
        self.report = report
        ours = [one.prompt_tokens - one.routed_tokens for one in self._prefilling.values()]
        capacity = report.kv_capacity_tokens or self.description.kv_capacity_tokens
        self.load.reported(report, capacity, ours, self.curve, now)
        self.capacity.reported(report, len(self.bookings), stuck=self._is_stuck(now))

    def _is_stuck(self, now: float) -> bool:
        """Whether the stream at the head of the queue should have had its first token long ago."""
        head = next(iter(self._prefilling.values()), None)
        if head is None or not head.streams:
            return False
        return now - max(head.booked_at, self._prefill_since) > STUCK_S + STUCK_TIMES * head.prefill_ms / 1000

    def book(self, booking: Booking) -> None:
        """Count the attempt's work from now on."""
        self._settle(booking.booked_at)
        if not self._prefilling:
            self._prefill_since = booking.booked_at
        self.bookings[booking.ticket] = booking
        self._prefilling[booking.ticket] = booking
        self._prefilling_ms += booking.prefill_ms
        self.load.sent(booking.prompt_tokens)

    def learn(self, uncached_tokens: int, measured_ms: float) -> None:
        """One measured prefill, for its own curve and those that others borrow.

        A curve starts from what it borrowed until then: from the prior, a newcomer to a pool faster than that
        would seem the slower one, get no traffic and so never be seen to be as fast.
        """
        own, of_pool, of_fleet = self.curves
        for curve, broader in ((of_pool, of_fleet), (own, of_pool)):
            if curve.observations == 0:
                curve.start_from(broader.base_ms, broader.ms_per_token, broader.ms_per_token2)
        for curve in self.curves:
            curve.observe(uncached_tokens, measured_ms)
        self.believe_curve()

    def teaches(self, now: float) -> bool:
        """Whether one more finished request is learned from whole."""
        may = self.may_teach(now)
        self._lessons -= may
        return may

    def may_teach(self, now: float) -> bool:
        """Whether the next one would be."""
        if now > self._lessons_at:
            self._lessons = min(self._lessons + (now - self._lessons_at) * LESSONS_PER_S, MOST_LESSONS)
            self._lessons_at = now
        return self._lessons >= 1.0

    def believe_curve(self) -> None:
        """Predict by its own curve, once that has seen enough."""
        own, of_pool, _ = self.curves
        if own.observations >= ENOUGH:
            self._curve = blended(own, of_pool)

    def first_token(self, booking: Booking, now: float) -> None:
        """Its first token came: share the time since the one before among all that came out of the same step.

        Engines prefill several prompts in one step, and part of the next one's: counted like this, a busy engine's
        time is counted once, whoever it was spent on.
        """
        if booking.ticket in self._prefilling:
            if now < self._step_at - STEP_SPREAD_S:
                self._heard_late(booking, now)
                return
            if now - self._step_at > STEP_SPREAD_S:
                self._step, self._step_since, self._step_at = [], self._prefill_since, now
            self._step.append(booking)
            self._share_step(now)
            self._leave_queue(booking.ticket, now)

    def _share_step(self, now: float) -> None:
        spent_ms = (now - self._step_since) * 1000
        predicted_ms = sum(one.prefill_ms for one in self._step)
        for one in self._step:
            one.service_ms = spent_ms * one.prefill_ms / predicted_ms

    def _heard_late(self, booking: Booking, at: float) -> None:
        """A peer's first token came before the last step, which was taken to have lasted since the one before that."""
        if at > self._step_since:
            booking.service_ms = (at - self._step_since) * 1000
            self._step_since = at
            self._share_step(self._step_at)
        self._leave_queue(booking.ticket, self._prefill_since)

    def prefilled(self, ticket: int, now: float) -> None:
        """The attempt's prefill is done: its whole plain body came."""
        if ticket in self._prefilling:
            self._leave_queue(ticket, now)

    def release(self, ticket: int, now: float) -> None:
        """The attempt is over; if it goes before its turn, the head of the queue keeps its credit."""
        self._settle(now)
        if ticket in self._prefilling:
            self._leave_queue(ticket, now if ticket == next(iter(self._prefilling)) else self._prefill_since)
        booking = self.bookings.pop(ticket)
        if booking.first_token_at is not None:
            self.load.stayed((now - booking.first_token_at) * 1000)

    def wait_ms(self, now: float) -> float:
        """Milliseconds before a prompt sent now would be begun: prefill booked here, and others' in the engine."""
        return self.booked_ms(now) + (self.load.wait_ms(now) if self.load.others_ms else 0.0)

    @property
    def shows_progress(self) -> bool:
        """Whether we would see it be faster than predicted: plain requests say nothing before their answer is whole."""
        return self.curve.observations >= ENOUGH or any(one.streams for one in self._prefilling.values())

    def booked_ms(self, now: float) -> float:
        """Milliseconds of booked prefill before a request booked now would start.

        The head of the queue is credited with the time since the last first token, but never with more
        than its own work. Plain requests at the front stop counting once they are overdue.
        """
        if not self._prefilling:
            return 0.0
        left_ms, since = self._prefilling_ms, self._prefill_since
        for head in self._prefilling.values():
            if head.streams or not head.overdue(now):
                return max(left_ms - min((now - since) * 1000, head.prefill_ms), 0.0)
            left_ms, since = left_ms - head.prefill_ms, max(since, head.due_at)
        return 0.0

    def _settle(self, now: float) -> None:
        """Take the overdue out of the queue; only when a fact changes it, as looking must change nothing."""
        while self._prefilling:
            head = next(iter(self._prefilling.values()))
            if not head.overdue(now):
                return
            self._leave_queue(head.ticket, max(self._prefill_since, head.due_at))

    def _leave_queue(self, ticket: int, next_since: float) -> None:
        booking = self._prefilling.pop(ticket)
        self._prefilling_ms = self._prefilling_ms - booking.prefill_ms if self._prefilling else 0.0
        self._prefill_since = next_since


@dataclass(slots=True)
class Pool:
    """A pool and what is learned for all of its replicas together."""

    spec: PoolSpec
    token_ratio: TokenRatio = field(default_factory=TokenRatio)
    family_ratios: TokenRatios = field(default_factory=TokenRatios)
    token_trust: TokenTrust = field(default_factory=TokenTrust)
    curve: PrefillCurve = field(default_factory=PrefillCurve)
    replicas: list[Replica] = field(default_factory=list)
    leaving: bool = False
    """It is gone, but for replicas that drain."""

    def link_tokens(self, chain: PrefixChain) -> float:
        """Tokens that one link of the chain covers: exact for a chain of tokens, else by bytes per token."""
        form = chain.form
        if form.encoding:
            return form.block
        return form.block / self.family_ratios.of(chain.family, self.token_ratio.bytes_per_token)

    def token_count(self, request: RouteRequest) -> tuple[str, int] | None:
        """The request's kind and the number of its tokens as this pool's engines should count them, if known."""
        if not request.token_chains:
            return None
        encoding = self.spec.encoding
        chains = (chain for chain in request.token_chains if chain.form.encoding == encoding)
        return next(((chain.shape, chain.length) for chain in chains), None)


@lru_cache
def _interned(alike: Alike) -> Alike:
    return alike
