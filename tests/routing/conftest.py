"""A router under test with short words for the facts; time is what the test says it is."""

from collections.abc import Callable, Sequence
from random import Random

import pytest

from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, Rejection, RouteRequest
from gateway.routing.facts import (
    AttemptFailed,
    Dispatched,
    Finished,
    FirstToken,
    LoadReported,
    Outcome,
    ReplicaDown,
    ReplicaRestarted,
    ReplicaUp,
    ResponseStored,
)
from gateway.routing.fleet import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.routing.snapshot import ReplicaView, SeriesView


def pool(name: str, *replicas: str, model: str | None = "m") -> PoolSpec:
    return PoolSpec(name, model, tuple(ReplicaSpec(replica, f"http://{replica}") for replica in replicas))


class Driver:
    """One router and its clock: `now` moves only when a test moves it."""

    def __init__(self, pools: Sequence[PoolSpec], policy: str, seed: int) -> None:
        self.router = Router(pools, policy=policy, rng=Random(seed))
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

    def request(
        self, text: str, *, model: str | None = "m", streams: bool = True, request_id: str | None = None, **more: object
    ) -> RouteRequest:
        self.asked += 1
        links = chain(b"m", text.encode(), self.router.block_bytes)
        return RouteRequest(request_id or f"request-{self.asked}", model, links, streams, self.now, **more)  # type: ignore[arg-type]

    def answer(self, text: str, **more: object) -> Decision | Rejection:
        return self.router.route(self.request(text, **more), self.now)  # type: ignore[arg-type]

    def route(self, text: str, **more: object) -> Decision:
        decision = self.answer(text, **more)
        assert isinstance(decision, Decision), decision
        return decision

    def refused(self, text: str, **more: object) -> Rejection:
        rejection = self.answer(text, **more)
        assert isinstance(rejection, Rejection), rejection
        return rejection

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
    ) -> None:
        self.router.observe(Finished(decision.ticket, self.now, outcome, usage, content_frames))

    def fail(self, decision: Decision) -> None:
        self.router.observe(AttemptFailed(decision.ticket, self.now))

    def serve(self, text: str, after_ms: float = 50.0, usage: Usage | None = None, **more: object) -> Decision:
        """One whole request: routed, first token after so long, completed."""
        decision = self.route(text, **more)
        self.first_token(decision, after_ms)
        self.finish(decision, usage=usage)
        return decision

    def replica(self, name: str) -> ReplicaView:
        return next(view for view in self.router.snapshot(self.now).replicas if view.name == name)

    def series(self, replica: str, model: str = "m") -> SeriesView:
        views = self.router.snapshot(self.now).series
        return next(view for view in views if (view.replica, view.model) == (replica, model))


Drive = Callable[..., Driver]


@pytest.fixture
def drive() -> Drive:
    """`drive(*pools, policy=…, up=…)`: a driver whose replicas are all up unless told otherwise."""

    def start(*pools: PoolSpec, policy: str = "ttft", seed: int = 1, up: Sequence[str] | None = None) -> Driver:
        specs = pools or (pool("p", "r1", "r2"),)
        driver = Driver(specs, policy, seed)
        names = [replica.name for spec in specs for replica in spec.replicas]
        driver.up(*(names if up is None else up))
        return driver

    return start


@pytest.fixture
def pool_of() -> Callable[..., PoolSpec]:
    """`pool_of(name, *replica names, model=…)`."""
    return pool
