"""The admin API of prefill settings: the wish and what runs, changes, advice; does I/O."""

from dataclasses import replace
from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from engines.advice import prefill_drift
from engines.registry import dialect
from engines.reports import PrefillSettings
from gateway.config import ConfigError
from gateway.config.pools import PoolConfig
from gateway.config.prefill import SETTINGS, PrefillConfig, check_prefill
from gateway.errors import GatewayError, bad_request
from gateway.prefill.advice import Advice, advise
from gateway.serving.framework import TheGateway
from gateway.serving.gateway import Gateway
from gateway.serving.json_response import json_response
from gateway.serving.membership.refusal import PlanError
from gateway.serving.prefill.changes import Changes
from gateway.serving.prefill.story import ChangeState, ChangeView
from gateway.serving.whole import whole_report

routes = APIRouter()


def _changes_of(request: Request) -> Changes:
    changes: Changes = request.app.state.changes
    return changes


TheChanges = Annotated[Changes, Depends(_changes_of)]


class Wish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a PUT: what is left out stays as it is wished, null is the engine's own choice."""

    chunk_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    long_prefill_threshold: int | msgspec.UnsetType | None = msgspec.UNSET
    max_prefill_tokens: int | msgspec.UnsetType | None = msgspec.UNSET
    mixed_chunk: bool | msgspec.UnsetType | None = msgspec.UNSET


class PrefillView(msgspec.Struct, frozen=True):
    """How a pool stands: what is wished, what each replica runs and how that differs, the change that runs or was the
    last (with its steps), and advice.
    """

    pool: str
    desired: PrefillSettings
    actual: dict[str, PrefillSettings]
    drift: dict[str, tuple[str, ...]]
    change: ChangeView | None
    advice: Advice


class Begun(msgspec.Struct, frozen=True):
    """The answer to a PUT. `write` is what to put into the file: a reload or a restart goes by that again."""

    id: str
    pool: str
    desired: PrefillSettings
    write: str


@routes.get("/api/pools/{name}/prefill")
async def _prefill(gateway: TheGateway, name: str) -> Response:
    return json_response(msgspec.json.encode(await prefill_view(gateway, _pool(gateway, name))))


@routes.put("/api/pools/{name}/prefill")
async def _change(
    gateway: TheGateway,
    changes: TheChanges,
    name: str,
    request: Request,
    experiment: str | None = None,
    force: bool = False,
) -> Response:
    """202: the replicas are brought to it, one after the other. 409 while another change runs."""
    pool = _pool(gateway, name)
    settings = _wished(pool, await request.body())
    try:
        story = await changes.begin(name, settings, experiment=experiment, forced=force)
    except PlanError as error:
        raise _refusal(error) from error
    begun = Begun(story.id, name, settings, _lines(settings))
    return json_response(msgspec.json.encode(begun), 202)


@routes.post("/api/pools/{name}/prefill/cancel")
async def _cancel(gateway: TheGateway, changes: TheChanges, name: str) -> Response:
    """202: it stops at the next step at which no replica is left half done."""
    _pool(gateway, name)
    try:
        cancelled = await changes.cancel(name)
    except PlanError as error:
        raise _refusal(error) from error
    return json_response(msgspec.json.encode({"id": cancelled, "pool": name}), 202)


async def prefill_view(gateway: Gateway, pool: PoolConfig) -> PrefillView:
    """As all processes together see it."""
    report = await whole_report(gateway)
    desired, flags = pool.prefill.settings(), dialect(pool.engine).launch_flags
    replicas = [one for one in report.snapshot.replicas if one.pool == pool.name]
    changes = [one for one in report.changes if one.pool == pool.name]
    drifts = {one.name: prefill_drift(one.prefill_actual, desired, flags) for one in replicas}
    return PrefillView(
        pool.name,
        desired,
        {one.name: one.prefill_actual for one in replicas},
        {name: drift for name, drift in drifts.items() if drift},
        max(changes, key=lambda one: (one.state is ChangeState.RUNNING, one.started_at), default=None),
        advise(report.snapshot, pool.name),
    )


def _pool(gateway: Gateway, name: str) -> PoolConfig:
    pool = next((pool for pool in gateway.config.pools if pool.name == name), None)
    if pool is None:
        raise bad_request(f"there is no pool `{name}`", "name", "pool_not_found", 404)
    return pool


def _wished(pool: PoolConfig, body: bytes) -> PrefillSettings:
    """The pool's wish with what the body says. Raises GatewayError."""
    try:
        wish = msgspec.json.decode(body or b"{}", type=Wish)
        given = {name: value for name in SETTINGS if (value := getattr(wish, name)) is not msgspec.UNSET}
        settings = replace(pool.prefill.settings(), **given)
        check_prefill(f"pool `{pool.name}`", PrefillConfig().wishing(settings))
    except msgspec.DecodeError as error:
        raise bad_request(f"the body must be a JSON object of {', '.join(SETTINGS)}: {error}") from error
    except ConfigError as error:
        raise bad_request(str(error), code="bad_setting") from error
    return settings


def _lines(settings: PrefillSettings) -> str:
    values = {name: getattr(settings, name) for name in SETTINGS}
    lines = [f"{name} = {str(value).lower()}" for name, value in values.items() if value is not None]
    return "\n".join(["[pools.prefill]", *lines])


def _refusal(error: PlanError) -> GatewayError:
    return bad_request(str(error), code=error.code, status=error.status)
