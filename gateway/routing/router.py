"""The Router: two verbs, `route` and `observe`, and one view, `snapshot`; pure, synchronous, single owner."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import Final, assert_never

from gateway.routing.chain import DEFAULT_BLOCK_BYTES
from gateway.routing.decision import (
    Candidate,
    Decision,
    Rejection,
    RejectionReason,
    RouteRequest,
)
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
from gateway.routing.fleet import DEFAULT_KV_TOKENS, Booking, Fleet, PoolSpec, Replica, ReplicaState
from gateway.routing.index import PrefixIndex
from gateway.routing.policies import POLICIES, Circumstances
from gateway.routing.scoreboard import RequestRecord, Scoreboard
from gateway.routing.snapshot import Snapshot, take_snapshot

STORED_RESPONSES: Final = 100_000
RETRY_AFTER_S: Final = 2.0
OTHERS_SHARE: Final = 0.25
"""What a millisecond of prefill costs those who come after, in milliseconds: the price of scattering a burst."""


class Router:
    """Chooses a replica for each request and learns from every fact.

    Never awaits, logs or reads a clock: `now` and the facts' `at` are seconds on one clock of the caller's,
    randomness is the constructor's. The live gateway, virtual time and the tests drive this same object.
    Raises KeyError for a policy name, replica or ticket that does not exist (broken promises of the caller).
    """

    def __init__(
        self,
        pools: Sequence[PoolSpec],
        *,
        policy: str = "ttft",
        rng: Random | None = None,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
    ) -> None:
        self.policy = policy
        self.block_bytes = block_bytes
        self._pick = POLICIES[policy]
        self._rng = rng or Random(0)
        self._fleet = Fleet()
        self._index = PrefixIndex()
        self._scoreboard = Scoreboard()
        self._tickets: dict[int, Replica] = {}
        self._stored: OrderedDict[str, str] = OrderedDict()
        self._last_ticket = 0
        self._turns: Counter[str] = Counter()
        for spec in pools:
            pool = self._fleet.add_pool(spec)
            for replica in spec.replicas:
                self._fleet.add_replica(pool, replica, self._index.add_replica(self._blocks(DEFAULT_KV_TOKENS, 4.0)))

    # ── route ────────────────────────────────────────────────────────────────────────────────────

    def route(self, request: RouteRequest, now: float) -> Decision | Rejection:
        """Choose a replica and book the request on it, in one step."""
        answer = self._decide(request, now, self._rng.random())
        if isinstance(answer, Decision):
            self._last_ticket = answer.ticket
            self._turns[answer.model] += 1
            self._book(answer, request, now)
        return answer

    def preview(self, request: RouteRequest, now: float) -> Decision | Rejection:
        """What `route` would answer now; nothing is booked or learned, and ties go to the first."""
        return self._decide(request, now, 0.0)

    def _decide(self, request: RouteRequest, now: float, draw: float) -> Decision | Rejection:
        usable = self._usable(request)
        if isinstance(usable, Rejection):
            return usable
        model, replicas = usable
        overlaps = self._index.overlaps(request.chain)
        table = tuple(self._candidate(replica, request, overlaps[replica.slot], now) for replica in replicas)
        chosen = self._pick(table, Circumstances(self._turns[model], draw, _unit(request)))
        available = max(candidate.cached_tokens for candidate in table)
        ticket = self._last_ticket + 1
        return Decision(ticket, request.request_id, self.policy, model, table, chosen, available)

    def _usable(self, request: RouteRequest) -> tuple[str, list[Replica]] | Rejection:
        """The filters, in order: model, pin, stored response, health, already tried."""
        served = self._fleet.served
        model = request.model
        if model not in served and (unheard := self._fleet.unheard()):
            message = "not known yet which models are served: " + _ailments(unheard)
            return Rejection(RejectionReason.NO_REPLICA, message, RETRY_AFTER_S)
        if model is None:
            if len(served) != 1:
                return Rejection(RejectionReason.MODEL_REQUIRED, f"say which model: {_listed(served)}")
            model = next(iter(served))
        replicas = served.get(model)
        if replicas is None:
            message = f"The model `{model}` does not exist. Served here: {_listed(served)}"
            return Rejection(RejectionReason.MODEL_NOT_FOUND, message)
        holder = self._stored.get(request.response_id) if request.response_id else None
        replicas = [
            replica
            for replica in replicas
            if request.pinned_pool in (None, replica.pool.spec.name)
            and request.pinned_replica in (None, replica.spec.name)
        ]
        if not replicas:
            pin = request.pinned_replica or request.pinned_pool
            return Rejection(RejectionReason.UNKNOWN_PIN, f"no pool or replica `{pin}` serves the model `{model}`")
        up = [r for r in replicas if r.state is ReplicaState.UP and holder in (None, r.spec.name)]
        if not up:
            message = f"no replica of the model `{model}` is usable now: {_ailments(replicas)}"
            return Rejection(RejectionReason.NO_REPLICA, message, RETRY_AFTER_S)
        fresh = [replica for replica in up if replica.spec.name not in request.tried]
        if not fresh:
            return Rejection(RejectionReason.ALL_TRIED, "every usable replica was tried and failed", RETRY_AFTER_S)
        return model, fresh

    def _candidate(self, replica: Replica, request: RouteRequest, overlap: int, now: float) -> Candidate:
        ratio = replica.pool.token_ratio.bytes_per_token
        prompt_tokens = max(1, round(request.chain.prompt_bytes / ratio))
        cached = min(int(overlap * request.chain.block_bytes / ratio), prompt_tokens - 1)
        block = replica.report.block_tokens or replica.description.block_tokens
        if block:
            cached -= cached % block  # only full blocks of the engine's count
        prefill_ms = replica.curve.predict_ms(prompt_tokens - cached)
        return Candidate(
            replica=replica.spec.name,
            pool=replica.pool.spec.name,
            url=replica.spec.url,
            slot=replica.slot,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            inflight=len(replica.bookings),
            fill=self._index.fill(replica.slot),
            wait_ms=replica.wait_ms(now),
            prefill_ms=prefill_ms,
            others_ms=OTHERS_SHARE * prefill_ms,
        )

    def _book(self, decision: Decision, request: RouteRequest, now: float) -> None:
        chosen = decision.chosen
        replica = self._fleet.replicas[chosen.slot]
        self._index.claim(chosen.slot, request.chain, decision.ticket)
        self._tickets[decision.ticket] = replica
        replica.book(
            Booking(
                ticket=decision.ticket,
                request_id=request.request_id,
                model=decision.model,
                chain=request.chain,
                streams=request.streams,
                accepted_at=request.accepted_at,
                booked_at=now,
                prompt_tokens=chosen.prompt_tokens,
                available_tokens=decision.available_tokens,
                routed_tokens=chosen.cached_tokens,
                wait_ms=chosen.wait_ms,
                prefill_ms=chosen.prefill_ms,
            )
        )
        self._scoreboard.decided(decision, request.accepted_at)

    # ── observe ──────────────────────────────────────────────────────────────────────────────────

    def observe(self, fact: Fact) -> None:
        """Learn one fact. A fact about a ticket that has ended is ignored."""
        match fact:
            case Dispatched() | FirstToken() | Finished() | AttemptFailed():
                replica = self._tickets.get(fact.ticket)
                if replica is not None:
                    self._observe_attempt(fact, replica)
            case Refused():
                self._scoreboard.of("", "", fact.model).end(fact.outcome)
            case ResponseStored():
                self._stored[fact.response_id] = fact.replica
                while len(self._stored) > STORED_RESPONSES:
                    self._stored.popitem(last=False)
            case ReplicaUp() | ReplicaDown() | ReplicaRestarted() | LoadReported():
                self._observe_replica(fact, self._fleet.replica(fact.replica))
            case _:
                assert_never(fact)

    def _observe_attempt(self, fact: Dispatched | FirstToken | Finished | AttemptFailed, replica: Replica) -> None:
        booking = replica.bookings[fact.ticket]
        series = self._scoreboard.of(replica.pool.spec.name, replica.spec.name, booking.model)
        match fact:
            case Dispatched():
                series.route.observe(fact.route_s)
                series.overhead.observe(fact.overhead_s)
            case FirstToken():
                if booking.first_token_at is None:
                    self._first_token(replica, booking, fact.at)
                    series.first_token(booking, fact.at)
            case AttemptFailed():
                self._withdraw(replica, booking)
                self._release(replica, booking, fact.at)
                series.retries += 1
            case Finished():
                self._finish(replica, booking, fact)
                series.end(fact.outcome)
                series.request.observe(fact.at - booking.accepted_at)
                if booking.first_token_at is not None and fact.content_frames > 1:
                    gaps = fact.content_frames - 1
                    series.itl.observe((fact.at - booking.first_token_at) / gaps, gaps)
                if fact.usage is not None:
                    series.used(booking, fact.usage, replica.reports_cached_tokens)
            case _:
                assert_never(fact)

    def _first_token(self, replica: Replica, booking: Booking, at: float) -> None:
        booking.first_token_at = at
        replica.prefilled(booking.ticket, at)
        self._index.confirm(replica.slot, booking.chain)
        measured_ms = (at - booking.booked_at) * 1000 - booking.wait_ms
        replica.learn(booking.prompt_tokens - booking.routed_tokens, max(measured_ms, 0.0))
        record = self._scoreboard.requests.get(booking.request_id)
        if record is not None:
            record.ttft_s = at - booking.accepted_at

    def _finish(self, replica: Replica, booking: Booking, fact: Finished) -> None:
        if fact.outcome is not Outcome.COMPLETED:
            self._withdraw(replica, booking)
        elif booking.first_token_at is None:
            self._index.confirm(replica.slot, booking.chain)
            replica.prefilled(booking.ticket, fact.at)
        self._release(replica, booking, fact.at)
        if fact.usage is not None:
            replica.pool.token_ratio.observe(booking.chain.prompt_bytes, fact.usage.prompt_tokens)
            replica.reports_cached_tokens |= fact.usage.cached_tokens is not None
        record = self._scoreboard.requests.get(booking.request_id)
        if record is not None:
            record.outcome, record.usage = fact.outcome, fact.usage

    def _withdraw(self, replica: Replica, booking: Booking) -> None:
        """What the index took on a promise that was not kept goes, unless others in flight promise it too."""
        if booking.first_token_at is not None:
            return
        self._index.withdraw(replica.slot, booking.chain, booking.ticket)
        for other in replica.bookings.values():
            shares = other is not booking and other.chain.family == booking.chain.family
            if shares and other.first_token_at is None:
                self._index.claim(replica.slot, other.chain, other.ticket)

    def _release(self, replica: Replica, booking: Booking, at: float) -> None:
        replica.release(booking.ticket, at)
        del self._tickets[booking.ticket]

    def _observe_replica(
        self, fact: ReplicaUp | ReplicaDown | ReplicaRestarted | LoadReported, replica: Replica
    ) -> None:
        match fact:
            case ReplicaUp():
                replica.state, replica.reason = ReplicaState.UP, ""
                replica.models = {card.id: card.context_tokens for card in fact.models}
                self._fleet.list_models()
                replica.description = fact.description
                replica.reports_cached_tokens |= bool(fact.description.reports_cached_tokens)
                self._resize(replica, fact.description.kv_capacity_tokens)
            case ReplicaDown():
                replica.state, replica.reason = ReplicaState.DOWN, fact.reason
            case ReplicaRestarted():
                self._index.clear(replica.slot)
                replica.reports_cached_tokens = False  # the new process may be set up otherwise
            case LoadReported():
                replica.report = fact.report
                self._resize(replica, fact.report.kv_capacity_tokens)
            case _:
                assert_never(fact)

    def _resize(self, replica: Replica, kv_tokens: int | None) -> None:
        if kv_tokens:
            blocks = self._blocks(kv_tokens, replica.pool.token_ratio.bytes_per_token)
            self._index.resize(replica.slot, blocks)

    def _blocks(self, kv_tokens: int, bytes_per_token: float) -> int:
        return max(1, int(kv_tokens * bytes_per_token / self.block_bytes))

    # ── views ────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, now: float) -> Snapshot:
        """Everything that the dashboard and the metrics show, as of `now`."""
        return take_snapshot(self.policy, self._fleet, self._index, self._scoreboard, now)

    def record(self, request_id: str) -> RequestRecord | None:
        """One recent request's decision and fate."""
        return self._scoreboard.requests.get(request_id)

    def recent(self, limit: int) -> list[RequestRecord]:
        """The latest requests, newest first."""
        return list(islice(reversed(self._scoreboard.requests.values()), limit))

    def models(self) -> dict[str, list[str]]:
        """Every model that can be asked for, with the names of its replicas."""
        return {model: [r.spec.name for r in replicas] for model, replicas in self._fleet.served.items()}

    def usable_models(self) -> dict[str, bool]:
        """For every model, whether a replica of it is up."""
        return {
            model: any(replica.state is ReplicaState.UP for replica in replicas)
            for model, replicas in self._fleet.served.items()
        }

    def context_tokens(self, model: str) -> int | None:
        """The smallest context of the model's replicas: what a prompt may rely on; None where none says."""
        sizes = [replica.models.get(model) for replica in self._fleet.served.get(model, ())]
        return min((size for size in sizes if size is not None), default=None)

    def holder(self, response_id: str) -> str | None:
        """The replica that keeps a Responses object, if known."""
        return self._stored.get(response_id)


def _unit(request: RouteRequest) -> bytes:
    if request.session is not None:
        return request.session.encode()
    family = request.chain.family
    return b"" if family is None else family.to_bytes(8, "big")


def _ailments(replicas: Sequence[Replica]) -> str:
    return "; ".join(f"{replica.spec.name}: {replica.reason or 'does not hold the response'}" for replica in replicas)


def _listed(served: dict[str, list[Replica]]) -> str:
    return ", ".join(f"`{model}`" for model in served) or "none yet (no replica has answered)"
