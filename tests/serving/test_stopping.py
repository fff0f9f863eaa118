"""A gateway that stops takes no more, and lets what it has begun come to its end."""

import asyncio

import httpx
from fake_engine import DONE, fake_engine, frame, held_stream
from gateways import chat_bytes, gateway_over, outcomes, until, until_refused
from raw_client import raw_client


async def test_a_stream_in_flight_is_finished() -> None:
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(frame("two"), DONE))
    async with (
        fake_engine(answers) as engine,
        gateway_over(engine.url) as run,
        raw_client(run.url) as http,
    ):
        await http.post(chat_bytes(stream=True))
        _, headers = await http.head()
        assert await http.chunk() == frame("one")
        run.stop()
        await until_refused(run.url)
        gate.set()
        assert await http.body(headers) == frame("two") + DONE
        await until(lambda: outcomes(run) == {"completed": 1})


async def test_events_end_when_the_gateway_stops() -> None:
    async with (
        fake_engine() as engine,
        gateway_over(engine.url) as run,
        httpx.AsyncClient(base_url=run.admin_url, trust_env=False) as http,
        http.stream("GET", "/api/events") as events,
    ):
        lines = events.aiter_lines()
        assert (await anext(lines)).startswith("data: ")
        run.stop()
        rest = [line async for line in lines]
        assert len(rest) < 10
