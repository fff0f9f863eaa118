"""Warm hand-off over simulated engines: after a restart or before a drain, the next request finds its prefix cached."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest
from fake_engine import Answer, fake_engine, reset, whole
from gateways import admin, chat, client, gateway_of, nothing_is_booked, openai_error, outcomes, post, until

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.routing.chain import PrefixChain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import AttemptFailed
from gateway.serving.server import RunningGateway

MODEL = "deepseek-v4-flash"
FAMILIES = 3


@asynccontextmanager
async def simulated(dialect: str, port: int = 0) -> AsyncIterator[str]:
    settings = SimulatorSettings(dialect=dialect, model=MODEL, speed=200, block_tokens=64)  # type: ignore[arg-type]
    async with serving(replace(settings, port=port)) as url:
        yield url


def table(dialect: str, urls: list[str], **more: Any) -> dict[str, Any]:
    return {"name": "p", "engine": dialect, "model": MODEL, "replicas": urls, "warm_families": FAMILIES, **more}


async def ask(http: httpx.AsyncClient, family: int, number: int, replica: str = "", **more: Any) -> tuple[int, int]:
    """One request of a family; cached and prompt tokens by the engine's word."""
    text = f"family {family}: " + "the same long document " * 150
    messages = [{"role": "system", "content": text}, {"role": "user", "content": f"question {number}"}]
    headers = {"x-prefixgate-replica": replica} if replica else {}
    body = {"model": MODEL, "messages": messages, "max_tokens": 3, **more}
    answer = await http.post("/v1/chat/completions", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    usage = answer.json()["usage"]
    return (usage["prompt_tokens_details"] or {}).get("cached_tokens") or 0, usage["prompt_tokens"]


def state(run: RunningGateway, name: str) -> str:
    return next((str(one.state) for one in run.gateway.snapshot().replicas if one.name == name), "removed")


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
async def test_a_restarted_replica_is_warm_for_its_first_client(dialect: str) -> None:
    async with AsyncExitStack() as stack:
        first = AsyncExitStack()
        url = await first.enter_async_context(simulated(dialect))
        polling = {"interval_s": 0.1}
        run = await stack.enter_async_context(gateway_of([table(dialect, [url])], polling=polling, limit_s=60))
        http = await stack.enter_async_context(client(run))
        for number in range(3):
            for family in range(FAMILIES):
                await ask(http, family, number)
        cold = await ask(http, 99, 0)  # used once: not among the hottest
        assert cold[0] < 64
        counted = run.gateway.snapshot().series
        await asyncio.sleep(1.1)  # engines tell when they were started, and a second is no difference
        await first.aclose()
        await until(lambda: state(run, "p-0") == "down")
        await stack.enter_async_context(simulated(dialect, int(url.rsplit(":", 1)[1])))
        gateway = run.gateway
        await until(lambda: run.warmer.warmed == FAMILIES and nothing_is_booked(run))
        assert [one.prompt_tokens for one in gateway.snapshot().series] == [one.prompt_tokens for one in counted]
        assert outcomes(run) == {"completed": 10}
        assert len(gateway.router.recent(100)) == 10
        for family in range(FAMILIES):
            cached, prompt = await ask(http, family, 100)
            assert cached >= 0.8 * prompt, family
        assert (await ask(http, 99, 1))[0] < 64


async def test_before_a_drain_others_are_warmed() -> None:
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(simulated("vllm")) for _ in range(2)]
        run = await stack.enter_async_context(gateway_of([table("vllm", urls)], limit_s=60))
        http = await stack.enter_async_context(client(run))
        operator = await stack.enter_async_context(admin(run))
        for number in range(2):
            for family in range(FAMILIES):
                await ask(http, family, number, "p-0")
        told = (await operator.post("/api/replicas/p-0/drain")).json()
        assert (told["state"], told["warmed"]) == ("draining", FAMILIES)
        for family in range(FAMILIES):
            cached, prompt = await ask(http, family, 100)
            assert cached >= 0.8 * prompt, family
        again = (await operator.delete("/api/replicas/p-0")).json()
        assert (again["state"], again["warmed"]) == ("removed", None)
        assert (await operator.post("/api/replicas/p-1/drain?warm=false")).json()["warmed"] is None


async def test_a_removal_warms_others_too_and_what_is_warm_already_is_left() -> None:
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(simulated("vllm")) for _ in range(2)]
        run = await stack.enter_async_context(gateway_of([table("vllm", urls)], limit_s=60))
        http = await stack.enter_async_context(client(run))
        for family in range(FAMILIES):
            for replica in ("p-0", "p-1") if family == 0 else ("p-0",):
                await ask(http, family, 0, replica)
        async with admin(run) as operator:
            told = (await operator.delete("/api/replicas/p-0")).json()
        assert (told["state"], told["warmed"]) == ("removed", FAMILIES - 1)


async def test_where_nothing_is_kept_there_is_nothing_to_warm() -> None:
    async with (
        simulated("vllm") as url,
        gateway_of([table("vllm", [url], warm_families=0)]) as run,
        client(run) as http,
        admin(run) as operator,
    ):
        await ask(http, 0, 0)
        assert run.gateway.hot is None
        answer = await operator.post("/api/replicas/p-0/drain?warm=true")
        assert answer.status_code == 409
        assert openai_error(answer)["message"] == "the pool `p` keeps no hot prefixes: set its warm_families"
        assert (await operator.post("/api/replicas/p-0/drain")).json()["warmed"] is None


async def test_no_one_is_warmed_while_busy() -> None:
    """A replica with a queue is left to its clients: the prefill waits until that is gone, and then is done."""
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(simulated("vllm")) for _ in range(2)]
        run = await stack.enter_async_context(gateway_of([table("vllm", urls)], limit_s=60))
        http = await stack.enter_async_context(client(run))
        await ask(http, 0, 0, "p-0")
        gateway = run.gateway
        long = RouteRequest("long", MODEL, PrefixChain((), 4_000_000), True, gateway.clock(), pinned_replica="p-1")
        busy = gateway.router.route(long, gateway.clock())
        assert isinstance(busy, Decision)
        warming = asyncio.create_task(run.warmer.away_from(gateway.backends["p-0"]))
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert not warming.done()
        gateway.observe(AttemptFailed(busy.ticket, gateway.clock()))
        assert await warming == 1


@pytest.mark.parametrize("answer", [whole(b'{"error": {}}', 500), whole(b"nothing"), reset()])
async def test_a_prefill_that_fails_leaves_no_trace(answer: Answer) -> None:
    async with (
        fake_engine() as one,
        fake_engine(answer) as two,
        gateway_of([table("vllm", [one.url, two.url], model="m")]) as run,
    ):
        body = chat("a long prompt " * 100)
        assert (await post(run, body, headers={"x-prefixgate-replica": "p-0"})).status_code == 200
        before = outcomes(run)
        assert await run.warmer.away_from(run.gateway.backends["p-0"]) == 0
        assert len(two.requests) == 1
        assert json.loads(two.requests[0].body) == {**body, "max_tokens": 1, "stream": False}
        assert nothing_is_booked(run)
        assert outcomes(run) == before
