"""How many connections a port takes, and what one too many is told."""

import asyncio
from contextlib import AsyncExitStack

import pytest
from fake_engine import DONE, fake_engine, frame, held_stream, usage_frame
from gateways import admin, chat_bytes, gateway_over, open_connections, until
from raw_client import raw_client

from gateway.serving.front import connection


async def test_one_connection_too_many_is_told_so_and_closed() -> None:
    gate = asyncio.Event()
    answer = held_stream(gate, frame("a"), after=(usage_frame(3, 0), DONE))
    async with fake_engine(answer) as engine, gateway_over(engine.url, server={"max_connections": 3}) as run:
        async with AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(raw_client(run.url)) for _ in range(3)]
            for one in clients:
                await one.post(chat_bytes(stream=True))
                assert (await one.head())[0] == 200
            for number in range(3):
                async with raw_client(run.url) as http:
                    if number:  # whether or not it has asked for anything
                        await http.post(chat_bytes())
                    status, headers, _ = await http.answer()
                    assert (status, headers["retry-after"], headers["connection"]) == (503, "1", "close")
                    assert await http.rest() == b""
            async with admin(run) as http:
                assert (await http.get("/api/snapshot")).status_code == 200, "operators have a port of their own"
            gate.set()
            for one in clients:
                await one.chunk()
                await one.chunk()
            assert len(engine.requests) == 3
        await until(lambda: open_connections(run) == 0)
        async with raw_client(run.url) as http:
            await http.post(chat_bytes())
            assert (await http.head())[0] == 200


async def test_when_even_those_are_too_many_they_are_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "LINGER_S", 60.0)
    async with fake_engine() as engine, gateway_over(engine.url, server={"max_connections": 2}) as run:
        async with AsyncExitStack() as stack:
            first = [await stack.enter_async_context(raw_client(run.url)) for _ in range(2)]
            for one in first:
                await one.post(chat_bytes())
                assert (await one.answer())[0] == 200
            for _ in range(2):
                told = await stack.enter_async_context(raw_client(run.url))
                assert (await told.answer())[0] == 503
            for _ in range(5):
                async with raw_client(run.url) as http:
                    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                        await http.head()
            await until(lambda: open_connections(run) == 4)
            for one in first:
                await one.post(chat_bytes())
                assert (await one.answer())[0] == 200
        await until(lambda: open_connections(run) == 0)
