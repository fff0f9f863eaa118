"""Requests sent without waiting for answers are answered in order, however many there are."""

import asyncio
import json

from fake_engine import COMPLETION, DONE, Request, fake_engine, frame, held_stream, response, whole
from gateways import at_rest, chat_bytes, gateway_over, outcomes, until
from raw_client import post_head, raw_client

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n"
NOT_HTTP = b"\x16\x03\x01\r\n\r\n"


def chat_request(name: str, text: str = "hello", **more: object) -> bytes:
    body = chat_bytes(text, **more)
    return post_head(len(body), x_request_id=name) + body


async def test_hot_and_cold_ones_in_one_packet() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        kinds = [HEALTH, chat_request("one"), MODELS, chat_request("two"), chat_request("three"), HEALTH] * 3
        await http.send(b"".join(kinds))
        for kind in kinds:
            status, headers, body = await http.answer()
            assert status == 200
            if kind is MODELS:
                assert [model["id"] for model in json.loads(body)["data"]] == ["m"]
            elif kind is not HEALTH:
                assert (headers["x-request-id"].encode() in kind, body) == (True, COMPLETION)
        assert outcomes(run) == {"completed": 9}


async def test_the_next_is_not_begun_before_the_one_that_streams_is_over() -> None:
    gate = asyncio.Event()
    stream = held_stream(gate, frame("one"), after=(frame("two"), DONE))
    async with fake_engine(stream) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(chat_request("one", stream=True) + chat_request("two") + HEALTH)
        _, headers = await http.head()
        assert await http.chunk() == frame("one")
        await asyncio.sleep(0.05)
        assert len(engine.requests) == 1
        engine.answer = whole()
        gate.set()
        assert await http.body(headers) == frame("two") + DONE
        assert (await http.answer())[2] == COMPLETION
        assert (await http.answer())[0] == 200


async def test_a_thousand_at_once() -> None:
    names = [f"number-{number}" for number in range(1000)]
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        sending = asyncio.create_task(http.send(b"".join(map(chat_request, names))))
        for name in names:
            status, headers, body = await http.answer()
            assert (status, headers["x-request-id"], body) == (200, name, COMPLETION)
        await sending
        assert [request.headers["x-request-id"] for request in engine.requests] == names


async def test_a_client_that_takes_no_answers_is_given_no_more() -> None:
    names = [f"number-{number}" for number in range(1000)]
    reply = b'{"a":"%b"}' % (b"x" * 100_000)
    async with fake_engine(whole(reply)) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        sending = asyncio.create_task(http.send(b"".join(map(chat_request, names))))
        begun = -1
        while begun != len(engine.requests):
            begun = len(engine.requests)
            await asyncio.sleep(0.3)
        assert 1 < begun < 500
        for name in names:
            status, headers, body = await http.answer()
            assert (status, headers["x-request-id"], body) == (200, name, reply)
        await sending
        assert len(engine.requests) == 1000


async def test_an_error_in_the_middle_comes_after_the_answers_before_it() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            unreadable = post_head(1, x_request_id="unreadable") + b"{"
            await http.send(chat_request("one") + unreadable + chat_request("two") + NOT_HTTP + chat_request("three"))
            assert [(await http.answer())[0] for _ in range(3)] == [200, 400, 200]
            assert await http.error() == (400, "invalid_http")
        await until(lambda: at_rest(run))
        assert [request.headers["x-request-id"] for request in engine.requests] == ["one", "two"]
        assert outcomes(run) == {"completed": 2, "rejected": 1}


async def test_an_error_behind_a_held_answer_waits_for_it() -> None:
    gate = asyncio.Event()

    async def gated(_request: Request, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        writer.write(response(COMPLETION))

    async with fake_engine(gated) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(chat_request("one"))
        await engine.arrived.wait()
        await http.send(post_head(10**9) + b"x" * 100_000)  # longer than any body may be
        await asyncio.sleep(0.05)
        gate.set()
        assert (await http.answer())[2] == COMPLETION
        assert await http.error() == (413, "request_too_large")
        assert len(engine.requests) == 1


async def test_those_behind_a_refused_one_are_not_served() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            await http.send(post_head(5, expect="tea") + b"hello" + chat_request("behind") * 3)
            assert await http.error() == (417, "expectation_failed")
        await until(lambda: at_rest(run))
        assert not engine.requests
        assert outcomes(run) == {"rejected": 1}


async def test_those_behind_one_that_closes_are_not_served() -> None:
    body = chat_bytes()
    closing = post_head(len(body), connection="close") + body
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(closing + chat_request("behind") * 3)
        status, headers, got = await http.answer()
        assert (status, headers["connection"], got) == (200, "close", COMPLETION)
        assert await http.rest() == b""
        assert len(engine.requests) == 1


async def test_a_client_that_leaves_a_pipeline_takes_all_of_it_along() -> None:
    async with fake_engine(held_stream(asyncio.Event(), frame("one"))) as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            await http.send(chat_request("one", stream=True) + chat_request("two") + chat_request("three"))
            await http.head()
            await http.leave()
        await until(lambda: at_rest(run))
        assert len(engine.requests) == 1
        assert outcomes(run) == {"client_gone": 3}
