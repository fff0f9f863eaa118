"""Tenants over a real vLLM: its own count of cached tokens says that nobody hits what another tenant left."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from conversations import sentence
from real_vllm import RealVllm, over
from tenants import APART, bearer, cached_tokens, hits_stay_within_groups

from gateway.serving.server import RunningGateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

MODEL = "tiny"
PROMPT = sentence(Random(4242), 1200)
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 4},
    "/v1/completions": {"prompt": PROMPT, "max_tokens": 4},
    "/v1/responses": {"input": PROMPT, "max_output_tokens": 4},
}


@pytest.fixture(params=["text", "tokens"])
async def guarded(request: pytest.FixtureRequest, vllms: list[RealVllm], folder: Path) -> AsyncIterator[RunningGateway]:
    """A gateway with tenants before one server, which guesses or counts in tokens and listens to events."""
    more = {} if request.param == "text" else {"tokens": f"tokenizer:{folder / 'tiny'}"}
    async with asyncio.timeout(500), over(vllms[:1], {"tenants": APART}, **more) as run:
        yield run


async def ask(http: httpx.AsyncClient, path: str, name: str, **more: Any) -> tuple[int, int]:
    return await cached_tokens(http, path, {"model": MODEL, **BODIES[path], **more}, name)


@pytest.mark.parametrize("path", BODIES)
async def test_no_cache_is_shared_but_within_a_group(guarded: RunningGateway, path: str) -> None:
    async with httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=120) as http:
        of_group = await hits_stay_within_groups(lambda name: ask(http, path, name), limit_s=60, tolerance=256)
        print({"path": path, "cached within a tenant": of_group, "across tenants": 0})


async def test_a_stream_is_salted_too_and_a_forged_salt_is_refused(guarded: RunningGateway) -> None:
    path = "/v1/chat/completions"
    async with httpx.AsyncClient(base_url=guarded.url, trust_env=False, timeout=120) as http:
        body = {"model": MODEL, **BODIES[path], "stream": True}
        streamed = await http.post(path, json=body, headers=bearer("ann"))
        assert streamed.text.endswith("data: [DONE]\n\n")
        assert (await ask(http, path, "bob"))[1] == 0
        assert (await ask(http, path, "ann"))[1] > 256
        forged = await http.post(path, json={**body, "cache_salt": "mine"}, headers=bearer("bob"))
        assert (forged.status_code, forged.json()["error"]["code"]) == (400, "cache_salt_not_allowed")
