"""Heads and bodies that are too long are refused, and a client that still sends can read why."""

import asyncio

import pytest
from fake_engine import COMPLETION, fake_engine, http_chunk
from gateways import at_rest, chat_bytes, gateway_over, outcomes, until
from raw_client import post_head, raw_client

from gateway.serving.front.reader import FRAMING_RATE, HEAD_BYTES

BODY = chat_bytes()
TOO_LONG_HEAD = (431, "request_header_fields_too_large")
TOO_LONG_BODY = (413, "request_too_large")
LINE = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
LONG = b"x" * (HEAD_BYTES + 1)
HEADS = {
    "a long header": LINE + b"x-long: " + LONG + b"\r\n\r\n",
    "a long name": LINE + LONG + b": x\r\n\r\n",
    "a long header without end": LINE + b"x-long: " + LONG * 3,
    "many headers": LINE + b"x-number: 1\r\n" * 10_000 + b"\r\n",
    "a long URL": b"GET /" + LONG + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a long query": b"GET /health?" + LONG + b" HTTP/1.1\r\nhost: x\r\n\r\n",
    "a URL without end": b"GET /" + LONG * 3,
    "with a body": LINE + b"content-length: %d\r\nx-long: %b\r\n\r\n%b" % (len(BODY), LONG, BODY),
    "before another protocol": LINE + b"connection: upgrade\r\nupgrade: h2c\r\nx-long: " + LONG + b"\r\n\r\n",
}


@pytest.mark.parametrize("piece", [1 << 20, 5_000, 700])
@pytest.mark.parametrize("head", HEADS)
async def test_a_head_that_is_too_long(head: str, piece: int) -> None:
    data = HEADS[head]
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            for at in range(0, len(data), piece):
                await http.send(data[at : at + piece])
                await asyncio.sleep(0)
            assert await http.error() == TOO_LONG_HEAD
        async with raw_client(run.url) as http:
            await http.post(BODY)
            assert (await http.answer())[2] == COMPLETION
        await until(lambda: at_rest(run))
        assert len(engine.requests) == 1


async def test_a_head_that_is_just_short_enough() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        for _ in range(2):
            await http.post(BODY, x_long="x" * (HEAD_BYTES - 1000))
            assert (await http.answer())[2] == COMPLETION
        assert len(engine.requests[0].headers["x-long"]) == HEAD_BYTES - 1000


async def test_a_body_that_is_declared_too_long_and_sent_all_the_same() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, server={"max_body_bytes": 1_000_000}) as run:
        async with raw_client(run.url) as http:
            await http.send(post_head(20_000_000))
            for _ in range(20):
                await http.send(b"x" * 1_000_000)
            assert await http.error() == TOO_LONG_BODY
        await until(lambda: at_rest(run))
        assert not engine.requests
        assert outcomes(run) == {"rejected": 1}


async def test_a_body_that_grows_too_long() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, server={"max_body_bytes": 1_000_000}) as run:
        async with raw_client(run.url) as http:
            await http.send(post_head(None))
            for _ in range(20):
                await http.send(http_chunk(b"x" * 1_000_000))
            await http.send(b"0\r\n\r\n" + post_head(len(BODY)) + BODY)
            assert await http.error() == TOO_LONG_BODY
        await until(lambda: at_rest(run))
        assert not engine.requests
        assert outcomes(run) == {"rejected": 1}


@pytest.mark.parametrize(
    "framing",
    [
        b"%x\r\n%b\r\n" % (len(BODY), BODY) + b"0\r\n" + b"x-trailer: 1\r\n" * 20_000 + b"\r\n",
        b"%x\r\n%b\r\n" % (len(BODY), BODY) + b"0\r\nx-trailer: " + LONG * 5,
        b"%x;" % len(BODY) + LONG * 5,
        b"".join(b"1;%b\r\nx\r\n" % (b"y" * 4 * FRAMING_RATE) for _ in range(5_000)),
    ],
    ids=["trailers", "a trailer", "an extension", "extensions"],
)
async def test_framing_that_is_much_longer_than_the_body(framing: bytes) -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            await http.send(post_head(None))
            for at in range(0, len(framing), 10_000):
                await http.send(framing[at : at + 10_000])
                await asyncio.sleep(0.0005)
            assert await http.error() == TOO_LONG_HEAD
        await until(lambda: at_rest(run))
        assert not engine.requests


async def test_a_body_in_chunks_of_one_byte_is_not_too_much() -> None:
    body = chat_bytes("x" * 50_000)
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(post_head(None) + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        assert (await http.answer())[2] == COMPLETION
        assert engine.requests[0].body == body
