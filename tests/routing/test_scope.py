"""What is outside a request's scope does not exist for it."""

from collections.abc import Sequence

import pytest

from engines.reports import ModelCard
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, Rejection, RejectionReason, RouteRequest
from gateway.routing.facts import ReplicaDown, ReplicaUp
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.routing.scope import Scope

TEXT = chain(b"m", b"x" * 4096)
SERVED = {"one": ("m", "secret"), "two": ("m", "other")}


def router() -> Router:
    made = Router([PoolSpec(name, None, (ReplicaSpec(f"{name}-0", f"http://{name}"),)) for name in SERVED])
    for name, models in SERVED.items():
        made.observe(ReplicaUp(f"{name}-0", 0.0, tuple(ModelCard(model) for model in models)))
    return made


def scope(models: Sequence[str] = (), pools: Sequence[str] = ()) -> Scope:
    return Scope(frozenset(models), frozenset(pools))


def asked(seen: Scope | None, model: str | None = "m", **more: object) -> Decision | Rejection:
    return router().route(RouteRequest("id", model, TEXT, False, 0.0, scope=seen, **more), 0.0)  # type: ignore[arg-type, return-value]


@pytest.mark.parametrize(
    ("seen", "models"),
    [
        (None, {"m", "secret", "other"}),
        (scope(), {"m", "secret", "other"}),
        (scope(models=["m"]), {"m"}),
        (scope(models=["m", "no"]), {"m"}),
        (scope(pools=["two"]), {"m", "other"}),
        (scope(models=["secret"], pools=["two"]), set()),
        (scope(pools=["no"]), set()),
    ],
)
def test_what_is_seen_is_what_may_be_asked_for(seen: Scope | None, models: set[str]) -> None:
    assert set(router().usable_models(seen)) == models
    for model in ("m", "secret", "other", "no"):
        answer = asked(seen, model)
        assert isinstance(answer, Decision) == (model in models)
        if isinstance(answer, Rejection):
            assert answer.reason is RejectionReason.MODEL_NOT_FOUND
            assert not any(f"`{hidden}`" in answer.message for hidden in {"m", "secret", "other"} - models - {model})


def test_a_request_goes_to_pools_in_its_scope_whatever_else_narrows_it() -> None:
    assert [row.replica for row in asked(scope(pools=["two"])).candidates] == ["two-0"]  # type: ignore[union-attr]
    pinned = asked(scope(pools=["two"]), pinned_pool="one")
    assert isinstance(pinned, Rejection)
    assert pinned.reason is RejectionReason.UNKNOWN_PIN
    tried = asked(scope(pools=["two"]), tried=frozenset(["two-0"]))
    assert isinstance(tried, Rejection)
    assert tried.reason is RejectionReason.ALL_TRIED


def test_what_is_down_is_in_the_scope_still_and_no_other_replica_is_named() -> None:
    made = router()
    made.observe(ReplicaDown("two-0", 1.0, "gone"))
    answer = made.route(RouteRequest("id", "m", TEXT, False, 0.0, scope=scope(pools=["two"])), 1.0)
    assert isinstance(answer, Rejection)
    assert answer.reason is RejectionReason.NO_REPLICA
    assert "two-0" in answer.message
    assert "one-0" not in answer.message
    assert made.usable_models(scope(pools=["two"])) == {"m": False, "other": False}
