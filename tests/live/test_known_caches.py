"""What is known of caches over simulated engines of both dialects: events, the engines' own tokens, salts, resets."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import product
from random import Random
from typing import Any

import httpx
import pytest
from conversations import Shape, Turns, sentence
from gateways import admin, client, gateway_of

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.serving.server import RunningGateway

MODEL = "deepseek-v4-flash"
KINDS = list(product(("vllm", "sglang"), ("map", "array")))


@asynccontextmanager
async def knowing(dialect: str, encoding: str = "map", **pool: Any) -> AsyncIterator[tuple[RunningGateway, list[str]]]:
    """Two replicas with small caches that publish events, and a gateway that counts in their tokens."""
    async with AsyncExitStack() as stack:
        settings = SimulatorSettings(
            dialect=dialect,  # type: ignore[arg-type]
            model=MODEL,
            speed=400,
            block_tokens=64,
            kv_tokens=9_000,
            context_tokens=8192,
            kv_events_port=0,
            kv_events_replay_port=0,
            kv_event_encoding=encoding,  # type: ignore[arg-type]
        )
        urls = [await stack.enter_async_context(serving(settings)) for _ in range(2)]
        table = {"name": "p", "engine": dialect, "model": MODEL, "replicas": urls, "tokens": "engine", **pool}
        polling = {"interval_s": 0.2}
        run = await stack.enter_async_context(gateway_of([table], polling=polling, limit_s=90))
        await until(lambda: all(view.cache.source == "events" for view in run.gateway.snapshot().replicas))
        yield run, urls


async def until(what: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not what():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def heard(run: RunningGateway, messages: Any, prompt: int) -> None:
    """Until events have told of the whole prompt; no longer than they may take on a busy machine."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2), admin(run) as http:
            while True:
                told = (await http.post("/api/explain", json={"model": MODEL, "messages": messages})).json()
                if max(row["confirmed_tokens"] for row in told["candidates"]) >= (prompt - 1) // 64 * 64:
                    return


async def ask(http: httpx.AsyncClient, messages: Any, replica: str = "", **more: Any) -> tuple[int, int, int, str]:
    """One request; tokens predicted and delivered from cache, prompt tokens, and the answer."""
    headers = {"x-prefixgate-replica": replica} if replica else {}
    body = {"model": MODEL, "messages": messages, "max_tokens": 40, **more}
    answer = await http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    usage = said["usage"]
    cached = (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0
    predicted = int(answer.headers["x-prefixgate-predicted-cached-tokens"])
    return predicted, cached, usage["prompt_tokens"], said["choices"][0]["message"]["content"] or ""


@pytest.mark.parametrize(("dialect", "encoding"), KINDS)
async def test_predictions_are_what_engines_deliver(dialect: str, encoding: str) -> None:
    shape = Shape(sessions=24, turns=4, systems=3, system_words=400, document_words=700, live_sessions=12)
    turns, rows = Turns(shape, seed=5), []
    async with knowing(dialect, encoding) as (run, _urls), client(run) as http:
        while session := turns.next():
            predicted, cached, prompt, text = await ask(http, session.messages)
            rows.append((predicted, cached, prompt))
            await heard(run, session.messages, prompt)
            turns.answered(session, text)
        views = run.gateway.snapshot().replicas
    assert len(rows) == 96
    assert sum(prompt - cached for _, cached, prompt in rows) > 2 * 2 * 9_000, "too little was evicted"
    assert sum(abs(predicted - cached) <= 64 for predicted, cached, _ in rows) >= 95
    assert sum(abs(predicted - cached) for predicted, cached, _ in rows) <= 0.005 * sum(row[2] for row in rows)
    assert all(view.cache.counted_in == "blocks of 64 tokens" for view in views)
    assert all(view.cache.stated_blocks > 0 for view in views)


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_salted_prompts_are_not_taken_for_plain_ones(dialect: str) -> None:
    messages = [{"role": "user", "content": sentence(Random(1), 600)}]
    async with knowing(dialect) as (run, _urls), client(run) as http:
        assert (await ask(http, messages, "p-0", cache_salt="a"))[:2] == (0, 0)
        assert (await ask(http, messages, "p-0"))[:2] == (0, 0)
        _, cached, prompt, _ = await ask(http, messages, "p-0", cache_salt="b")
        assert cached == 0
        await heard(run, messages, prompt)
        for more in ({"cache_salt": "a"}, {}, {"cache_salt": "b"}):
            predicted, cached, prompt, _ = await ask(http, messages, "p-0", **more)
            assert predicted == cached > prompt - 128


@pytest.mark.parametrize(("dialect", "path"), [("vllm", "/reset_prefix_cache"), ("sglang", "/flush_cache")])
async def test_a_reset_leaves_nothing_believed(dialect: str, path: str) -> None:
    messages = [{"role": "user", "content": sentence(Random(2), 600)}]
    async with knowing(dialect) as (run, urls), client(run) as http:
        _, _, prompt, _ = await ask(http, messages, "p-0")
        await heard(run, messages, prompt)
        predicted, cached, _, _ = await ask(http, messages, "p-0")
        assert predicted == cached > 0
        async with httpx.AsyncClient(trust_env=False) as engine:
            (await engine.post(urls[0] + path)).raise_for_status()
        await asyncio.sleep(0.5)
        predicted, cached, prompt, _ = await ask(http, messages, "p-0")
        assert (predicted, cached) == (0, 0)
        await heard(run, messages, prompt)
        predicted, cached, _, _ = await ask(http, messages, "p-0")
        assert predicted == cached > 0


async def test_lost_messages_are_made_up_for() -> None:
    async with knowing("vllm") as (run, urls), client(run) as http:
        async with httpx.AsyncClient(trust_env=False) as engine:
            (await engine.post(urls[0] + "/sim/fault", json={"lose_event_batches": 1000})).raise_for_status()
        texts = [[{"role": "user", "content": sentence(Random(seed), 600)}] for seed in range(6)]
        for messages in texts:
            await ask(http, messages, "p-0")
        await asyncio.sleep(1)
        for messages in texts:
            predicted, cached, _, _ = await ask(http, messages, "p-0")
            assert predicted == cached > 0
        (status,) = [feed for feed in run.gateway.feeds.statuses() if feed.replica == "p-0"]
        assert status.state == "live"
        assert status.replays_done > 1


async def test_the_waterfall_is_told_by_tenant_and_family() -> None:
    messages = [{"role": "user", "content": sentence(Random(3), 600)}]
    async with knowing("vllm") as (run, _urls), client(run) as http:
        http.headers["authorization"] = "Bearer secret-key-of-a-tenant"
        for _ in range(3):
            await ask(http, messages)
        async with admin(run) as page:
            view = (await page.get("/api/snapshot")).json()
            metrics = (await page.get("/metrics")).text
    (tenant,) = view["snapshot"]["tenants"]
    (family,) = view["snapshot"]["families"]
    delivered = sum(one["delivered_tokens"] for one in view["snapshot"]["series"])
    assert tenant["name"].startswith("key-")
    assert "secret-key" not in str(view) + metrics
    for fall in (tenant, family):
        assert fall["requests"] == 3
        assert fall["available_tokens"] - fall["routing_loss_tokens"] == fall["routed_tokens"]
        gained = fall["index_gain_tokens"] - fall["index_loss_tokens"]
        assert fall["routed_tokens"] + gained == fall["delivered_tokens"] > 0
    assert tenant["delivered_tokens"] == delivered == family["delivered_tokens"]
    assert f'prefixgate_tenant_cached_tokens_total{{kind="delivered",tenant="{tenant["name"]}"}}' in metrics
    assert 'prefixgate_cache_events_live{model="deepseek-v4-flash",pool="p",replica="p-0"} 1.0' in metrics
