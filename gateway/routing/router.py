"""The Router: two verbs, `route` and `observe`, and one view, `snapshot`; pure, synchronous, single owner."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from random import Random
from typing import Final

import msgspec

from engines.reports import Usage
from gateway.routing.admission import Admission
from gateway.routing.beliefs import Beliefs
from gateway.routing.chain import DEFAULT_BLOCK_BYTES, ChainForm
from gateway.routing.congestion import Congestion
from gateway.routing.decision import Decision, Held, Priority, Rejection, RouteRequest
from gateway.routing.experiments.definition import Exposure
from gateway.routing.experiments.trials import Assignment, Trials
from gateway.routing.facts import (
    ExperimentsChanged,
    Fact,
    PeerGone,
    PeerHeard,
    PeersSilent,
    ReplicaRemoved,
    ResponseStored,
    RoutingChanged,
    Withdrawn,
)
from gateway.routing.filters import usable, visible
from gateway.routing.fleet import Fleet, chain_for
from gateway.routing.health import HealthRules
from gateway.routing.holding import LOOK_S, RELOOK_S, HeldRequest
from gateway.routing.knowledge import Knowledge, give_knowledge, take_knowledge
from gateway.routing.learning import AttemptFact, Learner, delivered
from gateway.routing.membership import Membership, MembershipFact
from gateway.routing.merging import KEPT, Share
from gateway.routing.outbox import Outbox
from gateway.routing.peers import Peers
from gateway.routing.policies import HOLDING, POLICIES, SPREADING, UNITED, Circumstances
from gateway.routing.queue_limits import UNLIMITED, QueueLimits
from gateway.routing.recent import TimedPrefill
from gateway.routing.replica import Booking, PoolSpec, Replica
from gateway.routing.reuse import Reuse
from gateway.routing.scope import Scope
from gateway.routing.scoreboard import RequestRecord, Scoreboard
from gateway.routing.snapshot import Snapshot, take_snapshot
from gateway.routing.table import CandidateTable

STORED_RESPONSES: Final = 100_000
LOOKS: Final = 64
"""Held requests looked at in one go."""


class Router:
    """Chooses a replica for each request and learns from every fact.

    Never awaits, logs or reads a clock: `now` and the facts' `at` are seconds on one clock of the caller's,
    randomness is the constructor's. The live gateway, virtual time and the tests drive this same object.
    `hold_ms` is the wait above which requests are held, for policies that hold; 0 holds none. `queue` limits them.
    Raises KeyError for a policy name, replica or ticket that does not exist (broken promises of the caller).
    """

    def __init__(
        self,
        pools: Sequence[PoolSpec],
        *,
        policy: str = "ttft",
        rng: Random | None = None,
        block_bytes: int = DEFAULT_BLOCK_BYTES,
        hold_ms: float = 0.0,
        health: HealthRules = HealthRules(),  # noqa: B008 - frozen
        queue: QueueLimits = UNLIMITED,
    ) -> None:
        self.policy = policy
        self.block_bytes = block_bytes
        self._pick = POLICIES[policy]
        self._rng = rng or Random(0)
        self._fleet = Fleet(health)
        self._beliefs = Beliefs()
        self._scoreboard = Scoreboard()
        self._congestion = Congestion()
        self._reuse = Reuse()
        self._table = CandidateTable(self._beliefs, self._congestion, self._reuse)
        self._trials = Trials()
        self._wished_hold_ms = hold_ms
        self._queue = Admission(queue, 0.0)
        self._set_hold()
        self._learner = Learner(
            self._fleet,
            self._beliefs,
            self._reuse,
            self._scoreboard,
            self._queue.sizes,
            self._queue.starts,
            block_bytes,
        )
        self._peers = Peers(self._fleet, self._beliefs, self._congestion, self._learner)
        self._outbox: Outbox | None = None
        self._stored: OrderedDict[str, str] = OrderedDict()
        self._last_ticket = 0
        self._turns: Counter[str] = Counter()
        self._membership = Membership(self._fleet, self._beliefs, self._reuse, self._congestion, block_bytes)
        for spec in pools:
            self._membership.configure(spec)
            for replica in spec.replicas:
                self._membership.add(spec.name, replica)

    def _decide_as(self, fact: RoutingChanged | ExperimentsChanged) -> None:
        """It is decided otherwise from now on."""
        if isinstance(fact, RoutingChanged):
            self.policy = fact.policy
            self._pick = POLICIES[fact.policy]
            self._wished_hold_ms = fact.hold_ms
        else:
            self._trials = Trials(fact.running)
        self._set_hold()

    def _set_hold(self) -> None:
        """Whose requests are held, of the policies that are in use: the router's and those of arms."""
        policies = {self.policy, *self._trials.policies}
        self._holding = policies if self._queue.limits.every_policy else policies & HOLDING
        self._hold_ms = self._wished_hold_ms if self._holding else 0.0
        self._queue.hold_s = self._hold_ms / 1000

    # ── route ────────────────────────────────────────────────────────────────────────────────────

    def route(self, request: RouteRequest, now: float) -> Decision | Rejection | Held:
        """Choose a replica and book the request on it, in one step; or hold it: `release` then tells where it goes.

        Requests that failed elsewhere are never held.
        """
        answer = self._decide(request, now, self._rng.random())
        if isinstance(answer, Decision):
            self._last_ticket = answer.ticket
            if self._hold_ms and not request.tried and answer.policy in self._holding:
                if self._is_full(self._fleet.by_slot[answer.chosen.slot], now) or self._others_wait(request):
                    replicas = len(self._fleet.up[answer.model]) or 1  # none is there for all, but one for this request
                    refusal = self._queue.newcomer(answer, request, replicas, now)
                    return Held(answer.ticket, answer.chosen) if refusal is None else _of(refusal, answer.exposure)
                if self._queue:
                    self._queue.passed(answer, request, now)
            self._book(answer, request, now)
        return answer

    def refusal(
        self, model: str | None, tenant: str, priority: Priority, deadline_s: float | None, now: float
    ) -> Rejection | None:
        """What `route` would say to such a request whatever it asks, as too many wait; None: it is to be asked."""
        if not self._queue.held or model is None:
            return None
        return self._queue.refusal(model, (priority, tenant), deadline_s, now)

    def hold(self, request: RouteRequest, now: float) -> Held | Rejection:
        """Hold a request that an engine refused as it has too much to do; the time since it was accepted counts."""
        answer = self._decide(request, now, self._rng.random())
        if isinstance(answer, Rejection):
            return answer
        self._last_ticket = answer.ticket
        self._queue.came_back(answer, request, now)
        refusal = self._queue.hold(answer, request, request.accepted_at, now)
        return Held(answer.ticket, answer.chosen) if refusal is None else _of(refusal, answer.exposure)

    def limit_queue(self, limits: QueueLimits) -> None:
        """Other limits from now on; who waits keeps the deadline that it came with."""
        self._queue.limits = limits
        self._set_hold()

    @property
    def can_hold(self) -> bool:
        """Whether requests are ever held."""
        return self._hold_ms > 0

    @property
    def holds(self) -> int:
        """How many requests wait for an answer of `release`."""
        return len(self._queue)

    def look_at(self, now: float) -> float | None:
        """When to call `release` although nothing has happened; None while nothing is held."""
        return now + LOOK_S if self._queue else None

    def release(self, now: float) -> list[tuple[int, Decision | Rejection]]:
        """Answers for held requests by ticket; to be called after every fact while there are any.

        Those are sent whose best replica is free for more, each looked at in its turn, at most `LOOKS` in one go.
        """
        queue = self._queue
        if not queue:
            return []
        answers: list[tuple[int, Decision | Rejection]] = [*queue.refused(now)]
        free, gone = self._free(now), self._gone()

        def due(held: HeldRequest) -> bool:
            return held.slot in free or held.slot in gone or (bool(free) and now - held.looked_at >= RELOOK_S)

        for looks, held in enumerate(queue.held.by_turn(due) if free or gone else (), start=1):
            answer = self._decide(held.request, now, self._rng.random(), held.ticket)
            if isinstance(answer, Rejection):
                queue.withdraw(held.ticket, now)
                answers.append((held.ticket, answer))
            elif answer.chosen.slot in free:
                queue.sent(held, answer.chosen, now)
                answers.append((held.ticket, answer))
                self._book(answer, held.request, now)
                free = self._free(now)
            else:
                queue.held.look(held, answer.chosen, now)
            if looks >= LOOKS or not (free or gone):
                break
        return answers

    def _others_wait(self, request: RouteRequest) -> bool:
        """Whether somebody of another tenant or priority waits, whose turn may come first."""
        lines = self._queue.held.lines
        return bool(lines) and (len(lines) > 1 or (request.priority, request.tenant) not in lines)

    def _is_full(self, replica: Replica, now: float) -> bool:
        """Whether requests for it are held, for what we booked there ourselves: others may keep it busy for ever."""
        if replica.capacity.is_full(len(replica.bookings), now):
            return True
        return replica.booked_ms(now) >= self._hold_ms and replica.shows_progress

    def _gone(self) -> set[int]:
        """Slots for which requests are held and that take none: who is held for one goes elsewhere, or is told."""
        taking = {replica.slot for replica in self._fleet.replicas if replica.takes_requests}
        return {held.slot for held in self._queue.held if held.slot not in taking}

    def _free(self, now: float) -> set[int]:
        """Slots of replicas that may be sent held requests."""
        return {
            replica.slot
            for replica in self._fleet.replicas
            if replica.takes_requests and not self._is_full(replica, now)
        }

    def preview(self, request: RouteRequest, now: float) -> Decision | Rejection:
        """Where `route` would send it now, or once it is free; nothing is booked or learned, ties go to the first."""
        return self._decide(request, now, 0.0)

    def _decide(
        self, request: RouteRequest, now: float, draw: float, ticket: int | None = None
    ) -> Decision | Rejection:
        answer = usable(self._fleet, self._stored, request, now)
        if isinstance(answer, Rejection):
            return answer
        model, up, replicas = answer
        policy, pick, exposure, turns = self.policy, self._pick, None, _turns(model, None, counted=request.counted)
        if self._trials and (assignment := self._trials.assign(request, model, self._fleet.served)) is not None:
            arm, (replicas, exposure) = assignment.arm, _within(assignment, replicas)
            turns = _turns(model, exposure, counted=request.counted)
            if arm.policy is not None:
                policy, pick = arm.policy, POLICIES[arm.policy]
        table = self._table.rows(replicas, request, now)
        unit = _unit(request) if policy in UNITED else b""
        choice = table
        if policy in SPREADING and policy in self._holding:
            free = self._free(now)
            choice = tuple(row for row in table if row.slot in free) or table
        chosen = pick(choice, Circumstances(self._turns[turns], draw, unit))
        available = max([candidate.cached_tokens for candidate in table])
        if len(up) > len(replicas):
            available = max(available, self._table.most_cached([one for one in up if one not in replicas], request))
        if ticket is None:
            ticket = self._last_ticket + 1
        return Decision(ticket, request.request_id, policy, model, table, chosen, available, exposure)

    def _book(self, decision: Decision, request: RouteRequest, now: float) -> None:
        self._turns[_turns(decision.model, decision.exposure, counted=request.counted)] += 1
        chosen = decision.chosen
        replica = self._fleet.by_slot[chosen.slot]
        chain = chain_for(replica, request)
        booking = Booking(
            ticket=decision.ticket,
            request_id=request.request_id,
            model=decision.model,
            tenant=request.tenant,
            chain=chain,
            text=request.chain,
            overlap=chosen.overlap,
            streams=request.streams,
            accepted_at=request.accepted_at,
            booked_at=now,
            prompt_tokens=chosen.prompt_tokens,
            available_tokens=decision.available_tokens,
            routed_tokens=chosen.cached_tokens,
            wait_ms=chosen.wait_ms,
            prefill_ms=chosen.prefill_ms,
            counted=request.counted,
            token_count=replica.pool.token_count(request),
            begun=request.begun,
        )
        settled = int(chosen.overlap.settled / replica.pool.link_tokens(chain)) if chosen.cached_tokens else 0
        self._beliefs.claim(replica.cache, booking, settled)
        self._learner.booked(replica, booking)
        self._congestion.routed(now, chosen.slot, chosen.prefill_ms)
        if request.counted:
            self._scoreboard.decided(decision, request.accepted_at)
        if self._outbox is not None:
            self._outbox.booked(replica, booking)

    # ── observe ──────────────────────────────────────────────────────────────────────────────────

    def observe(self, fact: Fact) -> None:
        """Learn one fact. A fact about a ticket that has ended is ignored."""
        if isinstance(fact, AttemptFact):  # nearly all are
            self._learner.attempt(fact)
            return
        match fact:
            case ResponseStored():
                self._response_stored(fact)
            case Withdrawn():
                self._queue.withdraw(fact.ticket, fact.at)
            case PeerHeard():
                if self._outbox is None or fact.batch.sender != self._outbox.sender:
                    for replica, response_id in self._peers.hear(fact.batch, fact.at):
                        self._keep(response_id, replica)
            case PeerGone():
                self._peers.gone(fact.sender, fact.at)
            case PeersSilent():
                self._peers.lapse(fact.since, fact.at)
            case RoutingChanged() | ExperimentsChanged():
                self._decide_as(fact)
            case _ if isinstance(fact, MembershipFact):
                self._membership.observe(fact)
                if isinstance(fact, ReplicaRemoved):
                    self._stored = OrderedDict(kept for kept in self._stored.items() if kept[1] != fact.replica)
            case _:
                self._learner.observe(fact)

    def _response_stored(self, fact: ResponseStored) -> None:
        replica = self._fleet.find(fact.replica)
        if replica is not None:
            self._keep(fact.response_id, fact.replica)
            if self._outbox is not None:
                self._outbox.stored(replica, fact.response_id)

    def _keep(self, response_id: str, replica: str) -> None:
        self._stored[response_id] = replica
        while len(self._stored) > STORED_RESPONSES:
            self._stored.popitem(last=False)

    # ── peers ────────────────────────────────────────────────────────────────────────────────────

    def tell_peers(self, sender: str, ring: Callable[[], None] = lambda: None) -> Outbox:
        """From now on, note for other gateways what is learned of our requests; we are the `sender`.

        `ring` is called when there is something to tell after there was nothing.
        """
        self._outbox = self._learner.outbox = Outbox(sender, ring)
        return self._outbox

    def knowledge(self) -> Knowledge:
        """What another gateway may begin with."""
        return take_knowledge(self._fleet, self._beliefs, self._reuse, tuple(self._stored.items()), self.block_bytes)

    def begin_with(self, knowledge: Knowledge) -> None:
        """Take over what another gateway knew, as far as nothing was learned yet."""
        give_knowledge(knowledge, self._fleet, self._beliefs, self._reuse)
        for response_id, url in knowledge.stored:
            replica = self._fleet.by_url.get(url)
            if replica is not None and response_id not in self._stored:
                self._keep(response_id, replica.spec.name)

    @property
    def peers(self) -> int:
        """How many other gateways tell us of their requests."""
        return len(self._peers)

    # ── views ────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, now: float) -> Snapshot:
        """Everything that the dashboard and the metrics show, as of `now`."""
        return take_snapshot(
            self.policy,
            len(self._queue),
            self._queue.view(now),
            self._fleet,
            self._beliefs.index,
            self._scoreboard,
            now,
        )

    def share(self, now: float) -> Share:
        """The same for a view of several processes together."""
        board = self._scoreboard
        snapshot = take_snapshot(
            self.policy, len(self._queue), self._queue.view(now), self._fleet, self._beliefs.index, board, now, KEPT
        )
        return Share(snapshot, tuple(tuple(series.recent_ttfts) for series in board.series.values()))

    def least_busy(self, pool: str) -> list[str]:
        """The pool's replicas that take requests, those with the fewest in flight first; none of no such pool."""
        known = self._fleet.pools.get(pool)
        up = [] if known is None else [replica for replica in known.replicas if replica.takes_requests]
        return [replica.spec.name for replica in sorted(up, key=lambda replica: len(replica.bookings))]

    def cached_tokens(self, replica: str, usage: Usage) -> int | None:
        """Tokens that a request had from the replica's cache, by its word; None where it does not say."""
        one = self._fleet.find(replica)
        return usage.cached_tokens if one is None else delivered(one, usage)

    def has_room(self, pool: str) -> bool:
        """Whether no replica of the pool that takes requests says that somebody waits there, or that its cache is
        nearly full, or has as many requests as it can run; False where none takes any.
        """
        known = self._fleet.pools.get(pool)
        up = [] if known is None else [replica for replica in known.replicas if replica.takes_requests]
        return bool(up) and all(replica.has_room for replica in up)

    def can_spare(self, replica: str) -> bool:
        """The same of one replica."""
        known = self._fleet.find(replica)
        return known is not None and known.takes_requests and known.has_room

    def is_draining(self, replica: str) -> bool:
        """Whether the replica is to take no new requests."""
        return self._fleet.replica(replica).draining

    def unfinished(self, replica: str) -> int:
        """How many of our requests are in flight at the replica, or were when it was removed."""
        fleet = self._fleet
        return sum(one.own_bookings for one in (*fleet.replicas, *fleet.retired) if one.spec.name == replica)

    def prefills(self, replica: str) -> tuple[TimedPrefill, ...]:
        """The replica's latest measured prefills, the oldest first; none of one that is not there."""
        known = self._fleet.find(replica)
        return () if known is None else tuple(known.recent.prefills)

    def token_forms(self) -> set[ChainForm]:
        """The forms of token chains that replicas are followed by: what a request should bring."""
        return {form for replica in self._fleet.replicas if (form := replica.form) is not None}

    def adapters(self) -> set[str]:
        """The names that are adapters of a model, not models: their prompts share no cache with it."""
        return self._fleet.adapters

    def record(self, request_id: str) -> RequestRecord | None:
        """One recent request's decision and fate."""
        return self._scoreboard.requests.get(request_id)

    def recent(self, limit: int) -> list[RequestRecord]:
        """The latest requests, newest first."""
        return list(islice(reversed(self._scoreboard.requests.values()), limit))

    def largest_families(self, limit: int) -> list[int | None]:
        """The prefix families with most prompt tokens; None stands for prompts too short to have one."""
        return [family for family, _ in self._scoreboard.families.largest(limit)]

    def models(self) -> dict[str, list[str]]:
        """Every model that can be asked for, with the names of its replicas."""
        return {model: [r.spec.name for r in replicas] for model, replicas in self._fleet.served.items()}

    def usable_models(self, scope: Scope | None = None) -> dict[str, bool]:
        """For every model that exists in the scope, whether a replica of it is up."""
        if scope is None:
            return {model: self._fleet.usable(model) for model in self._fleet.served}
        up = visible(self._fleet.up, scope)
        return {model: model in up for model in visible(self._fleet.served, scope)}

    def context_tokens(self, model: str, scope: Scope | None = None) -> int | None:
        """The smallest context of the model's replicas: what a prompt may rely on; None where none says."""
        served = self._fleet.served if scope is None else visible(self._fleet.served, scope)
        cards = [replica.models.get(model) for replica in served.get(model, ())]
        sizes = (card.context_tokens for card in cards if card is not None)
        return min((size for size in sizes if size is not None), default=None)

    def holder(self, response_id: str) -> str | None:
        """The replica that keeps a Responses object, if known."""
        return self._stored.get(response_id)


def _within(assignment: Assignment, replicas: list[Replica]) -> tuple[list[Replica], Exposure | None]:
    """The replicas that an arm may choose among, and that it is told where none of its own is left."""
    own, exposure = assignment.among(replicas), assignment.exposure
    if own or exposure is None:
        return own or replicas, exposure
    return replicas, msgspec.structs.replace(exposure, crossed=True)


def _of(refusal: Rejection, exposure: Exposure | None) -> Rejection:
    """The refusal of a request that took part in an experiment."""
    return refusal if exposure is None else msgspec.structs.replace(refusal, exposure=exposure)


def _turns(model: str, exposure: Exposure | None, *, counted: bool) -> str:
    """Whose turns are counted together: requests of our own making take none of clients'."""
    if not counted:
        return f"{model}\0\0"
    return model if exposure is None else f"{model}\0{exposure.arm}"


def _unit(request: RouteRequest) -> bytes:
    if request.session is not None:
        return request.session.encode()
    family = request.chain.family
    return b"" if family is None else family.to_bytes(8, "big")
