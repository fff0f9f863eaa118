"""Streams pass as they come, at the client's pace and no faster."""

import asyncio
import itertools

from fake_engine import DONE, Request, chunked_head, fake_engine, frame, held_stream, http_chunk
from gateways import chat_bytes, gateway_over, nothing_is_booked, outcomes, until
from raw_client import raw_client


async def test_the_first_frame_is_here_while_the_engine_holds_the_second_back() -> None:
    gate = asyncio.Event()
    answer = held_stream(gate, frame("one"), after=(frame("two"), DONE))
    async with fake_engine(answer) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.post(chat_bytes(stream=True))
        status, headers = await http.head()
        assert (status, headers["content-type"]) == (200, "text/event-stream")
        assert await http.chunk() == frame("one")
        assert not gate.is_set()
        gate.set()
        assert await http.body(headers) == frame("two") + DONE
        await until(lambda: outcomes(run) == {"completed": 1})


async def test_comments_pass_while_the_first_token_is_awaited() -> None:
    gate = asyncio.Event()
    answer = held_stream(gate, b": keep-alive\n\n", after=(frame("one"), DONE))
    async with fake_engine(answer) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.post(chat_bytes(stream=True))
        _, headers = await http.head()
        assert await http.chunk() == b": keep-alive\n\n"
        [series] = run.gateway.snapshot().series
        assert series.histograms["ttft_seconds"].counts == [0] * len(series.histograms["ttft_seconds"].counts)
        gate.set()
        assert await http.body(headers) == frame("one") + DONE


async def test_part_of_a_frame_waits_for_its_rest() -> None:
    gate = asyncio.Event()
    half = len(frame("two")) // 2
    answer = held_stream(gate, frame("one") + frame("two")[:half], after=(frame("two")[half:], DONE))
    async with fake_engine(answer) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.post(chat_bytes(stream=True))
        _, headers = await http.head()
        assert await http.chunk() == frame("one")
        gate.set()
        assert await http.body(headers) == frame("two") + DONE


async def test_a_slow_client_slows_the_engine_down() -> None:
    pieces, piece = 512, frame("x" * 131_072)
    written = itertools.count()
    sent = 0

    async def flood(_request: Request, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(chunked_head())
        for _ in range(pieces):
            writer.write(http_chunk(piece))
            await writer.drain()
            sent = next(written) + 1
        writer.write(http_chunk(DONE) + b"0\r\n\r\n")

    async with fake_engine(flood) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.post(chat_bytes(stream=True))
        _, headers = await http.head()
        before = -1
        while before != sent:  # until it moves no more: sockets, and what we hold, are full
            before = sent
            await asyncio.sleep(0.3)
        assert sent < pieces / 2
        body = await http.body(headers)
        assert len(body) == pieces * len(piece) + len(DONE)
        assert body.endswith(piece + DONE)
        await until(lambda: outcomes(run) == {"completed": 1})
        assert nothing_is_booked(run)


async def test_a_large_plain_reply_to_a_slow_client_is_whole() -> None:
    reply = b'{"a":"' + b"x" * 20_000_000 + b'"}'
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(reply)

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(head + reply)

    async with fake_engine(answer) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.post(chat_bytes())
        _, headers = await http.head()
        await asyncio.sleep(0.1)
        assert await http.body(headers) == reply
