"""A gateway on free ports over the given engines, for tests."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx

from gateway.config import build
from gateway.serving.prefill.launching import Launching
from gateway.serving.server import RunningGateway, running

LIMIT_S = 30
"""A test that takes longer hangs."""


@asynccontextmanager
async def gateway_over(
    *urls: str, engine: str = "vllm", model: str | None = "m", **tables: Any
) -> AsyncIterator[RunningGateway]:
    """One pool `p` of the URLs; `tables` are further tables of the configuration."""
    pool = {"name": "p", "engine": engine, "replicas": list(urls)} | ({"model": model} if model else {})
    async with gateway_of([pool], **tables) as run:
        yield run


@asynccontextmanager
async def gateway_of(
    pools: Sequence[dict[str, Any]],
    *,
    limit_s: float | None = LIMIT_S,
    launching: Launching | None = None,
    **tables: Any,
) -> AsyncIterator[RunningGateway]:
    """The pools, and further tables of the configuration; the block may take `limit_s`.

    Requests do not wait for replicas to come back, unless a `retry` table says so.
    """
    tables["retry"] = {"wait_s": 0} | tables.get("retry", {})
    server = {"port": 0, "admin_port": 0} | tables.pop("server", {})
    log = {"requests": "none"} | tables.pop("log", {})
    config = build({"pools": list(pools), "server": server, "log": log, **tables})
    async with asyncio.timeout(limit_s), running(config, seed=1, launching=launching) as run:
        yield run


def client(run: RunningGateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=20)


def admin(run: RunningGateway) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=run.admin_url, trust_env=False, timeout=20)


def chat(text: str = "hello", **more: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], **more}


def chat_bytes(text: str = "hello", **more: Any) -> bytes:
    return json.dumps(chat(text, **more)).encode()


async def post(
    run: RunningGateway, body: object, path: str = "/v1/chat/completions", headers: dict[str, str] | None = None
) -> httpx.Response:
    """One request from a client of its own; bytes go as they are, anything else as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client(run) as http:
        return await http.post(path, content=content, headers={"content-type": "application/json", **(headers or {})})


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that happens by itself soon."""
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.005)


async def until_refused(url: str) -> None:
    """Wait until a gateway that stops takes no more connections."""
    async with asyncio.timeout(15):
        while True:
            async with httpx.AsyncClient(trust_env=False) as http:
                try:
                    await http.get(url + "/health")
                except httpx.TransportError:
                    return
            await asyncio.sleep(0.01)


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


def retries(run: RunningGateway) -> int:
    """Attempts that were given up for another replica."""
    return sum(series.retries for series in run.gateway.snapshot().series)


def open_connections(run: RunningGateway) -> int:
    """How many clients are connected to the main port."""
    return len(run._servers[0].server_state.connections)


def at_rest(run: RunningGateway) -> bool:
    """Nobody is connected, nothing is booked, and no engine has a connection that is in use."""
    engines = run.gateway.engines
    idle = sum(len(engine.idle) for engine in engines._engines.values())
    return open_connections(run) == 0 and nothing_is_booked(run) and len(engines._open) == idle


def openai_error(answer: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which must have OpenAI's shape, our id, and nothing of our insides."""
    assert answer.status_code >= 400
    assert answer.headers["content-type"] == "application/json"
    assert "Traceback" not in answer.text
    assert '.py"' not in answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]
    assert isinstance(error["type"], str)
    return error
