"""How far off predictions are against two real vLLM servers whose caches overflow; prints the figures."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from conversations import Session, Shape, Turns
from real_vllm import KV_BLOCKS, RealVllm, over

from gateway.serving.server import RunningGateway

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

BLOCK = 128
SHAPE = Shape(sessions=64, turns=5)
"""320 requests; about 64 documents of 1,500 tokens and more against two caches of 40,960 tokens."""


@dataclass(frozen=True)
class Row:
    """One request: tokens of its prompt, predicted and reported as cached."""

    prompt: int
    predicted: int
    delivered: int


async def ask(client: httpx.AsyncClient, session: Session) -> tuple[Row, str]:
    body = {"model": "tiny", "messages": session.messages, "max_tokens": 16, "temperature": 0, "ignore_eos": True}
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    said = answer.json()
    usage = said["usage"]
    row = Row(
        usage["prompt_tokens"],
        int(answer.headers["x-prefixgate-predicted-cached-tokens"]),
        usage["prompt_tokens_details"]["cached_tokens"],
    )
    return row, said["choices"][0]["message"]["content"]


async def replay(run: RunningGateway, concurrency: int, seed: int) -> list[Row]:
    """The workload through the gateway, so many requests at a time."""
    turns, rows = Turns(SHAPE, seed), []
    async with httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=300) as client:

        async def worker() -> None:
            while session := turns.next():
                row, text = await ask(client, session)
                rows.append(row)
                turns.answered(session, text)

        await asyncio.gather(*(worker() for _ in range(concurrency)))
    return rows


def report(title: str, rows: list[Row], took_s: float) -> tuple[float, float]:
    """Print one line; the share of requests within a block, and |predicted - delivered| over prompt tokens."""
    prompt = sum(row.prompt for row in rows)
    within = sum(abs(row.predicted - row.delivered) <= BLOCK for row in rows) / len(rows)
    error = sum(abs(row.predicted - row.delivered) for row in rows) / prompt
    hit_rate = sum(row.delivered for row in rows) / prompt
    print(
        f"\n{title}: {len(rows)} requests, {prompt:,} prompt tokens, hit rate {hit_rate:.1%}; "
        f"within one block {within:.1%}, |predicted - delivered| {error:.2%} of prompt tokens ({took_s:.0f} s)"
    )
    return within, error


Measure = Callable[..., tuple[float, float]]


async def measure(title: str, run: RunningGateway, concurrency: int, seed: int) -> tuple[float, float]:
    start = time.monotonic()
    rows = await replay(run, concurrency, seed)
    assert len(rows) >= 300
    computed = sum(row.prompt - row.delivered for row in rows)
    assert computed > 2 * 2 * KV_BLOCKS * BLOCK, "the caches were filled less than twice: too little was evicted"
    return report(title, rows, time.monotonic() - start)


async def test_with_events_and_tokens_one_at_a_time(knowing: RunningGateway) -> None:
    within, _ = await measure("events + tokenizer, one at a time", knowing, 1, seed=11)
    assert within >= 0.98


async def test_with_events_and_tokens_eight_at_a_time(knowing: RunningGateway) -> None:
    _, error = await measure("events + tokenizer, 8 at a time", knowing, 8, seed=12)
    assert error <= 0.03


async def test_text_mode_eight_at_a_time(vllms: list[RealVllm]) -> None:
    async with asyncio.timeout(900), over(vllms) as run:
        _, error = await measure("text, 8 at a time", run, 8, seed=13)
    assert error <= 0.12


async def test_text_mode_one_at_a_time(vllms: list[RealVllm]) -> None:
    async with asyncio.timeout(900), over(vllms) as run:
        _, error = await measure("text, one at a time", run, 1, seed=14)
    assert error <= 0.12


async def test_tokens_without_events_eight_at_a_time(vllms: list[RealVllm], folder: Path) -> None:
    pool = {"tokens": f"tokenizer:{folder / 'tiny'}", "events": {"mode": "off"}}
    async with asyncio.timeout(900), over(vllms, **pool) as run:
        _, error = await measure("tokenizer without events, 8 at a time", run, 8, seed=15)
    assert error <= 0.12
