"""The admin API's read side: dashboard, snapshot, live events, decisions, metrics; does I/O."""

import asyncio
import time
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Final

import msgspec
from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from gateway import __version__
from gateway.errors import bad_request
from gateway.routing.snapshot import Snapshot
from gateway.serving.events.intake import FeedStatus
from gateway.serving.explanation import explain, explain_record
from gateway.serving.framework import TheGateway
from gateway.serving.gateway import Gateway
from gateway.serving.json_response import json_response
from gateway.serving.metrics import registry

EVENTS_EVERY_S: Final = 1.0

routes = APIRouter()


class GatewayView(msgspec.Struct, frozen=True):
    """What the snapshot says of the gateway itself. `warnings` are sentences by replica."""

    version: str
    uptime_s: float
    notices: list[str]
    warnings: dict[str, list[str]]
    feeds: tuple[FeedStatus, ...]


class AdminView(msgspec.Struct, frozen=True):
    """`GET /api/snapshot`: everything the dashboard shows."""

    gateway: GatewayView
    snapshot: Snapshot


@routes.get("/", response_class=HTMLResponse)
async def _dashboard() -> str:
    return files("gateway.serving").joinpath("dashboard.html").read_text(encoding="utf-8")


@routes.get("/metrics")
async def _metrics(gateway: TheGateway) -> Response:
    return Response(generate_latest(registry(gateway)), media_type=CONTENT_TYPE_LATEST)


@routes.get("/api/snapshot")
async def _snapshot(gateway: TheGateway) -> Response:
    return json_response(encoded_view(gateway))


@routes.get("/api/events")
async def _events(gateway: TheGateway) -> StreamingResponse:
    return StreamingResponse(_snapshots(gateway), media_type="text/event-stream")


@routes.get("/api/replicas")
async def _replicas(gateway: TheGateway) -> Response:
    return json_response(msgspec.json.encode(gateway.snapshot().replicas))


@routes.get("/api/pools/{name}/prefill")
async def _prefill(gateway: TheGateway, name: str) -> Response:
    replicas = [replica for replica in gateway.snapshot().replicas if replica.pool == name]
    if not replicas:
        raise bad_request(f"there is no pool `{name}`", "name", "pool_not_found", 404)
    actual = {replica.name: replica.prefill_actual for replica in replicas}
    return json_response(msgspec.json.encode({"desired": replicas[0].prefill_desired, "actual": actual}))


@routes.get("/api/experiments")
async def _experiments(gateway: TheGateway) -> Response:
    return json_response(msgspec.json.encode(gateway.config.experiments))


@routes.get("/api/requests")
async def _requests(gateway: TheGateway, limit: int = 100) -> Response:
    records = gateway.router.recent(min(max(limit, 1), 1000))
    return json_response(msgspec.json.encode([explain_record(record) for record in records]))


@routes.get("/api/requests/{request_id}")
async def _request(gateway: TheGateway, request_id: str) -> Response:
    record = gateway.router.record(request_id)
    if record is None:
        message = f"request `{request_id}` is not among the recent ones"
        raise bad_request(message, "request_id", "request_not_found", 404)
    return json_response(msgspec.json.encode(explain_record(record)))


@routes.post("/api/explain")
async def _explain(gateway: TheGateway, request: Request, endpoint: str = "/v1/chat/completions") -> Response:
    explanation = await explain(gateway, endpoint, await request.body())
    return json_response(msgspec.json.encode(explanation))


def encoded_view(gateway: Gateway) -> bytes:
    """The JSON of `/api/snapshot` and of each event."""
    snapshot = gateway.snapshot()
    view = GatewayView(
        version=__version__,
        uptime_s=time.time() - gateway.started_at,
        notices=gateway.notices(),
        warnings=gateway.warnings(),
        feeds=gateway.feeds.statuses(),
    )
    return msgspec.json.encode(AdminView(view, snapshot))


async def _snapshots(gateway: Gateway) -> AsyncIterator[bytes]:
    while not gateway.closing:
        yield b"data: " + encoded_view(gateway) + b"\n\n"
        await asyncio.sleep(EVENTS_EVERY_S)
