"""The filters: which replicas may take a request at all; pure."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from gateway.routing.decision import Rejection, RejectionReason, RouteRequest
from gateway.routing.fleet import Fleet
from gateway.routing.replica import Replica
from gateway.routing.scope import Scope

RETRY_AFTER_S: Final = 2.0


class Usable(NamedTuple):
    """The model's name, its replicas that are up, and those of them that may be chosen."""

    model: str
    up: list[Replica]
    choice: list[Replica]


def usable(fleet: Fleet, stored: Mapping[str, str], request: RouteRequest, now: float) -> Usable | Rejection:
    """Apply the filters: model, pin, stored response (`stored`: its replica by id), up, already tried, health."""
    scope, served = request.scope, fleet.served
    if scope is not None:
        served = visible(served, scope)
    model = request.model
    if model not in served and (unheard := fleet.unheard()):
        message = "not known yet which models are served: " + "; ".join(unheard)
        return Rejection(RejectionReason.NO_REPLICA, message, RETRY_AFTER_S)
    if model is None:
        if len(served) != 1:
            return Rejection(RejectionReason.MODEL_REQUIRED, f"say which model: {_listed(served)}")
        model = next(iter(served))
    replicas = served.get(model)
    if replicas is None:
        message = f"The model `{model}` does not exist. Served here: {_listed(served)}"
        return Rejection(RejectionReason.MODEL_NOT_FOUND, message)
    serving = fleet.up[model] if scope is None else _reached(fleet.up[model], scope)
    if serving and _is_plain(request):
        return Usable(model, serving, admitted(fleet, serving, now) if fleet.ailing else serving)
    if not replicas:
        return Rejection(RejectionReason.NO_REPLICA, f"the model `{model}` has no replica now", RETRY_AFTER_S)
    holder = stored.get(request.response_id) if request.response_id else None
    named = _named(replicas, model, request, holder)
    if isinstance(named, Rejection):
        return named
    up = [r for r in named if r.takes_requests and holder in (None, r.spec.name)]
    if not up:
        message = f"no replica of the model `{model}` is usable now: {_ailments(named)}"
        return Rejection(RejectionReason.NO_REPLICA, message, RETRY_AFTER_S)
    fresh = [replica for replica in up if replica.spec.name not in request.tried]
    if not fresh:
        return Rejection(RejectionReason.ALL_TRIED, "every usable replica was tried and failed", RETRY_AFTER_S)
    return Usable(model, serving, admitted(fleet, fresh, now))


def admitted(fleet: Fleet, replicas: list[Replica], now: float) -> list[Replica]:
    """Those in good health; if there are none, those that are only overloaded; if there are none either, all.

    That every replica seems to be broken is no reason to refuse what one of them might still serve.
    """
    sound = [one for one in replicas if one not in fleet.ailing or one.health.admits(now)]
    return [one for one in sound if not one.health.paused(now)] or sound or replicas


def visible(served: Mapping[str, list[Replica]], scope: Scope) -> dict[str, list[Replica]]:
    """The models that exist in a scope, with their replicas there."""
    here = {model: _reached(replicas, scope) for model, replicas in served.items() if scope.sees(model)}
    return {model: replicas for model, replicas in here.items() if replicas}


def _reached(replicas: Sequence[Replica], scope: Scope) -> list[Replica]:
    return [replica for replica in replicas if scope.reaches(replica.pool.spec.name)]


def _named(replicas: list[Replica], model: str, request: RouteRequest, holder: str | None) -> list[Replica] | Rejection:
    """Those that the request asks for, by its pins; without one, those that are there for everybody."""
    if (holder, request.pinned_pool, request.pinned_replica) == (None, None, None):
        open_to_all = [replica for replica in replicas if not replica.pool.spec.pinned_only]
        if open_to_all:
            return open_to_all
        message = f"the model `{model}` is served only to requests that name its pool"
        return Rejection(RejectionReason.NO_REPLICA, message, RETRY_AFTER_S)
    found = [
        replica
        for replica in replicas
        if request.pinned_pool in (None, replica.pool.spec.name) and request.pinned_replica in (None, replica.spec.name)
    ]
    if found:
        return found
    pin = request.pinned_replica or request.pinned_pool
    return Rejection(RejectionReason.UNKNOWN_PIN, f"no pool or replica `{pin}` serves the model `{model}`")


def _is_plain(request: RouteRequest) -> bool:
    """Whether nothing of the request narrows the choice."""
    return (
        request.pinned_pool is None
        and request.pinned_replica is None
        and request.response_id is None
        and not request.tried
    )


def _ailments(replicas: Sequence[Replica]) -> str:
    return "; ".join(
        f"{replica.spec.name}: {replica.shown_reason or 'does not hold the response'}" for replica in replicas
    )


def _listed(served: dict[str, list[Replica]]) -> str:
    return ", ".join(f"`{model}`" for model in served) or "none yet (no replica has answered)"
