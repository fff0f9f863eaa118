"""Real vLLM: no request is scored on blocks that a reset, a kill or lost messages made stale."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random

import httpx
import pytest
from conversations import sentence
from lossy_events import lossy_events
from real_vllm import RealVllm, over

from gateway.routing.snapshot import ReplicaView
from gateway.serving.server import RunningGateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

BLOCK = 128
INTERVAL_S = 1.0
"""The poll interval of the gateway under test."""


async def ask(url: str, text: str, replica: str | None = None) -> tuple[int, int]:
    """One prompt; tokens predicted and reported as cached."""
    pin = {} if replica is None else {"x-prefixgate-replica": replica}
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}], "max_tokens": 1, "temperature": 0}
    async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=120) as client:
        answer = await client.post("/v1/chat/completions", json=body, headers=pin)
    assert answer.status_code == 200, answer.text
    cached = answer.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
    return int(answer.headers["x-prefixgate-predicted-cached-tokens"]), cached


async def until(what: Callable[[], bool], within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not what():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.05)


def replica(run: RunningGateway, name: str) -> ReplicaView:
    return next(view for view in run.gateway.snapshot().replicas if view.name == name)


def live(run: RunningGateway, *names: str) -> bool:
    return all(replica(run, name).cache.source == "events" for name in names)


def prompt(seed: int, words: int = 500) -> str:
    return sentence(Random(seed), words)


async def heard(run: RunningGateway, text: str) -> None:
    """Until events have told of the prompt, as far as they do within two seconds."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": text}]}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(2), httpx.AsyncClient(base_url=run.admin_url, trust_env=False) as client:
            while True:
                told = (await client.post("/api/explain", json=body)).json()
                if max(row["confirmed_tokens"] for row in told["candidates"]) >= 4 * BLOCK:
                    return


async def warm(run: RunningGateway, seed: int) -> str:
    """A prompt that both replicas hold, and that is predicted exactly."""
    await until(lambda: live(run, "real-0", "real-1"), 30)
    text = prompt(seed)
    for name in ("real-0", "real-1"):
        assert await ask(run.url, text, name) == (0, 0)
        predicted, cached = await ask(run.url, text, name)
        assert predicted == cached >= 4 * BLOCK
    return text


async def test_a_reset_of_an_idle_engine_is_known_within_a_poll(knowing: RunningGateway, vllms: list[RealVllm]) -> None:
    """An idle vLLM publishes nothing until its next step: only its request counters tell."""
    text = await warm(knowing, 1)
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(vllms[0].url + "/reset_prefix_cache")
        assert answer.json() == {"success": True}
    await asyncio.sleep(INTERVAL_S + 0.5)
    assert await ask(knowing.url, text, "real-0") == (0, 0)
    predicted, cached = await ask(knowing.url, text, "real-0")
    assert predicted == cached > 0
    predicted, cached = await ask(knowing.url, text, "real-1")
    assert predicted == cached > 0, "the other replica was not reset"


async def test_a_killed_engine_comes_back_empty(knowing: RunningGateway, vllms: list[RealVllm], folder: Path) -> None:
    text = await warm(knowing, 2)
    vllms[1].kill()
    predicted, cached = await ask(knowing.url, text)  # nobody need know that one is gone
    assert predicted == cached > 0
    await asyncio.to_thread(vllms[1].restart, folder)
    await until(lambda: replica(knowing, "real-1").state == "up", 30)
    await asyncio.sleep(INTERVAL_S)
    assert await ask(knowing.url, text, "real-1") == (0, 0)
    await until(lambda: live(knowing, "real-0", "real-1"), 10)
    predicted, cached = await ask(knowing.url, text, "real-1")
    assert predicted == cached > 0


async def crowd_out(server: RealVllm, requests: int) -> None:
    """So many requests past the gateway, one message of events each, that all that was cached is evicted."""
    slots = asyncio.Semaphore(4)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=300) as client:

        async def one(number: int) -> None:
            async with slots:
                text = f"{number} " + prompt(1000 + number, 220)
                body = {"model": "tiny", "prompt": text, "max_tokens": 1}
                (await client.post("/v1/completions", json=body)).raise_for_status()

        await asyncio.gather(*(one(number) for number in range(requests)))


Check = Callable[[RunningGateway, RealVllm, str], Awaitable[None]]


@pytest.mark.parametrize("replays", [True, False], ids=["with-replay", "without-replay"])
async def test_a_thousand_lost_messages_leave_nothing_stale(vllms: list[RealVllm], folder: Path, replays: bool) -> None:
    server = vllms[0]
    async with lossy_events(*server.event_ports) as relay:
        events = {"port": relay.port, **({"replay_port": relay.replay_port} if replays else {})}
        tokens = f"tokenizer:{folder / 'tiny'}"
        async with asyncio.timeout(600), over([server], tokens=tokens, events=events) as run:
            await until(lambda: live(run, "real-0"), 30)
            text = prompt(3)
            assert await ask(run.url, text) == (0, 0)
            await heard(run, text)
            predicted, cached = await ask(run.url, text)
            assert predicted == cached >= 4 * BLOCK
            relay.lose = 1000
            while relay.lose:
                await crowd_out(server, 300)
            print(f"\nlost {relay.lost} messages, {relay.passed} came through")
            await asyncio.sleep(INTERVAL_S + 0.5)
            assert await ask(run.url, text) == (0, 0), "it was crowded out"
            await heard(run, text)
            predicted, cached = await ask(run.url, text)
            assert predicted == cached >= 4 * BLOCK
            relay.lose = 10**9  # nothing comes after these, so that no number tells that they are missing
            await crowd_out(server, 300)
            await asyncio.sleep(2 * INTERVAL_S + 0.5)
            assert await ask(run.url, text) == (0, 0), "it was crowded out again"
            relay.lose = 0
            other = prompt(4)
            assert await ask(run.url, other) == (0, 0)
            await heard(run, other)
            predicted, cached = await ask(run.url, other)
            assert predicted == cached >= 4 * BLOCK
