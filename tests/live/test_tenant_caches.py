"""Tenants over simulated engines, which cache as real ones do: nobody hits what another tenant left."""

import asyncio
from contextlib import AsyncExitStack
from random import Random
from typing import Any

import httpx
import pytest
from conversations import sentence
from gateways import client, gateway_of, until
from tenants import bearer, tenant

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings

MODEL = "deepseek-v4-flash"
TENANTS = [tenant("ann"), tenant("bob"), tenant("g1", salt_group="g"), tenant("g2", salt_group="g")]
PROMPT = sentence(Random(9), 900)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2},
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 2},
    "/v1/responses": {"input": PROMPT, "max_output_tokens": 16},
}


async def ask(http: httpx.AsyncClient, path: str, name: str) -> tuple[int, int]:
    """Cached tokens, predicted and by the engine's word."""
    answer = await http.post(path, json={"model": MODEL, **BODIES[path]}, headers=bearer(name))
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    details = usage.get("prompt_tokens_details") or usage.get("input_tokens_details") or {}
    return int(answer.headers["x-prefixgate-predicted-cached-tokens"]), details.get("cached_tokens") or 0


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("tokens", ["none", "engine"])
@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_no_cache_is_shared_but_within_a_group(dialect: str, tokens: str, path: str) -> None:
    events = {"kv_events_port": 0, "kv_events_replay_port": 0} if tokens == "engine" else {}
    settings = SimulatorSettings(dialect=dialect, model=MODEL, speed=400, block_tokens=64, **events)  # type: ignore[arg-type]
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(serving(settings))
        pool = {"name": "p", "engine": dialect, "model": MODEL, "replicas": [url], "tokens": tokens}
        run = await stack.enter_async_context(
            gateway_of([pool], tenants=TENANTS, polling={"interval_s": 0.2}, limit_s=90)
        )
        http = await stack.enter_async_context(client(run))
        if events:
            await until(lambda: all(view.cache.source == "events" for view in run.gateway.snapshot().replicas))
        for name in ("ann", "bob", "g1"):
            assert await ask(http, path, name) == (0, 0), f"{name}'s first request"
        _, of_group = await ask(http, path, "g2")
        assert of_group > 256
        for name in ("ann", "bob", "g1", "g2"):
            async with asyncio.timeout(20):
                while (found := await ask(http, path, name))[0] == 0:  # noqa: ASYNC110 - events take their time
                    await asyncio.sleep(0.05)
            predicted, cached = found
            assert cached == of_group
            assert abs(predicted - cached) <= 128
