"""The admin API's write side: replicas that come, drain and go, and the file read again; does I/O."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from gateway.config import ConfigError
from gateway.errors import GatewayError, bad_request
from gateway.routing.snapshot import ReplicaView
from gateway.serving.framework import TheGateway
from gateway.serving.gateway import Gateway
from gateway.serving.json_response import json_response
from gateway.serving.membership.membership import Membership
from gateway.serving.membership.plan import Add, Command, Drain, Remove, Resume
from gateway.serving.membership.refusal import PlanError
from gateway.serving.membership.reload import Reloading
from gateway.serving.warming.warmer import Warmer
from gateway.serving.whole import whole_report

routes = APIRouter()


def _membership_of(request: Request) -> Membership:
    membership: Membership = request.app.state.membership
    return membership


def _reloading_of(request: Request) -> Reloading:
    reloading: Reloading = request.app.state.reloading
    return reloading


def _warmer_of(request: Request) -> Warmer:
    warmer: Warmer = request.app.state.warmer
    return warmer


TheMembership = Annotated[Membership, Depends(_membership_of)]
TheWarmer = Annotated[Warmer, Depends(_warmer_of)]


class NewReplica(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of `POST /api/replicas`."""

    pool: str
    url: str
    name: str | None = None


class Told(msgspec.Struct, frozen=True):
    """How a replica stands after a command. `state` "removed": it is gone. `warnings` are sentences."""

    name: str
    pool: str
    url: str
    state: str
    reason: str
    inflight: int
    warnings: list[str]
    warmed: int | None = None
    """How many hot prefixes were prefilled elsewhere before; None: that was not asked for."""


@routes.get("/api/replicas")
async def _replicas(gateway: TheGateway) -> Response:
    return json_response(msgspec.json.encode((await whole_report(gateway)).snapshot.replicas))


@routes.post("/api/replicas")
async def _add(gateway: TheGateway, membership: TheMembership, request: Request) -> Response:
    try:
        body = msgspec.json.decode(await request.body(), type=NewReplica)
    except msgspec.DecodeError as error:
        raise bad_request(f'the body must be {{"pool": …, "url": …, "name"?: …}}: {error}') from error
    url = body.url.rstrip("/")
    await _perform(membership, Add(body.pool, url, body.name))
    member = next(one for one in membership.plan.members if one.url == url)
    return json_response(msgspec.json.encode(await _told(gateway, member.name)), 201)


@routes.post("/api/replicas/{name}/drain")
async def _drain(
    gateway: TheGateway, membership: TheMembership, warmer: TheWarmer, name: str, warm: bool | None = None
) -> Response:
    """`warm`: first have others prefill its pool's hot prefixes; the default where the pool keeps them."""
    warmed = await _hand_off(gateway, warmer, name, warm)
    await _perform(membership, Drain(name))
    told = await _told(gateway, name)
    return json_response(msgspec.json.encode(told and msgspec.structs.replace(told, warmed=warmed)))


@routes.post("/api/replicas/{name}/resume")
async def _resume(gateway: TheGateway, membership: TheMembership, name: str) -> Response:
    if membership.plan.member(name) is None and name in membership.leaving:
        message = f"the replica `{name}` is being removed: POST /api/replicas with its pool, URL and name keeps it"
        raise bad_request(message, "name", "replica_leaving", 409)
    await _perform(membership, Resume(name))
    return json_response(msgspec.json.encode(await _told(gateway, name)))


@routes.delete("/api/replicas/{name}")
async def _remove(
    gateway: TheGateway,
    membership: TheMembership,
    warmer: TheWarmer,
    name: str,
    now: bool = False,
    warm: bool | None = None,
) -> Response:
    """202 while it has requests in flight, of any worker; 200 once it is gone. `warm` as for a drain, unless `now`."""
    before = await _view(gateway, name)
    if before is None:
        raise bad_request(f"there is no replica `{name}`", "name", "replica_not_found", 404)
    warmed = None if now or before.draining else await _hand_off(gateway, warmer, name, warm)
    await _perform(membership, Remove(name, now))
    told = await _told(gateway, name)
    if told is None:
        gone = Told(name, before.pool, before.url, "removed", "", 0, _alone(gateway, before), warmed)
        return json_response(msgspec.json.encode(gone))
    return json_response(msgspec.json.encode(msgspec.structs.replace(told, warmed=warmed)), 202)


@routes.post("/api/config/reload")
async def _reload(reloading: Annotated[Reloading, Depends(_reloading_of)]) -> Response:
    try:
        return json_response(msgspec.json.encode(await reloading.reload()))
    except ConfigError as error:
        raise bad_request(f"the configuration stays as it is: {error}", code="invalid_config") from error
    except PlanError as error:
        raise _refusal(error) from error


async def _hand_off(gateway: Gateway, warmer: Warmer, name: str, warm: bool | None) -> int | None:
    backend = gateway.backends.get(name)
    if backend is None or warm is False:
        return None
    if gateway.hot is not None and backend.pool in gateway.hot.wanted:
        return await warmer.away_from(backend)
    if warm:
        message = f"the pool `{backend.pool}` keeps no hot prefixes: set its warm_families"
        raise bad_request(message, "warm", "nothing_to_warm", 409)
    return None


async def _perform(membership: Membership, command: Command) -> None:
    try:
        await membership.perform(command)
    except PlanError as error:
        raise _refusal(error) from error


def _refusal(error: PlanError) -> GatewayError:
    return bad_request(str(error), code=error.code, status=error.status)


async def _view(gateway: Gateway, name: str) -> ReplicaView | None:
    replicas = (await whole_report(gateway)).snapshot.replicas
    return next((one for one in replicas if one.name == name), None)


async def _told(gateway: Gateway, name: str) -> Told | None:
    view = await _view(gateway, name)
    if view is None:
        return None
    warnings = _alone(gateway, view) if view.draining else []
    return Told(view.name, view.pool, view.url, view.state, view.reason, view.inflight, warnings)


def _alone(gateway: Gateway, view: ReplicaView) -> list[str]:
    """What a replica leaves behind that was the last one to serve its models."""
    usable = gateway.router.usable_models()
    served = view.models or ((view.model,) if view.model else ())
    return [
        f"no other replica takes requests for `{model}`: they are refused until one does"
        for model in served
        if not usable.get(model)
    ]
