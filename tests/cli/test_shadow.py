"""`prefixgate shadow` as it is called, against a gateway that sends copies."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
from gateways import gateway_of
from patience import until
from threaded import in_thread

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.cli import run
from gateway.serving.server import RunningGateway

MODEL = "deepseek-v4-flash"


@asynccontextmanager
async def gateway() -> AsyncIterator[RunningGateway]:
    """Over two simulated engines, one of which gets copies only."""
    common = SimulatorSettings(model=MODEL, speed=50)
    async with serving(replace(common, dialect="vllm")) as one, serving(replace(common, dialect="sglang")) as two:
        pools = [
            {"name": "p", "engine": "vllm", "model": MODEL, "replicas": [one]},
            {"name": "q", "engine": "sglang", "model": MODEL, "replicas": [two], "pinned_only": True},
        ]
        shadow = {"name": "s", "to": "q", "share": 1.0, "compare": "text"}
        async with gateway_of(pools, shadows=[shadow], limit_s=None) as run:
            yield run


@pytest.fixture(scope="module")
def urls() -> Iterator[list[str]]:
    with in_thread(gateway()) as run:
        yield [run.url, run.admin_url]


def ask(urls: list[str], text: str) -> None:
    kwargs = {"thinking": False}
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "stream": True}
    with httpx.Client(trust_env=False, timeout=20) as http:
        answer = http.post(urls[0] + "/v1/chat/completions", json={**body, "chat_template_kwargs": kwargs})
    assert answer.headers["x-prefixgate-pool"] == "p"


def test_what_came_of_copies(urls: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    def told() -> dict[str, object]:
        assert run(["shadow", "--url", urls[1], "--json"]) == 0
        [one] = json.loads(capsys.readouterr().out)
        return dict(one)

    assert told()["ttft"] == "not enough pairs: 0"
    for number in range(12):
        ask(urls, f"question {number} " * 50)
    until(lambda: told()["shadow"]["paired"] == 12 == told()["shadow"]["same"])  # type: ignore[index]
    assert "12 pairs)" in str(told()["ttft"])
    assert run(["shadow", "--url", urls[1]]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "12/12" in shown
    assert "TTFT of copies" in shown


def test_no_gateway_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shadow", "--url", "http://127.0.0.1:1"]) == 1
    assert "no gateway answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_token_that_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shadow", "--token-env", "NO_SUCH_TOKEN"]) == 2
    assert "NO_SUCH_TOKEN is not set" in capsys.readouterr().err
