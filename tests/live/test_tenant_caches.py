"""Tenants over simulated engines, which cache as real ones do: nobody hits what another tenant left."""

from contextlib import AsyncExitStack
from random import Random
from typing import Any

import pytest
from conversations import sentence
from gateways import client, gateway_of, until
from tenants import APART, cached_tokens, hits_stay_within_groups

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings

MODEL = "deepseek-v4-flash"
PROMPT = sentence(Random(9), 900)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 2},
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 2},
    "/v1/responses": {"input": PROMPT, "max_output_tokens": 16},
}


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
            gateway_of([pool], tenants=APART, polling={"interval_s": 0.2}, limit_s=90)
        )
        http = await stack.enter_async_context(client(run))
        if events:
            await until(lambda: all(view.cache.source == "events" for view in run.gateway.snapshot().replicas))

        async def ask(name: str) -> tuple[int, int]:
            return await cached_tokens(http, path, {"model": MODEL, **BODIES[path]}, name)

        await hits_stay_within_groups(ask, limit_s=20, tolerance=128)
