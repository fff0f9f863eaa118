"""The prefill times that a simulated vLLM reports, from its frames to the curve and to the pages that show it."""

import json
from random import Random
from typing import Any

import httpx
import pytest
from conversations import sentence
from gateways import admin, client, gateway_over, outcomes, until

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings

MODEL = "deepseek-v4-flash"
SPEED = 20.0


def vllm(*, per_request_metrics: bool) -> SimulatorSettings:
    return SimulatorSettings(model=MODEL, speed=SPEED, per_request_metrics=per_request_metrics, kv_tokens=100_000)


async def ask(http: httpx.AsyncClient, words: int, rng: Random, **more: Any) -> httpx.Response:
    """A prompt that nobody has asked before."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": sentence(rng, words)}], "max_tokens": 2, **more}
    answer = await http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    return answer


@pytest.mark.parametrize("streams", [True, False], ids=["stream", "plain"])
async def test_the_curve_is_learned_from_the_engines_own_times(streams: bool) -> None:
    settings, rng = vllm(per_request_metrics=True), Random(5)
    profile = settings.engine_profile.faster(SPEED)
    async with serving(settings) as url, gateway_over(url, model=MODEL) as run, client(run) as http:
        for n in range(80):
            await ask(http, 30 + 190 * n % 3000, rng, stream=streams)
        await until(lambda: outcomes(run) == {"completed": 80})
        (view,) = run.gateway.snapshot().replicas
        async with admin(run) as page:
            metrics = (await page.get("/metrics")).text
            shown = (await page.get("/api/replicas")).json()[0]
    assert view.curve_observations == 80
    for tokens in (500, 2000, 6000):
        predicted = view.curve_base_ms + view.curve_ms_per_token * tokens + view.curve_ms_per_token2 * tokens**2
        assert predicted == pytest.approx(profile.prefill_ms(tokens), rel=0.15)
    assert view.curve_mape is not None
    assert abs(view.curve_bias or 0) <= view.curve_mape
    assert shown["curve_mape"] == view.curve_mape
    assert 'prefixgate_ttft_curve_observations{model="deepseek-v4-flash",pool="p",replica="p-0"} 80.0' in metrics
    assert "prefixgate_ttft_curve_bias{" in metrics


async def test_plain_answers_without_times_teach_no_curve() -> None:
    async with serving(vllm(per_request_metrics=False)) as url, gateway_over(url, model=MODEL) as run:
        async with client(run) as http:
            await ask(http, 500, Random(1))
            await ask(http, 500, Random(2), stream=True)
        await until(lambda: outcomes(run) == {"completed": 2})
        assert run.gateway.router._fleet.replica("p-0").curves[0].observations == 1


async def test_times_reach_the_client_only_with_the_usage_that_it_asked_for() -> None:
    settings = vllm(per_request_metrics=True)
    async with serving(settings) as url, gateway_over(url, model=MODEL) as run, client(run) as http:
        bare = await ask(http, 50, Random(1), stream=True)
        asked = await ask(http, 50, Random(2), stream=True, stream_options={"include_usage": True})
    assert b'"metrics"' not in bare.content
    frames = [json.loads(line[6:]) for line in asked.text.splitlines() if line.startswith("data: {")]
    assert frames[-1]["metrics"]["time_to_first_token_ms"] > 0
