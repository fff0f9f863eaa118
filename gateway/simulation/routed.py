"""The product's Router as a chooser: what the live gateway tells it, told in virtual time; pure."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Final

from engines import cache_events as neutral
from engines.reports import EngineDescription, LoadReport, ModelCard, PrefillSettings, Usage
from engines.simulated.sequences import BlocksRemoved, BlocksStored, CacheEvent
from gateway.routing.chain import ChainForm, PrefixChain, token_chain
from gateway.routing.decision import Decision, Held, Rejection, RouteRequest
from gateway.routing.experiments.definition import Experiment
from gateway.routing.facts import (
    AttemptFailed,
    CacheEvents,
    CacheSynced,
    ExperimentsChanged,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    ReplicaDown,
    ReplicaRestarted,
    ReplicaUp,
)
from gateway.routing.holding import DEFAULT_HOLD_MS
from gateway.routing.queue_limits import UNLIMITED, QueueLimits
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.simulation.chooser import Asked, Ended, Placement
from gateway.simulation.fleet import SimulatedReplica

MODEL: Final = "simulated"
_ENCODING: Final = "simulated"
_NO_TEXT: Final = PrefixChain()


class RoutedChooser:
    """Drives a Router, and polls as often as the product does.

    With `events` it hears the engines' cache events; else it guesses, as without KV events.
    """

    poll_s = 1.0
    reads_waiting_tokens = True

    def __init__(
        self,
        fleet: Sequence[SimulatedReplica],
        policy: str,
        seed: int,
        *,
        events: bool,
        hold_ms: float = DEFAULT_HOLD_MS,
        queue: QueueLimits = UNLIMITED,
        experiments: Sequence[Experiment] = (),
    ) -> None:
        self._fleet = fleet
        self._events = events
        self._slots = {replica.name: slot for slot, replica in enumerate(fleet)}
        self._form = ChainForm(fleet[0].limits.block_tokens, _ENCODING)
        self.router = Router(_pools(fleet), policy=policy, rng=Random(seed), hold_ms=hold_ms, queue=queue)
        if experiments:
            self.router.observe(ExperimentsChanged(0.0, tuple(experiments)))
        self._tickets: dict[int, int] = {}
        self._held: dict[int, RouteRequest] = {}
        self._placements: list[Placement] = []
        self._rejected: list[RouteRequest] = []  # clients would try again: here, when a replica comes back
        for slot in range(len(fleet)):
            self.up(slot, 0.0)

    def ask(self, asked: Asked, now: float) -> None:
        """Route it."""
        request = self.request(asked.number, asked.prompt, asked.session, now)
        self._answered(request, self.router.route(request, now))

    def request(self, number: int, prompt: bytes, session: str | None, at: float) -> RouteRequest:
        """A stream that is asked for at this time, as the Router takes it; `prompt` is its token ids."""
        return RouteRequest(
            request_id=str(number),
            model=MODEL,
            chain=_NO_TEXT,
            token_chains=(token_chain(self._form, prompt),),
            streams=True,
            accepted_at=at,
            session=session,
        )

    def _answered(self, request: RouteRequest, answer: Decision | Rejection | Held) -> None:
        match answer:
            case Decision():
                number = int(request.request_id)
                self._tickets[number] = answer.ticket
                self._placements.append(Placement(number, self._slots[answer.chosen.replica]))
            case Held():
                self._held[answer.ticket] = request
            case Rejection():
                self._rejected.append(request)

    def placements(self, now: float) -> list[Placement]:
        """Decisions made since the last call."""
        for ticket, answer in self.router.release(now):
            self._answered(self._held.pop(ticket), answer)
        made, self._placements = self._placements, []
        return made

    def look_at(self, now: float) -> float:
        """When held requests are to be looked at again."""
        look = self.router.look_at(now)
        return float("inf") if look is None else look

    def first_token(self, number: int, cached_tokens: int, now: float) -> None:
        """The first content of the stream."""
        self.router.observe(FirstToken(self._tickets[number], now))

    def finished(self, number: int, ended: Ended, now: float) -> None:
        """The stream ended, with its usage."""
        usage = Usage(ended.prompt_tokens, ended.output_tokens, ended.cached_tokens)
        self.router.observe(Finished(self._tickets.pop(number), now, Outcome.COMPLETED, usage))

    def failed(self, number: int, now: float) -> None:
        """The connection broke."""
        self.router.observe(AttemptFailed(self._tickets.pop(number), now))

    def reported(self, slot: int, report: LoadReport, now: float) -> None:
        """A poll's answer; its capacity is what the fleet was said to have."""
        replica = self._fleet[slot]
        told = replace(report, kv_capacity_tokens=replica.limits.kv_tokens)
        self.router.observe(LoadReported(replica.name, now, told))

    def changed(self, slot: int, events: Sequence[CacheEvent], now: float) -> None:
        """A message of KV events."""
        if self._events:
            block = self._form.block
            told = tuple(_neutral(event, block) for event in events)
            self.router.observe(CacheEvents(self._fleet[slot].name, now, 0, told))

    def down(self, slot: int, now: float) -> None:
        """A refused connection."""
        self.router.observe(ReplicaDown(self._fleet[slot].name, now, "connection refused"))

    def up(self, slot: int, now: float) -> None:
        """A new process answers."""
        replica = self._fleet[slot]
        limits = replica.limits
        description = EngineDescription(
            prefill=PrefillSettings(chunk_tokens=limits.chunk_tokens),
            reports_cached_tokens=True,
            block_tokens=limits.block_tokens,
            kv_capacity_tokens=limits.kv_tokens,
        )
        if now > 0:
            self.router.observe(ReplicaRestarted(replica.name, now))
        self.router.observe(ReplicaUp(replica.name, now, (ModelCard(MODEL),), description))
        report = LoadReport(kv_capacity_tokens=limits.kv_tokens, block_tokens=limits.block_tokens)
        self.router.observe(LoadReported(replica.name, now, report))
        if self._events:
            self.router.observe(CacheSynced(replica.name, now, 0))
        rejected, self._rejected = self._rejected, []
        for request in rejected:
            self._answered(request, self.router.route(request, now))


def _pools(fleet: Sequence[SimulatedReplica]) -> list[PoolSpec]:
    pools: dict[str, PoolSpec] = {}
    for replica in fleet:
        spec = ReplicaSpec(replica.name, f"http://{replica.name}.invalid")
        chunk = PrefillSettings(chunk_tokens=replica.limits.chunk_tokens)
        pool = pools.get(replica.pool) or PoolSpec(replica.pool, MODEL, (), chunk, _ENCODING)
        pools[replica.pool] = replace(pool, replicas=(*pool.replicas, spec))
    return list(pools.values())


def _neutral(event: CacheEvent, block_tokens: int) -> neutral.CacheEvent:
    """The event as a dialect reads it off the wire."""
    if isinstance(event, BlocksStored):
        return neutral.BlocksStored(event.hashes, event.parent, event.tokens, block_tokens)
    if isinstance(event, BlocksRemoved):
        return neutral.BlocksRemoved((event.block,))
    return neutral.BlocksCleared()
