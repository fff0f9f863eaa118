"""`GET /api/history`: figures over time, of all, of each pool, or of each replica; does I/O."""

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from gateway.errors import GatewayError, Origin, bad_request
from gateway.routing.histogram import SECONDS, bucket_quantile
from gateway.serving.history.history import History
from gateway.serving.history.store import RESOLUTIONS, Slice
from gateway.serving.history.sums import Place, Sums, added
from gateway.serving.json_response import json_response

MOST_SLICES = 1500

routes = APIRouter()


class Figures(msgspec.Struct, frozen=True):
    """Sums of some time, as shown. `at`: Unix epoch, when it began; times to first token in seconds, None of none."""

    at: int
    requests: int
    failed: int
    refused: int
    prompt_tokens: int
    completion_tokens: int
    available_tokens: int
    routed_tokens: int
    delivered_tokens: int
    index_loss_tokens: int
    index_gain_tokens: int
    skipped_gpu_s: float
    first_tokens: int
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None


class Group(msgspec.Struct, frozen=True):
    """One pool or replica over time; both "" for all. `total` is of the whole time asked for."""

    pool: str
    replica: str
    total: Figures
    slices: list[Figures]


class HistoryView(msgspec.Struct, frozen=True):
    """The answer. Slices without requests are left out."""

    resolution_s: int
    since: int
    now: float
    groups: list[Group]


def _history_of(request: Request) -> History:
    history: History = request.app.state.history
    return history


@routes.get("/api/history")
async def _history(
    history: Annotated[History, Depends(_history_of)],
    since: float = -3600.0,
    resolution: int | None = None,
    by: Literal["all", "pool", "replica"] = "pool",
) -> Response:
    """`since`: seconds since the Unix epoch, or, below 0, before now. `resolution`: 10, 60 or 3600, by default the
    finest that is kept for so long and gives no more than so many slices. `by` adds groups to that of all.
    """
    if not math.isfinite(since):
        raise bad_request("since must be a number of seconds", "since")
    now = time.time()
    start = int(min(max(now + since if since < 0 else since, 0), now))
    known = [one.seconds for one in RESOLUTIONS]
    if resolution is not None and resolution not in known:
        raise bad_request(f"resolution must be one of {known}", "resolution")
    chosen = resolution or _finest(now - start)
    start = start // chosen * chosen
    try:
        slices = await history.read(start, chosen)
    except sqlite3.Error as error:
        message = f"the history cannot be read: {error}"
        raise GatewayError(message, status=503, origin=Origin.GATEWAY, type="service_unavailable") from error
    return json_response(await asyncio.to_thread(_told, HistoryView(chosen, start, now, []), slices, by))


def _told(view: HistoryView, slices: list[Slice], by: str) -> bytes:
    """Off the event loop, as there may be many."""
    return msgspec.json.encode(msgspec.structs.replace(view, groups=_groups(view.since, slices, by)))


def _finest(span_s: float) -> int:
    for one in RESOLUTIONS[:-1]:
        if span_s <= min(one.kept_s, one.seconds * MOST_SLICES):
            return one.seconds
    return RESOLUTIONS[-1].seconds


def _groups(start: int, slices: list[Slice], by: str) -> list[Group]:
    groups = [_group(Place("", ""), start, slices)]
    if by == "all":
        return groups
    taken = [one for one in slices if one.place.replica]
    groups += _grouped(start, taken, lambda place: Place(place.pool, ""))
    return groups + _grouped(start, taken, lambda place: place) if by == "replica" else groups


def _grouped(start: int, slices: Iterable[Slice], key: Callable[[Place], Place]) -> list[Group]:
    parts: dict[Place, list[Slice]] = {}
    for one in slices:
        parts.setdefault(key(one.place), []).append(one)
    return [_group(place, start, parts[place]) for place in sorted(parts)]


def _group(place: Place, start: int, slices: list[Slice]) -> Group:
    moments: dict[int, list[Sums]] = {}
    for one in slices:
        moments.setdefault(one.at, []).append(one.sums)
    each = {at: added(parts) for at, parts in moments.items()}
    total = added(list(each.values())) if each else Sums()
    return Group(place.pool, place.replica, _figures(start, total), [_figures(at, one) for at, one in each.items()])


def _figures(at: int, sums: Sums) -> Figures:
    same = {name: getattr(sums, name) for name in Figures.__struct_fields__ if name in Sums.__struct_fields__}
    p50, p90, p99 = (bucket_quantile(SECONDS, sums.ttft, share) for share in (0.5, 0.9, 0.99))
    return Figures(at=at, **same, first_tokens=sum(sums.ttft), ttft_p50_s=p50, ttft_p90_s=p90, ttft_p99_s=p99)
