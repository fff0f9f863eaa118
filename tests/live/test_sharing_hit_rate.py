"""Two gateways that share over Redis hit as often as one that serves all."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import httpx
import pytest
from conversations import Shape, Turns
from gateways import client, gateway_of
from redis_server import RedisServer

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings

MODEL = "deepseek-v4-flash"
SHAPE = Shape(sessions=60, turns=5, systems=4, system_words=400, document_words=600, live_sessions=24)
AT_A_TIME = 6
THINK_S = 0.1
"""Between an answer and the next question; longer than news takes to the other gateway, shorter than people take."""


async def hit_rate(gateways: int, redis_url: str | None) -> float:
    """Cached tokens by the engines' count over prompt tokens; each session's turns go to the gateways in turn."""
    async with AsyncExitStack() as stack:
        settings = SimulatorSettings(model=MODEL, speed=100, block_tokens=64, kv_tokens=24_000, context_tokens=16_384)
        urls = [await stack.enter_async_context(serving(settings)) for _ in range(3)]
        pool = {"name": "p", "engine": "vllm", "model": MODEL, "replicas": urls}
        tables = {"state": {"redis_url": redis_url}} if redis_url else {}
        runs = [await stack.enter_async_context(gateway_of([pool], limit_s=120, **tables)) for _ in range(gateways)]
        clients = [await stack.enter_async_context(client(run)) for run in runs]
        usages = await served(clients)
    return sum(cached for cached, _ in usages) / sum(prompt for _, prompt in usages)


async def served(clients: Sequence[httpx.AsyncClient]) -> list[tuple[int, int]]:
    turns, usages = Turns(SHAPE, seed=3), []

    async def one_after_the_other() -> None:
        while session := turns.next():
            http = clients[session.turns_left % len(clients)]
            body = {"model": MODEL, "messages": session.messages, "max_tokens": 30}
            answer = await http.post("/v1/chat/completions", json=body)
            assert answer.status_code == 200, answer.text
            await asyncio.sleep(THINK_S)
            said = answer.json()
            usage = said["usage"]
            usages.append(((usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0, usage["prompt_tokens"]))
            turns.answered(session, said["choices"][0]["message"]["content"] or "")

    await asyncio.gather(*(one_after_the_other() for _ in range(AT_A_TIME)))
    return usages


@pytest.mark.slow
async def test_two_gateways_hit_as_often_as_one() -> None:
    alone = await hit_rate(1, None)
    apart = await hit_rate(2, None)
    with RedisServer() as server:
        together = await hit_rate(2, server.url)
    rates = f"one {alone:.3f}, two apart {apart:.3f}, two together {together:.3f}"
    assert together > alone - 0.01, rates
    assert alone > apart + 0.02, rates  # the workload shows it
