"""Learning: what every fact teaches the fleet, the beliefs and the scoreboard; pure."""

from typing import assert_never

from engines.reports import Usage
from gateway.routing.beliefs import Beliefs
from gateway.routing.chain import PrefixChain
from gateway.routing.curves import Prefill, is_plain_text
from gateway.routing.facts import (
    AGAINST,
    AttemptFailed,
    CacheEvents,
    CacheFenced,
    CacheLost,
    CacheReset,
    CacheSynced,
    Cause,
    Dispatched,
    Exposed,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    Refused,
    ReplicaBusy,
    ReplicaDown,
    ReplicaRestarted,
    ReplicaUp,
    StreamBroke,
)
from gateway.routing.fleet import Fleet
from gateway.routing.lessons import confirmed_blocks, surprises
from gateway.routing.outbox import Outbox
from gateway.routing.output_sizes import OutputSizes
from gateway.routing.replica import Booking, Replica, ReplicaState
from gateway.routing.reuse import Reuse
from gateway.routing.scoreboard import Scoreboard, Series
from gateway.routing.starts import Starts

AttemptFact = Dispatched | FirstToken | Finished | AttemptFailed
ReplicaFact = ReplicaUp | ReplicaDown | ReplicaRestarted | ReplicaBusy | LoadReported
CacheFact = CacheEvents | CacheFenced | CacheSynced | CacheLost | CacheReset


class Learner:
    """Takes the facts that follow decisions. `block_bytes` is the block of text chains."""

    def __init__(
        self,
        fleet: Fleet,
        beliefs: Beliefs,
        reuse: Reuse,
        scoreboard: Scoreboard,
        sizes: OutputSizes,
        starts: Starts,
        block_bytes: int,
    ) -> None:
        self._fleet = fleet
        self._beliefs = beliefs
        self._reuse = reuse
        self._scoreboard = scoreboard
        self._sizes = sizes
        self._starts = starts
        self._block_bytes = block_bytes
        self._tickets: dict[int, Replica] = {}
        self.outbox: Outbox | None = None
        """Where it is noted for other gateways; None where there are none."""

    def booked(self, replica: Replica, booking: Booking) -> None:
        """An attempt begins; its ticket will come in later facts."""
        self._tickets[booking.ticket] = replica
        replica.book(booking)
        replica.standing = None
        if replica in self._fleet.ailing:
            replica.health.booked(booking.ticket, booking.booked_at)

    def observe(self, fact: ReplicaFact | CacheFact | StreamBroke | Refused | Exposed) -> None:
        """Learn one fact about a replica, or of a request that none took; nothing of a replica that was removed."""
        match fact:
            case Refused():
                self._scoreboard.of("", "", fact.model).end(fact.outcome)
                return
            case Exposed():
                self._scoreboard.exposed(fact.exposure)
                return
            case StreamBroke():  # what else comes of it is told by other facts
                replica = self._fleet.find(fact.replica)
                if replica is not None:
                    tally = self._scoreboard.of(replica.pool.spec.name, fact.replica, fact.model).broken_streams
                    tally[fact.continuation] = tally.get(fact.continuation, 0) + 1
                return
            case ReplicaUp() | ReplicaDown() | ReplicaRestarted() | ReplicaBusy() | LoadReported():
                replica = self._fleet.find(fact.replica)
                if replica is not None:
                    self._replica(fact, replica)
            case CacheEvents() | CacheFenced() | CacheSynced() | CacheLost() | CacheReset():
                replica = self._fleet.find(fact.replica)
                if replica is not None:
                    self._cache(fact, replica)
            case _:
                assert_never(fact)
        if replica is not None:
            replica.standing = None

    def attempt(self, fact: AttemptFact) -> None:
        """Learn one fact about an attempt; one that has ended is ignored."""
        replica = self._tickets.get(fact.ticket)
        if replica is None:
            return
        booking = replica.bookings[fact.ticket]
        counted = booking.counted
        series = self._scoreboard.of(replica.pool.spec.name, replica.spec.name, booking.model) if counted else Series()
        if isinstance(fact, Dispatched):  # which changes nothing but figures
            series.route.observe(fact.route_s)
            series.overhead.observe(fact.overhead_s)
            series.held.observe(fact.held_s)
            return
        replica.standing = None
        match fact:
            case FirstToken():
                if booking.first_token_at is None:
                    if replica.health.is_broken:
                        replica.health.succeeded(fact.ticket, fact.at)
                    self.first_token(replica, booking, fact.at)
                    if not booking.begun:
                        series.first_token(booking, fact.at)
                    self._starts.learn(fact.at - booking.booked_at)
                    if self.outbox is not None:
                        self.outbox.first_token(fact.ticket, fact.at)
            case AttemptFailed():
                self._give_up(replica, booking, fact)
                series.retries += 1
                series.given_up[fact.cause] = series.given_up.get(fact.cause, 0) + 1
            case Finished():
                self._finish(replica, booking, fact)
                if fact.outcome is not Outcome.COMPLETED or replica.health.score or replica.health.is_broken:
                    self._examine(replica, fact)
                if counted:
                    self._count(series, booking, fact, replica)
            case _:
                assert_never(fact)

    def _examine(self, replica: Replica, fact: Finished) -> None:
        """What the end of a request says of its replica's health."""
        match fact.outcome:
            case Outcome.COMPLETED:
                replica.health.succeeded(fact.ticket, fact.at)
            case Outcome.ENGINE_FAILED | Outcome.TIMED_OUT:
                self._failed(replica, fact)
            case _:
                replica.health.left(fact.ticket)

    def _give_up(self, replica: Replica, booking: Booking, fact: AttemptFailed) -> None:
        """An attempt was given up, for a reason that may tell against its replica."""
        if fact.cause is Cause.OVERLOADED:
            replica.capacity.refused(len(replica.bookings), fact.at)
        self.ended(replica, booking, fact.at, completed=False)
        if self.outbox is not None:
            self.outbox.ended(fact.ticket, fact.at, completed=False)
        if fact.cause in AGAINST:
            self._failed(replica, fact)
        else:
            replica.health.left(fact.ticket)

    def _failed(self, replica: Replica, fact: Finished | AttemptFailed) -> None:
        replica.health.failed(fact.ticket, fact.at)
        if replica.health.is_broken and not replica.removed:
            self._fleet.ailing.add(replica)

    def _count(self, series: Series, booking: Booking, fact: Finished, replica: Replica) -> None:
        """Count a request's end, its times, and its tokens by the engine's word."""
        series.end(fact.outcome)
        series.request.observe(fact.at - booking.accepted_at)
        if booking.first_token_at is not None and fact.content_frames > 1:
            gaps = fact.content_frames - 1
            series.itl.observe((fact.at - booking.first_token_at) / gaps, gaps)
        usage = fact.usage
        if usage is None:
            return
        self._sizes.learn(booking.tenant, usage.completion_tokens)
        cached = delivered(replica, usage)
        series.used(booking, usage, cached)
        if cached is not None:
            tokens = usage.prompt_tokens, booking.available_tokens, booking.routed_tokens, cached
            series.waterfall.add(*tokens)
            self._scoreboard.tenants.of(booking.tenant).add(*tokens)
            self._scoreboard.families.of(booking.text.family).add(*tokens)

    def first_token(self, replica: Replica, booking: Booking, at: float) -> None:
        """An attempt's first token came."""
        self._beliefs.first_token(replica.cache, booking)
        self.prefilled(replica, booking, at)
        record = self._scoreboard.requests.get(booking.request_id)
        if record is not None and not booking.begun:
            record.ttft_s = at - booking.accepted_at

    def prefilled(self, replica: Replica, booking: Booking, at: float) -> None:
        """Its prefill is done, and the replica goes on to the next one."""
        booking.first_token_at = at
        replica.first_token(booking, at)
        self._reuse.used(replica.slot, booking.chain, at)

    def ended(
        self,
        replica: Replica,
        booking: Booking,
        at: float,
        *,
        completed: bool,
        usage: Usage | None = None,
        prefill: Prefill | None = None,
    ) -> None:
        """An attempt is over. All is learned of it, or only what it had cached where it teaches nothing else."""
        confirmed = 0
        if usage is not None and not replica.teaches(at) and not surprises(replica, booking.chain, booking, usage):
            confirmed = confirmed_blocks(replica, booking.chain, usage)
            usage = prefill = None
        if not completed:
            self._beliefs.lost(replica.cache, booking)
        else:
            self._beliefs.computed(replica.cache, booking, confirmed)
            if booking.first_token_at is None:
                replica.prefilled(booking.ticket, at)
                self._reuse.used(replica.slot, booking.chain, at)
        if self._tickets.pop(booking.ticket, None) is not None:
            replica.release(booking.ticket, at)
        if usage is not None:
            self._learn_tokens(replica, booking, usage, at)
        if prefill is not None:
            self._fleet.learn(replica, prefill.uncached_tokens, prefill.ms)
        if replica.removed and not replica.bookings:  # that was the last: others may have its slot
            self._fleet.retired.remove(replica)
            self._beliefs.remove(replica.cache)

    def heard_of(self, replica: Replica, chain: PrefixChain, confirmed: int, at: float) -> None:
        """A request that is over was served there, of which there is no more to learn than where its prompt is."""
        self._beliefs.held(replica.cache, chain, confirmed)
        self._reuse.used(replica.slot, chain, at)
        replica.standing = None

    def _finish(self, replica: Replica, booking: Booking, fact: Finished) -> None:
        completed, usage, prefill = fact.outcome is Outcome.COMPLETED, fact.usage, _prefill(replica, booking, fact)
        self.ended(replica, booking, fact.at, completed=completed, usage=usage, prefill=prefill)
        if self.outbox is not None:
            self.outbox.ended(fact.ticket, fact.at, completed=completed, usage=usage, prefill=prefill)
        record = self._scoreboard.requests.get(booking.request_id)
        if record is not None:
            record.outcome, record.usage = fact.outcome, usage

    def _learn_tokens(self, replica: Replica, booking: Booking, usage: Usage, at: float) -> None:
        """The engine's word on the prompt: how many tokens it is, whether ours are its, how many were cached."""
        pool, chain, text = replica.pool, booking.chain, booking.text
        pool.token_ratio.observe(text.length, usage.prompt_tokens)
        pool.family_ratios.observe(text.family, text.length, usage.prompt_tokens)
        replica.reports_cached_tokens |= usage.cached_tokens is not None
        if usage.cached_tokens:
            self._beliefs.hit(replica.cache)
        if booking.token_count is not None:
            shape, ours = booking.token_count
            agreed = pool.token_trust.observe(shape, ours, usage.prompt_tokens)
            if not agreed and chain.form.counts_tokens:
                self._beliefs.index.forget(replica.slot, chain.hashes)
                return
        cached = delivered(replica, usage)
        comparable = chain.form.counts_tokens or is_plain_text(text.length, usage.prompt_tokens)
        if cached is not None and comparable:
            link_tokens = pool.link_tokens(chain)
            tolerance = max(replica.block_tokens or 0, round(link_tokens))
            self._beliefs.delivered(replica.cache, booking, cached, at, link_tokens, tolerance)

    def _replica(self, fact: ReplicaFact, replica: Replica) -> None:
        match fact:
            case ReplicaUp():
                replica.state, replica.reason = ReplicaState.UP, ""
                replica.models = {card.id: card for card in fact.models}
                self._fleet.list_models()
                replica.description = fact.description
                replica.cache.tells_salts = fact.description.events_tell_salts
                replica.reports_cached_tokens |= bool(fact.description.reports_cached_tokens)
                replica.capacity.states(fact.description.max_running_requests)
                self._resize(replica, fact.description.kv_capacity_tokens)
            case ReplicaDown():
                replica.state, replica.reason = ReplicaState.DOWN, fact.reason
                self._fleet.list_up()
            case ReplicaRestarted():
                self._beliefs.restarted(replica.cache)
                self._reuse.forget(replica.slot)
                replica.capacity.restarted()
                replica.reports_cached_tokens = False  # the new process may be set up otherwise
                replica.health.restarted()
            case ReplicaBusy():
                replica.health.busy(fact.at, fact.retry_after_s)
                self._fleet.ailing.add(replica)
            case LoadReported():
                replica.reported(fact.report, fact.at)
                self._resize(replica, fact.report.kv_capacity_tokens)
                self._reuse.refresh(fact.at)
                if replica.health.is_clear(fact.at):
                    self._fleet.ailing.discard(replica)
            case _:
                assert_never(fact)

    def _cache(self, fact: CacheFact, replica: Replica) -> None:
        beliefs, view = self._beliefs, replica.cache
        match fact:
            case CacheEvents():
                beliefs.events(view, fact.rank, fact.events)
                replica.heard()
            case CacheFenced():
                beliefs.fenced(view, fact.rank, fact.reason)
            case CacheSynced():
                beliefs.synced(view, fact.rank)
            case CacheLost():
                beliefs.unheard(view, fact.rank, fact.reason)
            case CacheReset():
                beliefs.reset(view)
            case _:
                assert_never(fact)

    def _resize(self, replica: Replica, kv_tokens: int | None) -> None:
        """Guess as many blocks as the engine can hold, and follow its blocks in its own size."""
        replica.block_tokens = replica.report.block_tokens or replica.description.block_tokens
        if replica.block_tokens:
            replica.cache.ledger.resize(replica.block_tokens)
        replica.heard()
        if kv_tokens:
            form = replica.form
            tokens = form.block if form else self._block_bytes / replica.pool.token_ratio.bytes_per_token
            blocks = max(1, int(kv_tokens * replica.cache.capacity_share / tokens))
            self._beliefs.index.resize(replica.slot, blocks)
            self._reuse.resize(replica.slot, kv_tokens * replica.cache.capacity_share)


def _prefill(replica: Replica, booking: Booking, fact: Finished) -> Prefill | None:
    """One prefill for the curve: learned at the end, as the engine then says what it was of, and maybe how long.

    The engine's own time is that of the request, which shared its steps with others: it is an upper limit to its
    share. Where the engine does not say what was cached, it was for the tokens expected uncached.
    """
    measured_ms, timing = booking.service_ms, fact.timing
    if timing is not None:
        measured_ms = timing.prefill_ms if measured_ms is None else min(measured_ms, timing.prefill_ms)
    if measured_ms is None:
        return None
    uncached = booking.prompt_tokens - booking.routed_tokens
    if fact.usage is not None:
        cached = delivered(replica, fact.usage)
        if cached is not None:
            uncached = fact.usage.prompt_tokens - cached
    return Prefill(uncached, max(measured_ms, 0.0))


def delivered(replica: Replica, usage: Usage) -> int | None:
    """Tokens from cache by the engine's word; None where it does not say.

    An engine that reports cached tokens at all may leave the field out when there were none.
    """
    return (usage.cached_tokens or 0) if replica.reports_cached_tokens else usage.cached_tokens
