"""The admin API of experiments: what there is, reports, and changes that all workers follow; does I/O."""

import asyncio
import time
from typing import Annotated, Final

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from gateway.config import ConfigError
from gateway.config.experiments import (
    HALVES_CACHES,
    ArmConfig,
    ExperimentConfig,
    check_experiment,
    read_experiment,
)
from gateway.errors import GatewayError, Origin, bad_request
from gateway.serving.experiments.analyst import AnalysisError, Analyst, Kind
from gateway.serving.experiments.running import ExperimentView, views
from gateway.serving.experiments.store import Store, StoreError
from gateway.serving.experiments.trial import Begin, Define, End, Event, Forget, Trial, TrialCommand
from gateway.serving.framework import TheGateway
from gateway.serving.gateway import Gateway
from gateway.serving.json_response import json_response
from gateway.serving.membership.membership import Membership
from gateway.serving.membership.refusal import PlanError
from gateway.serving.whole import whole_report

routes = APIRouter()


def _membership_of(request: Request) -> Membership:
    membership: Membership = request.app.state.membership
    return membership


TheMembership = Annotated[Membership, Depends(_membership_of)]
_JSON_BODY: Final = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
_STOPPED: Final = "by the admin API"


class Detail(msgspec.Struct, frozen=True):
    """`GET /api/experiments/{name}`. `warnings` are sentences."""

    experiment: ExperimentView
    definition: ExperimentConfig
    events: list[Event]
    warnings: list[str]


class Changed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of PATCH: what is left out stays. New weights begin counting anew, all else does not."""

    weights: dict[str, float] | None = None
    traffic: float | None = None
    ramp_s: float | None = None
    warm_up_s: float | None = None
    metric: str | None = None
    tie_percent: float | None = None

    def of(self, definition: ExperimentConfig) -> ExperimentConfig:
        """The definition as it is to be. Raises GatewayError."""
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        weights = given.pop("weights", {})
        if unknown := weights.keys() - definition.arms.keys():
            message = f"there is no arm `{min(unknown)}`; there are: {', '.join(definition.arms)}"
            raise bad_request(message, "weights", "arm_not_found")
        arms = {name: _weighing(arm, weights.get(name)) for name, arm in definition.arms.items()}
        return msgspec.structs.replace(definition, arms=arms, **given)


def _weighing(arm: float | ArmConfig, weight: float | None) -> float | ArmConfig:
    if weight is None:
        return arm
    return msgspec.structs.replace(arm, weight=weight) if isinstance(arm, ArmConfig) else weight


@routes.get("/api/experiments")
async def _experiments(gateway: TheGateway) -> Response:
    return json_response(msgspec.json.encode(await _views(gateway)))


@routes.post("/api/experiments", openapi_extra={"requestBody": _JSON_BODY})
async def _create(gateway: TheGateway, membership: TheMembership, request: Request) -> Response:
    definition = _read(gateway, await request.body())
    if _found(gateway, definition.name) is not None:
        message = (
            f"there is an experiment `{definition.name}` already: PUT /api/experiments/{definition.name} changes it"
        )
        raise bad_request(message, "name", "experiment_exists", 409)
    await _perform(membership, Define(definition, time.time()))
    return json_response(msgspec.json.encode(await _detail(gateway, definition.name)), 201)


@routes.get("/api/experiments/{name}")
async def _show(gateway: TheGateway, name: str) -> Response:
    return json_response(msgspec.json.encode(await _detail(gateway, name)))


@routes.put("/api/experiments/{name}", openapi_extra={"requestBody": _JSON_BODY})
async def _replace(gateway: TheGateway, membership: TheMembership, request: Request, name: str) -> Response:
    _known(gateway, name)
    definition = _read(gateway, await request.body())
    if definition.name != name:
        raise bad_request(f"the body's name is `{definition.name}`, not `{name}`", "name", "name_mismatch")
    await _perform(membership, Define(definition, time.time()))
    return json_response(msgspec.json.encode(await _detail(gateway, name)))


@routes.patch("/api/experiments/{name}", openapi_extra={"requestBody": _JSON_BODY})
async def _change(gateway: TheGateway, membership: TheMembership, request: Request, name: str) -> Response:
    trial = _known(gateway, name)
    try:
        changed = msgspec.json.decode(await request.body(), type=Changed)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise bad_request(f"the body must be an object of {', '.join(Changed.__struct_fields__)}: {error}") from error
    definition = changed.of(trial.definition)
    try:
        check_experiment(definition, gateway.config.pools)
    except ConfigError as error:
        raise bad_request(str(error), code="invalid_experiment") from error
    await _perform(membership, Define(definition, time.time()))
    return json_response(msgspec.json.encode(await _detail(gateway, name)))


@routes.post("/api/experiments/{name}/start")
async def _start(gateway: TheGateway, membership: TheMembership, name: str) -> Response:
    await _perform(membership, Begin(name, time.time()))
    return json_response(msgspec.json.encode(await _detail(gateway, name)))


@routes.post("/api/experiments/{name}/stop")
async def _stop(gateway: TheGateway, membership: TheMembership, name: str) -> Response:
    await _perform(membership, End(name, time.time(), _STOPPED))
    return json_response(msgspec.json.encode(await _detail(gateway, name)))


@routes.delete("/api/experiments/{name}")
async def _forget(membership: TheMembership, name: str) -> Response:
    """Only one that the API made, with all that was observed of it."""
    await _perform(membership, Forget(name))
    return json_response(msgspec.json.encode({"name": name, "state": "removed"}))


@routes.get("/api/experiments/{name}/report")
async def _report(gateway: TheGateway, name: str, format: str = "json") -> Response:  # noqa: A002 - as clients say it
    """The statistics, by another process and as of a few seconds ago; `format=html` is a page of its own."""
    if format not in ("json", "html"):
        raise bad_request("format must be json or html", "format")
    if format == "html":
        return HTMLResponse(await _analysed(gateway, name, "html"))
    return json_response(await _analysed(gateway, name, "json"))


@routes.get("/api/experiments/{name}/observations")
async def _observations(gateway: TheGateway, name: str) -> Response:
    """All that a report is made of, as MessagePack, for one of several gateways together."""
    return Response(await _analysed(gateway, name, "observations"), media_type="application/msgpack")


async def _analysed(gateway: Gateway, name: str, kind: Kind) -> bytes:
    _known(gateway, name)
    try:
        return await _analyst(gateway).report(name, kind)
    except AnalysisError as error:
        message = f"there is no report of `{name}`: {error}"
        raise GatewayError(message, status=503, origin=Origin.GATEWAY, code="no_report") from error


def _analyst(gateway: Gateway) -> Analyst:
    if gateway.experiments.analyst is None:
        raise RuntimeError("a gateway that serves keeps what is observed")
    return gateway.experiments.analyst


def _read(gateway: Gateway, body: bytes) -> ExperimentConfig:
    try:
        return read_experiment(body, gateway.config.pools)
    except ConfigError as error:
        raise bad_request(str(error), code="invalid_experiment") from error


def _found(gateway: Gateway, name: str) -> Trial | None:
    return next((one for one in gateway.experiments.trials if one.name == name), None)


def _known(gateway: Gateway, name: str) -> Trial:
    trial = _found(gateway, name)
    if trial is None:
        raise bad_request(f"there is no experiment `{name}`", "name", "experiment_not_found", 404)
    return trial


async def _perform(membership: Membership, command: TrialCommand) -> None:
    try:
        await membership.perform(command)
    except PlanError as error:
        raise bad_request(str(error), code=error.code, status=error.status) from error


async def _views(gateway: Gateway) -> tuple[ExperimentView, ...]:
    report = await whole_report(gateway)
    return views(gateway.experiments.trials, report.snapshot.exposures, report.headlines)


async def _detail(gateway: Gateway, name: str) -> Detail:
    trial = _known(gateway, name)
    view = next(one for one in await _views(gateway) if one.name == name)
    events, warnings = await asyncio.to_thread(_events, gateway, name)
    if trial.definition.unit == "request":
        warnings.append(HALVES_CACHES)
    return Detail(view, trial.definition, events, warnings)


def _events(gateway: Gateway, name: str) -> tuple[list[Event], list[str]]:
    """What happened to it, as far as it is written, and why it cannot be read."""
    recorder = gateway.experiments.recorder
    if recorder is None or not recorder.path.exists():
        return [], []
    try:
        store = Store(recorder.path, writes=False)
        try:
            return store.events(name), []
        finally:
            store.close()
    except StoreError as error:
        return [], [f"what happened to it is not known: {error}"]
