"""A gateway that stops lets end what has come; when it waits no longer, it says so in words that clients understand."""

import asyncio
import contextlib
import json

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    Request,
    chunked_head,
    fake_engine,
    frame,
    held_stream,
    http_chunk,
    response,
    silence,
)
from gateways import chat_bytes, gateway_over, nothing_is_booked, open_connections, outcomes, until, until_refused
from raw_client import post_head, raw_client

BODY = chat_bytes()
STREAM = chat_bytes(stream=True)


def gated(gate: asyncio.Event):  # type: ignore[no-untyped-def]
    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(response(COMPLETION))

    return answer


async def test_who_is_idle_is_closed_at_once() -> None:
    async with (
        fake_engine() as engine,
        gateway_over(engine.url) as run,
        raw_client(run.url) as fresh,
        raw_client(run.url) as kept,
    ):
        await kept.post(BODY)
        await kept.answer()
        await until(lambda: open_connections(run) == 2)
        run.stop()
        assert await fresh.rest() == b""
        assert await kept.rest() == b""


async def test_half_a_request_may_be_finished() -> None:
    data = post_head(len(BODY)) + BODY
    async with fake_engine() as engine, gateway_over(engine.url) as run, contextlib.AsyncExitStack() as stack:
        points = (5, 60, len(data) - len(BODY), len(data) - 1)
        clients = [await stack.enter_async_context(raw_client(run.url)) for _ in points]
        for http, at in zip(clients, points, strict=True):
            await http.send(data[:at])
        await until(lambda: open_connections(run) == len(points))
        await asyncio.sleep(0.02)
        run.stop()
        await until_refused(run.url)
        for http, at in zip(clients, points, strict=True):
            await http.send(data[at:])
            status, headers, body = await http.answer()
            assert (status, headers["connection"], body) == (200, "close", COMPLETION)
            assert await http.rest() == b""
        assert outcomes(run) == {"completed": len(points)}


async def test_a_pipeline_is_answered_to_its_end() -> None:
    gate = asyncio.Event()
    async with fake_engine(gated(gate)) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        data = post_head(len(BODY)) + BODY
        await http.send(data * 3 + data[:-5])
        await engine.arrived.wait()
        run.stop()
        await until_refused(run.url)
        gate.set()
        for _ in range(3):
            assert (await http.answer())[2] == COMPLETION
        await http.send(data[-5:])
        _, headers, body = await http.answer()
        assert (headers["connection"], body) == ("close", COMPLETION)
        assert await http.rest() == b""


async def test_a_long_pipeline_of_a_slow_engine_is_too() -> None:
    gate = asyncio.Event()
    async with fake_engine(gated(gate)) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send((post_head(len(BODY)) + BODY) * 100)
        await engine.arrived.wait()
        run.stop()
        await until_refused(run.url)
        gate.set()
        answered = [(await http.answer())[1:] for _ in range(100)]
        assert {body for _, body in answered} == {COMPLETION}
        assert [headers.get("connection") for headers, _ in answered] == [None] * 99 + ["close"]
        assert await http.rest() == b""


IMPATIENT = {"drain_s": 0.2}
"""A gateway that waits for nobody."""


async def test_at_the_end_of_patience_each_client_is_told(caplog: pytest.LogCaptureFixture) -> None:
    cut = frame("two")[:30]

    async def half_a_frame(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head() + http_chunk(frame("one")) + http_chunk(cut))
        await asyncio.sleep(3600)

    usage = {"stream_options": {"include_usage": True}}
    async with fake_engine(silence()) as engine, contextlib.AsyncExitStack() as stack:
        whole_or_not = {"continue_streams": False}  # else half a frame is kept back
        run = await stack.enter_async_context(gateway_over(engine.url, server=IMPATIENT, retry=whole_or_not))
        names = ("waiting", "half", "streaming", "in a frame", "pipelined")
        http = {name: await stack.enter_async_context(raw_client(run.url)) for name in names}
        await http["waiting"].post(BODY)
        await until(lambda: len(engine.requests) == 1)
        await http["half"].send(post_head(len(BODY)) + BODY[:9])
        await http["pipelined"].send((post_head(len(BODY)) + BODY) * 3)
        await until(lambda: len(engine.requests) == 2)
        engine.answer = held_stream(asyncio.Event(), frame("one"))
        await http["streaming"].post(STREAM)
        await http["streaming"].head()
        engine.answer = half_a_frame
        await http["in a frame"].post(chat_bytes(stream=True, **usage))
        await http["in a frame"].head()
        got = b""
        while got != frame("one") + cut:
            got += await http["in a frame"].chunk()
        run.stop()
        for name in ("waiting", "half", "pipelined"):
            assert (name, *await http[name].error()) == (name, 503, "stopping")
        for name, before in (("streaming", frame("one")), ("in a frame", b"\n\n")):
            got = await http[name].body({"transfer-encoding": "chunked"})
            assert got.startswith(before)
            assert json.loads(got.removeprefix(before).removeprefix(b"data: "))["error"]["code"] == "stopping"
            assert await http[name].rest() == b""
        await until(lambda: open_connections(run) == 0)
        await until(lambda: nothing_is_booked(run))
        assert sum(outcomes(run).values()) >= 5
    assert "Traceback" not in caplog.text


async def test_a_client_that_does_not_read_does_not_hold_up_the_end() -> None:
    async with fake_engine(held_stream(asyncio.Event(), *[frame("x" * 100_000)] * 300)) as engine:
        async with gateway_over(engine.url, server=IMPATIENT) as run, raw_client(run.url) as http:
            await http.post(STREAM)
            await http.head()
            run.stop()
        assert nothing_is_booked(run)


async def test_a_held_request_ends_as_others_do() -> None:
    gate = asyncio.Event()
    streams = held_stream(gate, frame("one"), after=(DONE,))
    async with (
        fake_engine(streams) as engine,
        gateway_over(engine.url) as run,
        raw_client(run.url) as http,
    ):
        await http.post(STREAM)
        await engine.arrived.wait()
        run.stop()
        gate.set()
        assert (await http.answer())[2] == frame("one") + DONE
