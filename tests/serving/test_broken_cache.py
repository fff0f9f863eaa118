"""A replica whose prefix cache does not work: found by its answers, told everywhere, routed around."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from fake_engine import Answer, FakeEngine, fake_engine, whole
from gateways import admin, client, gateway_over

from gateway.cli import run as command_line

PROMPTS = [f"{number} " + "a prompt that should be cached " * 150 for number in range(12)]


def answer(cached: int) -> Answer:
    usage = {"prompt_tokens": 1200, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached}}
    choices = [{"index": 0, "message": {"role": "assistant", "content": "x"}, "finish_reason": "stop"}]
    body = {"id": "c", "object": "chat.completion", "model": "m", "choices": choices, "usage": usage}
    return whole(json.dumps(body).encode())


async def ask_twice(http: httpx.AsyncClient, engine: FakeEngine, cached: int, prompts: list[str]) -> list[int]:
    """Each prompt twice, `cached` tokens reported the second time; what was predicted then."""
    predicted = []
    for text in prompts:
        for again in (0, cached):
            engine.answer = answer(again)
            body = {"model": "m", "messages": [{"role": "user", "content": text}]}
            said = await http.post("/v1/chat/completions", json=body)
            assert said.status_code == 200
        predicted.append(int(said.headers["x-prefixgate-predicted-cached-tokens"]))
    return predicted


async def doubts(page: httpx.AsyncClient) -> list[str]:
    """What the dashboard shows of the replica's cache."""
    warnings = (await page.get("/api/snapshot")).json()["gateway"]["warnings"]["p-0"]
    return [warning for warning in warnings if "prefix cache seems broken" in warning]


async def test_a_broken_cache_is_told_with_its_evidence_and_routed_around(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, client(run) as http, admin(run) as page:
        predicted = await ask_twice(http, engine, 0, PROMPTS)
        assert predicted[0] > 500
        assert predicted[-1] == 0, "no more is expected of it"
        (warning,) = await doubts(page)
        assert "last 10 requests, 0 were" in warning
        assert 'prefixgate_cache_broken{model="m",pool="p",replica="p-0"} 1.0' in (await page.get("/metrics")).text
        config = tmp_path / "gateway.toml"
        port = run.admin_url.rsplit(":", 1)[1]
        config.write_text(
            f'[server]\nadmin_port = {port}\n[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = ["{engine.url}"]\n'
        )
        assert await asyncio.to_thread(command_line, ["check", "--config", str(config)]) == 0
        assert "prefix cache seems broken" in capsys.readouterr().out
        await ask_twice(http, engine, 1100, ["fresh " + text for text in PROMPTS[:4]])
        assert await doubts(page) == []
        engine.answer = answer(1100)
        body = {"model": "m", "messages": [{"role": "user", "content": "fresh " + PROMPTS[0]}]}
        said = await http.post("/v1/chat/completions", json=body)
        assert int(said.headers["x-prefixgate-predicted-cached-tokens"]) > 500


async def test_what_differs_from_our_tokens_is_said_once() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        run.gateway.token_differences["p-0"] = ["a sample becomes other tokens"]
        assert run.gateway.warnings(run.gateway.snapshot())["p-0"].count("a sample becomes other tokens") == 1
