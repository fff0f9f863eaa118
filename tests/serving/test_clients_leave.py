"""A client that leaves frees the engine at once, and leaves nothing behind."""

import asyncio
import json

import pytest
from fake_engine import Answer, FakeEngine, fake_engine, frame, held_stream, response, silence
from gateways import chat_bytes, gateway_over, nothing_is_booked, outcomes, until
from raw_client import post_head, raw_client

ENGINES = pytest.mark.parametrize("engine_name", ["vllm", "sglang"])


async def leave(engine: FakeEngine, engine_name: str, body: bytes, *, after_first_byte: bool) -> None:
    """A client leaves; the engine must lose its connection, and SGLang be told by name."""
    async with gateway_over(engine.url, engine=engine_name) as run:
        async with raw_client(run.url) as http:
            await http.post(body, x_request_id="leaving")
            await engine.arrived.wait()
            if after_first_byte:
                await http.head()
                assert await http.chunk() == frame("one")
            await http.leave()
            await engine.left.wait()
            if engine_name == "sglang":
                await engine.aborted.wait()
        await until(lambda: outcomes(run) == {"client_gone": 1})
        assert nothing_is_booked(run)
    calls = [(abort.method, abort.target, json.loads(abort.body)) for abort in engine.aborts]
    assert calls == ([("POST", "/abort_request", {"rid": "leaving"})] if engine_name == "sglang" else [])


def begun() -> Answer:
    return held_stream(asyncio.Event(), frame("one"))


@ENGINES
@pytest.mark.parametrize("stream", [True, False])
async def test_before_the_first_byte(engine_name: str, stream: bool) -> None:
    async with fake_engine(silence()) as engine:
        await leave(engine, engine_name, chat_bytes(stream=stream), after_first_byte=False)


@ENGINES
async def test_in_the_middle_of_a_stream(engine_name: str) -> None:
    async with fake_engine(begun()) as engine:
        await leave(engine, engine_name, chat_bytes(stream=True), after_first_byte=True)


@ENGINES
async def test_in_the_middle_of_a_plain_answer(engine_name: str) -> None:
    async def half(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(response(b'{"a":1}')[:-3])
        await asyncio.sleep(3600)

    async with fake_engine(half) as engine:
        await leave(engine, engine_name, chat_bytes(), after_first_byte=False)


async def test_while_the_answer_cannot_be_sent_to_it() -> None:
    async def flood(_request: object, writer: asyncio.StreamWriter) -> None:
        await held_stream(asyncio.Event(), *[frame("x" * 100_000)] * 500)(None, writer)  # type: ignore[arg-type]

    async with fake_engine(flood) as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            await http.post(chat_bytes(stream=True))
            await http.head()
            await http.leave()
            await engine.left.wait()
        await until(lambda: outcomes(run) == {"client_gone": 1})
        assert nothing_is_booked(run)


async def test_before_the_body_was_whole() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            await http.send(post_head(1000) + b'{"model":')
            await asyncio.sleep(0.02)
            await http.leave()
        await until(lambda: outcomes(run) == {"client_gone": 1})
        assert not engine.requests


async def test_an_id_that_begins_another_live_one_is_not_aborted_by_name() -> None:
    async with fake_engine(silence()) as engine, gateway_over(engine.url, engine="sglang") as run:
        async with raw_client(run.url) as staying, raw_client(run.url) as leaving:
            await staying.post(chat_bytes(), x_request_id="job-12")
            await until(lambda: len(engine.requests) == 1)
            await leaving.post(chat_bytes(), x_request_id="job-1")
            await until(lambda: len(engine.requests) == 2)
            await leaving.leave()
            await engine.left.wait()
            await until(lambda: outcomes(run) == {"client_gone": 1})
            assert [request.headers for request in engine.aborts] == []
            await staying.leave()
            await engine.aborted.wait()
        await until(lambda: outcomes(run) == {"client_gone": 2})
    assert [json.loads(abort.body) for abort in engine.aborts] == [{"rid": "job-12"}]


async def test_an_embedding_is_not_aborted_by_name() -> None:
    async with fake_engine(silence()) as engine, gateway_over(engine.url, engine="sglang") as run:
        async with raw_client(run.url) as http:
            await http.post(b'{"model":"m","input":"hi"}', "/v1/embeddings")
            await engine.arrived.wait()
            await http.leave()
            await engine.left.wait()
        await until(lambda: outcomes(run) == {"client_gone": 1})
    assert engine.aborts == []


async def test_an_abort_that_cannot_be_delivered_harms_nobody() -> None:
    async with gateway_over("http://127.0.0.1:9", engine="sglang") as run:
        run.gateway.abort(run.gateway.backends["p-0"], "x")
    assert nothing_is_booked(run)
