"""The Router: two verbs, `route` and `observe`, and one view, `snapshot`; pure, synchronous, single owner."""

from collections import Counter, OrderedDict
from collections.abc import Sequence
from itertools import islice
from random import Random
from typing import Final

from gateway.routing.beliefs import Beliefs, overlap_of
from gateway.routing.chain import DEFAULT_BLOCK_BYTES, ChainForm, PrefixChain
from gateway.routing.decision import (
    Candidate,
    Decision,
    Rejection,
    RouteRequest,
)
from gateway.routing.facts import (
    Fact,
    ResponseStored,
)
from gateway.routing.filters import usable
from gateway.routing.fleet import (
    DEFAULT_KV_TOKENS,
    Booking,
    Fleet,
    Pool,
    PoolSpec,
    Replica,
    ReplicaSpec,
    ReplicaState,
    chain_for,
)
from gateway.routing.index import Depths
from gateway.routing.learning import Learner
from gateway.routing.policies import POLICIES, Circumstances
from gateway.routing.scoreboard import RequestRecord, Scoreboard
from gateway.routing.snapshot import Snapshot, take_snapshot

STORED_RESPONSES: Final = 100_000
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
        self._beliefs = Beliefs()
        self._scoreboard = Scoreboard()
        self._learner = Learner(self._fleet, self._beliefs, self._scoreboard, block_bytes)
        self._stored: OrderedDict[str, str] = OrderedDict()
        self._last_ticket = 0
        self._turns: Counter[str] = Counter()
        for spec in pools:
            pool = self._fleet.add_pool(spec)
            for replica in spec.replicas:
                self._add(pool, replica)

    def _add(self, pool: Pool, spec: ReplicaSpec) -> None:
        bookings: dict[int, Booking] = {}
        blocks = max(1, int(DEFAULT_KV_TOKENS * 4 / self.block_bytes))
        view = self._beliefs.add_replica(blocks, bookings.values)
        self._fleet.add_replica(pool, spec, view).bookings = bookings

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
        answer = usable(self._fleet, self._stored, request)
        if isinstance(answer, Rejection):
            return answer
        model, up, replicas = answer
        table = self._table(replicas, request, now)
        chosen = self._pick(table, Circumstances(self._turns[model], draw, _unit(request)))
        barred = [replica for replica in up if replica not in replicas]
        rows = (*table, *self._table(barred, request, now)) if barred else table
        available = max(candidate.cached_tokens for candidate in rows)
        ticket = self._last_ticket + 1
        return Decision(ticket, request.request_id, self.policy, model, table, chosen, available)

    def _table(self, replicas: Sequence[Replica], request: RouteRequest, now: float) -> tuple[Candidate, ...]:
        """A row for each replica; each chain is looked up once for all of them."""
        lookups: dict[ChainForm, list[Depths]] = {}
        rows = []
        for replica in replicas:
            chain = chain_for(replica, request)
            depths = lookups.get(chain.form)
            if depths is None:
                depths = lookups[chain.form] = self._beliefs.index.overlaps(chain)
            rows.append(self._candidate(replica, chain, depths[replica.slot], now))
        return tuple(rows)

    def _candidate(self, replica: Replica, chain: PrefixChain, depths: Depths, now: float) -> Candidate:
        view = replica.cache
        link_tokens = replica.pool.link_tokens(chain)
        prompt_tokens = max(1, round(chain.length * link_tokens / chain.form.block))
        overlap = overlap_of(depths, link_tokens, replica.block_tokens, prompt_tokens)
        cached = 0 if view.watch.broken else view.calibration.expect(overlap)
        prefill_ms = replica.curve.predict_ms(prompt_tokens - cached)
        return Candidate(
            replica=replica.spec.name,
            pool=replica.pool.spec.name,
            url=replica.spec.url,
            slot=replica.slot,
            prompt_tokens=prompt_tokens,
            cached_tokens=cached,
            overlap=overlap,
            counted_in="tokens" if chain.form.counts_tokens else "text",
            inflight=len(replica.bookings),
            fill=self._beliefs.index.fill(replica.slot),
            wait_ms=replica.wait_ms(now),
            prefill_ms=prefill_ms,
            others_ms=OTHERS_SHARE * prefill_ms,
        )

    def _book(self, decision: Decision, request: RouteRequest, now: float) -> None:
        chosen = decision.chosen
        replica = self._fleet.replicas[chosen.slot]
        booking = Booking(
            ticket=decision.ticket,
            request_id=request.request_id,
            model=decision.model,
            tenant=request.tenant,
            chain=chain_for(replica, request),
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
            token_count=replica.pool.token_count(request),
        )
        self._beliefs.claim(replica.cache, booking)
        self._learner.booked(replica, booking)
        self._scoreboard.decided(decision, request.accepted_at)

    # ── observe ──────────────────────────────────────────────────────────────────────────────────

    def observe(self, fact: Fact) -> None:
        """Learn one fact. A fact about a ticket that has ended is ignored."""
        match fact:
            case ResponseStored():
                self._stored[fact.response_id] = fact.replica
                while len(self._stored) > STORED_RESPONSES:
                    self._stored.popitem(last=False)
            case _:
                self._learner.observe(fact)

    # ── views ────────────────────────────────────────────────────────────────────────────────────

    def snapshot(self, now: float) -> Snapshot:
        """Everything that the dashboard and the metrics show, as of `now`."""
        return take_snapshot(self.policy, self._fleet, self._beliefs.index, self._scoreboard, now)

    def least_busy(self, pool: str) -> list[str]:
        """The pool's replicas that are up, those with the fewest requests in flight first."""
        up = [replica for replica in self._fleet.pools[pool].replicas if replica.state is ReplicaState.UP]
        return [replica.spec.name for replica in sorted(up, key=lambda replica: len(replica.bookings))]

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
        return {
            model: any(replica.state is ReplicaState.UP for replica in replicas)
            for model, replicas in self._fleet.served.items()
        }

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
