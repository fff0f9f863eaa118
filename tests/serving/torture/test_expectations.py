"""`Expect: 100-continue`, in every order that a client may choose."""

import asyncio

from fake_engine import COMPLETION, DONE, fake_engine, frame, held_stream
from gateways import chat_bytes, gateway_over, outcomes
from raw_client import RawClient, post_head, raw_client

BODY = chat_bytes()
HEAD = post_head(len(BODY), expect="100-continue")


async def goes_on(http: RawClient) -> bool:
    return (await http.head()) == (100, {})


async def test_the_body_is_sent_when_it_is_asked_for_or_at_once_or_in_bits() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(HEAD)
        assert await goes_on(http)
        await http.send(BODY)
        assert (await http.answer())[2] == COMPLETION

        await http.send(HEAD + BODY)
        status, _, body = await http.answer()
        if status == 100:  # as it may be
            status, _, body = await http.answer()
        assert (status, body) == (200, COMPLETION)

        await http.send(HEAD[:-1])
        await asyncio.sleep(0.02)
        await http.send(HEAD[-1:] + BODY[:1])
        assert await goes_on(http)
        await http.send(BODY[1:])
        assert (await http.answer())[2] == COMPLETION
        assert outcomes(run) == {"completed": 3}


async def test_with_a_chunked_body_and_other_letters() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(post_head(None, Expect="100-Continue"))
        assert await goes_on(http)
        await http.send(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert (await http.answer())[2] == COMPLETION


async def test_in_a_pipeline_it_is_asked_for_in_its_turn() -> None:
    gate = asyncio.Event()
    stream = held_stream(gate, frame("one"), after=(DONE,))
    async with fake_engine(stream) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        first = chat_bytes(stream=True)
        await http.send(post_head(len(first)) + first + post_head(len(first), expect="100-continue"))
        _, headers = await http.head()
        await asyncio.sleep(0.02)
        gate.set()
        assert await http.body(headers) == frame("one") + DONE
        assert await goes_on(http)
        await http.send(first)
        assert (await http.answer())[2] == frame("one") + DONE


async def test_a_client_of_a_pipeline_that_does_not_wait_is_not_asked_any_more() -> None:
    gate = asyncio.Event()
    stream = held_stream(gate, frame("one"), after=(DONE,))
    async with fake_engine(stream) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        body = chat_bytes(stream=True)
        await http.send(post_head(len(body)) + body + post_head(len(body), expect="100-continue") + body)
        await engine.arrived.wait()
        gate.set()
        for _ in range(2):
            assert (await http.answer())[:1] == (200,)
        assert len(engine.requests) == 2


async def test_refused_before_the_body() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for head, refused in (
            (post_head(10**9, expect="100-continue"), (413, "request_too_large")),
            (post_head(5, expect="100-continue", content_encoding="gzip"), (415, None)),
            (post_head(5, expect="a-miracle"), (417, "expectation_failed")),
            (post_head(5, expect=""), (417, "expectation_failed")),
        ):
            async with raw_client(run.url) as http:
                await http.send(head)
                assert await http.error() == refused
        assert not engine.requests
        assert outcomes(run) == {"rejected": 4}


async def test_http_1_0_knows_no_such_thing() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(HEAD.replace(b"HTTP/1.1", b"HTTP/1.0"))
        await asyncio.sleep(0.02)
        await http.send(BODY)
        status, headers, body = await http.answer()
        assert (status, headers["connection"], body) == (200, "close", COMPLETION)
        assert await http.rest() == b""


async def test_a_request_without_a_body() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(b"GET /health HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\n\r\n")
        status, _, _ = await http.answer("HEAD")
        if status == 100:
            status, _, _ = await http.answer()
        assert status == 200
