"""The Router: two verbs, `route` and `observe`, and one view, `snapshot`; pure, synchronous, single owner."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from random import Random
from typing import Final

from gateway.routing.beliefs import Beliefs
from gateway.routing.chain import DEFAULT_BLOCK_BYTES, ChainForm
from gateway.routing.congestion import Congestion
from gateway.routing.decision import Decision, Held, Rejection, RouteRequest
from gateway.routing.facts import (
    Fact,
    PeerGone,
    PeerHeard,
    PeersSilent,
    ReplicaRemoved,
    ResponseStored,
    RoutingChanged,
    Withdrawn,
)
from gateway.routing.filters import usable
from gateway.routing.fleet import Booking, Fleet, PoolSpec, Replica, chain_for
from gateway.routing.holding import LOOK_S, RELOOK_S, HeldRequests
from gateway.routing.knowledge import Knowledge, give_knowledge, take_knowledge
from gateway.routing.learning import AttemptFact, Learner
from gateway.routing.membership import Membership, MembershipFact
from gateway.routing.merging import KEPT, Share
from gateway.routing.outbox import Outbox
from gateway.routing.peers import Peers
from gateway.routing.policies import HOLDING, POLICIES, UNITED, Circumstances
from gateway.routing.reuse import Reuse
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
    `hold_ms` is the wait above which requests are held, for policies that hold; 0 holds none.
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
    ) -> None:
        self.block_bytes = block_bytes
        self._decide_by(policy, hold_ms)
        self._rng = rng or Random(0)
        self._fleet = Fleet()
        self._beliefs = Beliefs()
        self._scoreboard = Scoreboard()
        self._congestion = Congestion()
        self._reuse = Reuse()
        self._table = CandidateTable(self._beliefs, self._congestion, self._reuse)
        self._learner = Learner(self._fleet, self._beliefs, self._reuse, self._scoreboard, block_bytes)
        self._peers = Peers(self._fleet, self._beliefs, self._congestion, self._learner)
        self._outbox: Outbox | None = None
        self._held = HeldRequests()
        self._stored: OrderedDict[str, str] = OrderedDict()
        self._last_ticket = 0
        self._turns: Counter[str] = Counter()
        self._membership = Membership(self._fleet, self._beliefs, self._reuse, self._congestion, block_bytes)
        for spec in pools:
            self._membership.configure(spec)
            for replica in spec.replicas:
                self._membership.add(spec.name, replica)

    def _decide_by(self, policy: str, hold_ms: float) -> None:
        self.policy = policy
        self._pick = POLICIES[policy]
        self._hold_ms = hold_ms if policy in HOLDING else 0.0

    # ── route ────────────────────────────────────────────────────────────────────────────────────

    def route(self, request: RouteRequest, now: float) -> Decision | Rejection | Held:
        """Choose a replica and book the request on it, in one step; or hold it: `release` then tells where it goes.

        Requests that failed elsewhere are never held.
        """
        answer = self._decide(request, now, self._rng.random())
        if isinstance(answer, Decision):
            self._last_ticket = answer.ticket
            if self._hold_ms and not request.tried and self._is_full(self._fleet.by_slot[answer.chosen.slot], now):
                self._held.add(answer.ticket, request, answer.chosen, now)
                return Held(answer.ticket, answer.chosen)
            self._book(answer, request, now)
        return answer

    @property
    def holds(self) -> int:
        """How many requests are held."""
        return len(self._held)

    def look_at(self, now: float) -> float | None:
        """When to call `release` although nothing has happened; None while nothing is held."""
        return now + LOOK_S if self._held else None

    def release(self, now: float) -> list[tuple[int, Decision | Rejection]]:
        """Answers for held requests by ticket; to be called after every fact while there are any.

        Those are sent whose best replica is free for more, each looked at in its turn, at most `LOOKS` in one go.
        """
        answers: list[tuple[int, Decision | Rejection]] = []
        if not self._held:
            return answers
        free, gone = self._free(now), self._gone()
        looks = 0
        for held in self._held.by_turn() if free or gone else ():
            if held.slot not in free and held.slot not in gone and (not free or now - held.looked_at < RELOOK_S):
                continue
            answer = self._decide(held.request, now, self._rng.random(), held.ticket)
            looks += 1
            if isinstance(answer, Rejection) or answer.chosen.slot in free:
                self._held.remove(held.ticket)
                answers.append((held.ticket, answer))
                if isinstance(answer, Decision):
                    self._book(answer, held.request, now)
                    free = self._free(now)
            else:
                held.look(answer.chosen, now)
            if looks >= LOOKS or not (free or gone):
                break
        return answers

    def _is_full(self, replica: Replica, now: float) -> bool:
        """Whether requests for it are held, for what we booked there ourselves: others may keep it busy for ever."""
        return replica.booked_ms(now) >= self._hold_ms and replica.shows_progress

    def _gone(self) -> set[int]:
        """Slots for which requests are held and that take none: who is held for one goes elsewhere, or is told."""
        taking = {replica.slot for replica in self._fleet.replicas if replica.takes_requests}
        return {held.slot for held in self._held if held.slot not in taking}

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
        answer = usable(self._fleet, self._stored, request)
        if isinstance(answer, Rejection):
            return answer
        model, up, replicas = answer
        table = self._table.rows(replicas, request, now)
        unit = _unit(request) if self.policy in UNITED else b""
        chosen = self._pick(table, Circumstances(self._turns[model], draw, unit))
        rows = table
        if len(up) > len(replicas):
            rows = (*table, *self._table.rows([one for one in up if one not in replicas], request, now))
        available = max([candidate.cached_tokens for candidate in rows])
        if ticket is None:
            ticket = self._last_ticket + 1
        return Decision(ticket, request.request_id, self.policy, model, table, chosen, available)

    def _book(self, decision: Decision, request: RouteRequest, now: float) -> None:
        self._turns[decision.model] += 1
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
                self._held.remove(fact.ticket)
            case PeerHeard():
                if self._outbox is None or fact.batch.sender != self._outbox.sender:
                    for replica, response_id in self._peers.hear(fact.batch, fact.at):
                        self._keep(response_id, replica)
            case PeerGone():
                self._peers.gone(fact.sender, fact.at)
            case PeersSilent():
                self._peers.lapse(fact.since, fact.at)
            case RoutingChanged():
                self._decide_by(fact.policy, fact.hold_ms)
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
        return take_snapshot(self.policy, len(self._held), self._fleet, self._beliefs.index, self._scoreboard, now)

    def share(self, now: float) -> Share:
        """The same for a view of several processes together."""
        board = self._scoreboard
        snapshot = take_snapshot(self.policy, len(self._held), self._fleet, self._beliefs.index, board, now, KEPT)
        return Share(snapshot, tuple(tuple(series.recent_ttfts) for series in board.series.values()))

    def least_busy(self, pool: str) -> list[str]:
        """The pool's replicas that take requests, those with the fewest in flight first; none of no such pool."""
        known = self._fleet.pools.get(pool)
        up = [] if known is None else [replica for replica in known.replicas if replica.takes_requests]
        return [replica.spec.name for replica in sorted(up, key=lambda replica: len(replica.bookings))]

    def is_draining(self, replica: str) -> bool:
        """Whether the replica is to take no new requests."""
        return self._fleet.replica(replica).draining

    def unfinished(self, replica: str) -> int:
        """How many of our requests are in flight at the replica, or were when it was removed."""
        fleet = self._fleet
        return sum(one.own_bookings for one in (*fleet.replicas, *fleet.retired) if one.spec.name == replica)

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

    def models(self) -> dict[str, list[str]]:
        """Every model that can be asked for, with the names of its replicas."""
        return {model: [r.spec.name for r in replicas] for model, replicas in self._fleet.served.items()}

    def usable_models(self) -> dict[str, bool]:
        """For every model, whether a replica of it is up."""
        return {model: bool(up) for model, up in self._fleet.up.items()}

    def context_tokens(self, model: str) -> int | None:
        """The smallest context of the model's replicas: what a prompt may rely on; None where none says."""
        cards = [replica.models.get(model) for replica in self._fleet.served.get(model, ())]
        sizes = (card.context_tokens for card in cards if card is not None)
        return min((size for size in sizes if size is not None), default=None)

    def holder(self, response_id: str) -> str | None:
        """The replica that keeps a Responses object, if known."""
        return self._stored.get(response_id)


def _unit(request: RouteRequest) -> bytes:
    if request.session is not None:
        return request.session.encode()
    family = request.chain.family
    return b"" if family is None else family.to_bytes(8, "big")
