"""Pools that get only what names them, replicas with room to spare, and requests of our own making."""

from random import Random

import pytest

from engines.reports import LoadReport, ModelCard
from gateway.routing.chain import PrefixChain
from gateway.routing.decision import Decision, Rejection, RejectionReason, RouteRequest
from gateway.routing.facts import LoadReported, PoolConfigured, ReplicaDown, ReplicaDraining, ReplicaUp
from gateway.routing.replica import ROOMY_USAGE, PoolSpec, ReplicaSpec
from gateway.routing.router import Router


def spec(name: str, *, pinned_only: bool = False, model: str = "m", count: int = 1) -> PoolSpec:
    replicas = tuple(ReplicaSpec(f"{name}-{number}", f"http://{name}{number}") for number in range(count))
    return PoolSpec(name, model, replicas, pinned_only=pinned_only)


def router(*pools: PoolSpec, policy: str = "round-robin") -> Router:
    made = Router(pools, policy=policy, rng=Random(1))
    for pool in pools:
        for replica in pool.replicas:
            made.observe(ReplicaUp(replica.name, 0.0, (ModelCard(pool.model or "m"),)))
    return made


def where(made: Router, **more: object) -> str:
    answer = made.route(RouteRequest("r", "m", PrefixChain(), True, 0.0, **more), 0.0)  # type: ignore[arg-type]
    return answer.chosen.replica if isinstance(answer, Decision) else str(answer.reason)  # type: ignore[union-attr]


def test_only_who_names_it_goes_there() -> None:
    made = router(spec("p"), spec("q", pinned_only=True))
    assert {where(made) for _ in range(6)} == {"p-0"}
    assert where(made, pinned_pool="q") == where(made, pinned_replica="q-0") == "q-0"
    assert where(made, tried=frozenset({"p-0"})) == "all_tried"
    made.observe(ReplicaDown("p-0", 1.0, "gone"))
    assert where(made) == "no_replica"


def test_a_pool_on_its_own_says_so() -> None:
    made = router(spec("q", pinned_only=True))
    answer = made.route(RouteRequest("r", "m", PrefixChain(), True, 0.0), 0.0)
    assert isinstance(answer, Rejection)
    assert answer.reason is RejectionReason.NO_REPLICA
    assert "only to requests that name its pool" in answer.message
    assert made.usable_models() == {"m": True}


def test_a_model_is_ready_by_replicas_that_are_there_for_all() -> None:
    made = router(spec("p"), spec("q", pinned_only=True))
    made.observe(ReplicaDown("p-0", 1.0, "gone"))
    assert made.usable_models() == {"m": False}


def test_it_changes_with_the_configuration() -> None:
    made = router(spec("p"), spec("q", pinned_only=True))
    made.observe(PoolConfigured(1.0, spec("q")))
    assert {where(made) for _ in range(6)} == {"p-0", "q-0"}
    made.observe(PoolConfigured(1.0, spec("q", pinned_only=True)))
    assert {where(made) for _ in range(6)} == {"p-0"}


@pytest.mark.parametrize(
    "report", [LoadReport(waiting_requests=1), LoadReport(kv_usage=ROOMY_USAGE), LoadReport(1, 2, 3, 0.1)]
)
def test_a_pool_with_a_busy_replica_has_no_room(report: LoadReport) -> None:
    made = router(spec("q", count=2))
    assert made.has_room("q")
    made.observe(LoadReported("q-1", 1.0, report))
    assert not made.has_room("q")
    assert (made.can_spare("q-0"), made.can_spare("q-1")) == (True, False)
    made.observe(LoadReported("q-1", 2.0, LoadReport(waiting_requests=0, kv_usage=0.1)))
    assert made.has_room("q")


def test_nobody_has_room_who_is_not_there() -> None:
    made = router(spec("q"))
    assert not made.has_room("other")
    assert not made.can_spare("other")
    made.observe(ReplicaDraining("q-0", 1.0))
    assert not made.has_room("q")
    assert not made.can_spare("q-0")


def test_requests_of_our_own_take_no_turn_of_clients() -> None:
    made = router(spec("p", count=2))
    seen = []
    for _ in range(6):
        seen.append(where(made))
        where(made, counted=False)
    assert seen == ["p-0", "p-1"] * 3
