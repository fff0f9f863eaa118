"""A router under test with short words for the facts; time is what the test says it is."""

from array import array
from collections.abc import Callable, Iterable, Sequence
from random import Random

import pytest

from engines.cache_events import CacheEvent
from engines.reports import EngineDescription, LoadReport, ModelCard, RequestTiming, Usage
from gateway.routing.chain import PrefixChain, chain, token_chain
from gateway.routing.decision import Decision, Held, Rejection, RouteRequest
from gateway.routing.facts import (
    AttemptFailed,
    CacheEvents,
    CacheFenced,
    CacheLost,
    CacheReset,
    CacheSynced,
    Cause,
    Dispatched,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    ReplicaBusy,
    ReplicaDown,
    ReplicaRestarted,
    ReplicaUp,
    ResponseStored,
    Withdrawn,
)
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.routing.snapshot import PoolView, ReplicaView, SeriesView, WaterfallView


def pool(name: str, *replicas: str, model: str | None = "m", encoding: str = "") -> PoolSpec:
    specs = tuple(ReplicaSpec(replica, f"http://{replica}") for replica in replicas)
    return PoolSpec(name, model, specs, encoding=encoding)


def packed(ids: Iterable[int]) -> bytes:
    """Token ids as engines' events and chains carry them."""
    return array("I", ids).tobytes()


class Driver:
    """One router and its clock: `now` moves only when a test moves it."""

    def __init__(self, pools: Sequence[PoolSpec], policy: str, seed: int, hold_ms: float) -> None:
        self.router = Router(pools, policy=policy, rng=Random(seed), block_bytes=256, hold_ms=hold_ms)
        self.now = 100.0
        self.asked = 0

    def up(self, *replicas: str, models: Sequence[str] = (), **description: object) -> None:
        cards = tuple(ModelCard(model) for model in models)
        for replica in replicas:
            self.router.observe(ReplicaUp(replica, self.now, cards, EngineDescription(**description)))  # type: ignore[arg-type]

    def down(self, *replicas: str, reason: str = "connection refused") -> None:
        for replica in replicas:
            self.router.observe(ReplicaDown(replica, self.now, reason))

    def restarted(self, replica: str) -> None:
        self.router.observe(ReplicaRestarted(replica, self.now))

    def load(self, replica: str, **report: object) -> None:
        self.router.observe(LoadReported(replica, self.now, LoadReport(**report)))  # type: ignore[arg-type]

    def stored(self, replica: str, response_id: str) -> None:
        self.router.observe(ResponseStored(replica, self.now, response_id))

    # ── what replicas say of their caches ────────────────────────────────────────────────────────

    def said(self, replica: str, *events: CacheEvent, rank: int = 0) -> None:
        self.router.observe(CacheEvents(replica, self.now, rank, events))

    def fenced(self, replica: str, rank: int = 0, reason: str = "message 7 did not come") -> None:
        self.router.observe(CacheFenced(replica, self.now, rank, reason))

    def synced(self, replica: str, rank: int = 0) -> None:
        self.router.observe(CacheSynced(replica, self.now, rank))

    def lost(self, replica: str, rank: int = 0, reason: str = "the publisher began anew") -> None:
        self.router.observe(CacheLost(replica, self.now, rank, reason))

    def reset(self, replica: str) -> None:
        self.router.observe(CacheReset(replica, self.now))

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    def request(
        self,
        text: str,
        *,
        model: str | None = "m",
        streams: bool = True,
        request_id: str | None = None,
        tokens: Sequence[int] | None = None,
        adapter: str | None = None,
        salt: str | None = None,
        shape: str = "chat",
        **more: object,
    ) -> RouteRequest:
        """`tokens` are the ids of `text`: the request then brings chains of them in every form that is asked for."""
        self.asked += 1
        namespace = f"{adapter or 'm'} {salt}".encode()
        links = chain(namespace, text.encode(), self.router.block_bytes, salted=salt is not None)
        of_tokens: tuple[PrefixChain, ...] = ()
        if tokens is not None:
            ids = packed(tokens)
            of_tokens = tuple(
                token_chain(form, ids, adapter=adapter, salt=salt, shape=shape) for form in self.router.token_forms()
            )
        name = request_id or f"request-{self.asked}"
        return RouteRequest(name, adapter or model, links, streams, self.now, of_tokens, **more)  # type: ignore[arg-type]

    def answer(self, text: str, **more: object) -> Decision | Rejection | Held:
        return self.router.route(self.request(text, **more), self.now)  # type: ignore[arg-type]

    def route(self, text: str, **more: object) -> Decision:
        decision = self.answer(text, **more)
        assert isinstance(decision, Decision), decision
        return decision

    def refused(self, text: str, **more: object) -> Rejection:
        rejection = self.answer(text, **more)
        assert isinstance(rejection, Rejection), rejection
        return rejection

    def hold(self, text: str, **more: object) -> Held:
        held = self.answer(text, **more)
        assert isinstance(held, Held), held
        return held

    def release(self) -> dict[int, Decision | Rejection]:
        """Answers for held requests, by ticket, in the order in which they were given."""
        answers = self.router.release(self.now)
        assert len(dict(answers)) == len(answers)
        return dict(answers)

    def withdraw(self, held: Held) -> None:
        self.router.observe(Withdrawn(held.ticket, self.now))

    def dispatched(self, decision: Decision) -> None:
        self.router.observe(Dispatched(decision.ticket, self.now, route_s=0.0001, overhead_s=0.0003))

    def first_token(self, decision: Decision, after_ms: float = 0.0) -> None:
        self.now += after_ms / 1000
        self.router.observe(FirstToken(decision.ticket, self.now))

    def finish(
        self,
        decision: Decision,
        outcome: Outcome = Outcome.COMPLETED,
        usage: Usage | None = None,
        content_frames: int = 0,
        timing: RequestTiming | None = None,
    ) -> None:
        self.router.observe(Finished(decision.ticket, self.now, outcome, usage, content_frames, timing))

    def fail(self, decision: Decision, cause: Cause = Cause.ENGINE) -> None:
        self.router.observe(AttemptFailed(decision.ticket, self.now, cause))

    def busy(self, replica: str, retry_after_s: float | None = None) -> None:
        self.router.observe(ReplicaBusy(replica, self.now, retry_after_s))

    def serve(self, text: str, after_ms: float = 50.0, usage: Usage | None = None, **more: object) -> Decision:
        """One whole request: routed, first token after so long, completed."""
        decision = self.route(text, **more)
        self.first_token(decision, after_ms)
        self.finish(decision, usage=usage)
        return decision

    def predicted(self, text: str, replica: str, **more: object) -> int:
        """Cached tokens that the router expects at the replica now; nothing is booked."""
        preview = self.router.preview(self.request(text, **more), self.now)  # type: ignore[arg-type]
        assert isinstance(preview, Decision), preview
        return next(row.cached_tokens for row in preview.candidates if row.replica == replica)

    # ── views ────────────────────────────────────────────────────────────────────────────────────

    def replica(self, name: str) -> ReplicaView:
        return next(view for view in self.router.snapshot(self.now).replicas if view.name == name)

    def pool(self, name: str) -> PoolView:
        return next(view for view in self.router.snapshot(self.now).pools if view.name == name)

    def tenant(self, name: str) -> WaterfallView:
        return next(view for view in self.router.snapshot(self.now).tenants if view.name == name)

    def series(self, replica: str, model: str = "m") -> SeriesView:
        views = self.router.snapshot(self.now).series
        return next(view for view in views if (view.replica, view.model) == (replica, model))


Drive = Callable[..., Driver]


@pytest.fixture
def drive() -> Drive:
    """`drive(*pools, policy=…, up=…, hold_ms=…)`: a driver whose replicas are all up unless told otherwise."""

    def start(
        *pools: PoolSpec, policy: str = "ttft", seed: int = 1, up: Sequence[str] | None = None, hold_ms: float = 0.0
    ) -> Driver:
        specs = pools or (pool("p", "r1", "r2"),)
        driver = Driver(specs, policy, seed, hold_ms)
        names = [replica.name for spec in specs for replica in spec.replicas]
        driver.up(*(names if up is None else up))
        return driver

    return start


@pytest.fixture
def pool_of() -> Callable[..., PoolSpec]:
    """`pool_of(name, *replica names, model=…, encoding=…)`."""
    return pool
