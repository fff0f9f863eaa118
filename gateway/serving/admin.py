"""The admin API, its read side here: snapshot, live events, decisions, metrics; does I/O."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import __version__
from gateway.errors import bad_request
from gateway.prefill.advice import Advice, advise
from gateway.routing.savings import skipped_by_replica
from gateway.routing.snapshot import Snapshot
from gateway.serving.dashboard.routes import routes as page_routes
from gateway.serving.events.intake import FeedStatus
from gateway.serving.experiments.routes import routes as experiment_routes
from gateway.serving.experiments.running import ExperimentView, views
from gateway.serving.explanation import explain
from gateway.serving.framework import TheGateway
from gateway.serving.gateway import Gateway
from gateway.serving.history.routes import routes as history_routes
from gateway.serving.json_response import json_response
from gateway.serving.membership.routes import routes as membership_routes
from gateway.serving.metrics import registry
from gateway.serving.prefill.routes import routes as prefill_routes
from gateway.serving.prefill.story import ChangeView
from gateway.serving.prefixes.routes import routes as prefix_routes
from gateway.serving.report import WorkerView
from gateway.serving.shadowing.tally import ShadowSummary
from gateway.serving.sharing.status import SharingStatus
from gateway.serving.tenant_figures import TenantView
from gateway.serving.whole import recent_requests, request_told, whole_report

EVENTS_EVERY_S: Final = 1.0
CLOSE_S: Final = 0.05
"""Listeners so close together get the same view."""

_ANY_BODY: Final = {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}}
"""Of a route that reads the body itself."""

routes = APIRouter()
routes.include_router(page_routes)
routes.include_router(history_routes)
routes.include_router(prefix_routes)
routes.include_router(membership_routes)
routes.include_router(prefill_routes)
routes.include_router(experiment_routes)


class GatewayView(msgspec.Struct, frozen=True):
    """What the snapshot says of the gateway itself. `warnings` are sentences by replica; `workers` its processes.

    `changes` are those of prefill settings, `advice` is on each pool's.
    """

    version: str
    uptime_s: float
    notices: list[str]
    warnings: dict[str, list[str]]
    feeds: tuple[FeedStatus, ...]
    workers: tuple[WorkerView, ...]
    sharing: SharingStatus
    tenants: tuple[TenantView, ...] = ()
    changes: tuple[ChangeView, ...] = ()
    advice: tuple[Advice, ...] = ()
    gpus: dict[str, int] = {}
    """Of one replica, by pool."""
    skipped_gpu_s: dict[str, float] = {}
    """By replica: GPU time that its prefix cache saved, see `routing.savings`."""


class AdminView(msgspec.Struct, frozen=True):
    """`GET /api/snapshot`: everything the dashboard shows."""

    gateway: GatewayView
    snapshot: Snapshot
    experiments: tuple[ExperimentView, ...] = ()
    shadows: tuple[ShadowSummary, ...] = ()


@routes.get("/metrics")
async def _metrics(gateway: TheGateway) -> Response:
    metrics = registry(await whole_report(gateway))
    return Response(generate_latest(metrics), media_type=CONTENT_TYPE_LATEST)


@routes.get("/api/snapshot")
async def _snapshot(gateway: TheGateway) -> Response:
    return json_response(await encoded_view(gateway))


@routes.get("/api/events")
async def _events(gateway: TheGateway) -> StreamingResponse:
    return StreamingResponse(_snapshots(gateway), media_type="text/event-stream")


@routes.get("/api/requests")
async def _requests(gateway: TheGateway, limit: int = 100) -> Response:
    return json_response(await recent_requests(gateway, min(max(limit, 1), 1000)))


@routes.get("/api/requests/{request_id}")
async def _request(gateway: TheGateway, request_id: str) -> Response:
    told = await request_told(gateway, request_id)
    if told is None:
        message = f"request `{request_id}` is not among the recent ones"
        raise bad_request(message, "request_id", "request_not_found", 404)
    return json_response(told)


@routes.get("/api/shadows")
async def _shadows(gateway: TheGateway) -> Response:
    report = await whole_report(gateway)
    return json_response(msgspec.json.encode(report.shadows))


@routes.post("/api/explain", openapi_extra={"requestBody": _ANY_BODY})
async def _explain(
    gateway: TheGateway, request: Request, endpoint: str = "/v1/chat/completions", tenant: str | None = None
) -> Response:
    marks = gateway.experiments.marks(dict(reversed(request.headers.raw)))
    explanation = await explain(gateway, endpoint, await request.body(), tenant, marks)
    return json_response(msgspec.json.encode(explanation))


async def encoded_view(gateway: Gateway) -> bytes:
    """The JSON of `/api/snapshot` and of each event."""
    report = await whole_report(gateway)
    snapshot = report.snapshot
    gpus = {pool.name: pool.gpus_per_replica for pool in gateway.config.pools}
    view = GatewayView(
        version=__version__,
        uptime_s=time.time() - gateway.started_at,
        notices=report.notices,
        warnings=report.warnings,
        feeds=report.feeds,
        workers=report.workers,
        sharing=report.sharing,
        tenants=report.tenants,
        changes=report.changes,
        advice=tuple(advise(snapshot, pool.name) for pool in snapshot.pools),
        gpus=gpus,
        skipped_gpu_s=skipped_by_replica(snapshot, gpus),
    )
    experiments = views(gateway.experiments.trials, snapshot.exposures, report.headlines)
    shadows = tuple(one.summary() for one in report.shadows)
    return msgspec.json.encode(AdminView(view, snapshot, experiments, shadows))


async def _snapshots(gateway: Gateway) -> AsyncIterator[bytes]:
    while not gateway.closing:
        yield b"data: " + await _shared_view(gateway) + b"\n\n"
        await asyncio.sleep(EVENTS_EVERY_S)


async def _shared_view(gateway: Gateway) -> bytes:
    """One view a second for all who listen, and none while nobody does."""
    now = time.monotonic()
    if gateway.shown is None or now - gateway.shown[0] >= EVENTS_EVERY_S - CLOSE_S:
        gateway.shown = now, asyncio.create_task(encoded_view(gateway))
    return await asyncio.shield(gateway.shown[1])
