"""A gateway on free ports over the given engines, for tests."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.config import build
from gateway.serving.server import RunningGateway, running


@asynccontextmanager
async def gateway_over(*urls: str, engine: str = "vllm", model: str | None = "m", **tables: Any) -> AsyncIterator:
    """One pool `p` of the URLs; `tables` are further tables of the configuration."""
    pool = {"name": "p", "engine": engine, "replicas": list(urls)} | ({"model": model} if model else {})
    async with gateway_of([pool], **tables) as run:
        yield run


@asynccontextmanager
async def gateway_of(pools: Sequence[dict[str, Any]], **tables: Any) -> AsyncIterator[RunningGateway]:
    server = {"port": 0, "admin_port": 0} | tables.pop("server", {})
    async with running(build({"pools": list(pools), "server": server, **tables}), seed=1) as run:
        yield run


def client(run: RunningGateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=20)


def admin(run: RunningGateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=run.admin_url, trust_env=False, timeout=20)


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def nothing_is_booked(run: RunningGateway) -> bool:
    snapshot = run.gateway.snapshot()
    return all(replica.inflight == 0 and replica.wait_ms == 0 for replica in snapshot.replicas) and not (
        run.gateway.live_ids
    )


def outcomes(run: RunningGateway) -> dict[str, int]:
    """Ended requests by outcome, over all series."""
    totals: dict[str, int] = {}
    for series in run.gateway.snapshot().series:
        for outcome, count in series.outcomes.items():
            totals[outcome] = totals.get(outcome, 0) + count
    return totals
