"""Connections to engines: kept, replaced when stale, and never confused."""

import asyncio

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    fake_engine,
    frame,
    held_stream,
    http_chunk,
    in_turn,
    raw,
    response,
    silence,
    whole,
    written,
)
from gateways import chat, gateway_over, outcomes, post, until

from gateway.serving.engine_client import EngineClient, EngineGoneError, EngineUnreachableError, TimeLimits, origin_of


async def test_a_stale_kept_connection_is_replaced_once() -> None:
    async with fake_engine(in_turn(whole(), raw(b""), whole())) as engine, gateway_over(engine.url) as run:
        answers = [await post(run, chat()) for _ in range(2)]
        assert [answer.content for answer in answers] == [COMPLETION] * 2
        first, stale, fresh = (request.connection for request in engine.requests)
        assert first == stale != fresh
        assert outcomes(run) == {"completed": 2}


async def test_a_fresh_connection_that_fails_is_not_replaced() -> None:
    async with fake_engine(in_turn(raw(b""), whole())) as engine, gateway_over(engine.url) as run:
        assert (await post(run, chat())).status_code == 502
        assert len(engine.requests) == 1


async def test_an_engine_that_has_begun_to_answer_is_not_asked_again() -> None:
    answers = in_turn(whole(), raw(b"HTTP/1.1 200 OK\r\ncontent-"), whole())
    async with fake_engine(answers) as engine, gateway_over(engine.url) as run:
        await post(run, chat())
        assert (await post(run, chat())).status_code == 502
        assert len(engine.requests) == 2


async def test_connections_that_the_engine_closed_meanwhile() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for count in range(1, 4):
            assert (await post(run, chat())).status_code == 200
            assert len({request.connection for request in engine.requests}) == count
            engine.break_connections()


async def test_an_engine_that_closes_after_each_answer() -> None:
    closing = whole(extra="connection: close\r\n")
    async with fake_engine(closing) as engine, gateway_over(engine.url) as run:
        for _ in range(3):
            assert (await post(run, chat())).content == COMPLETION
        assert len({request.connection for request in engine.requests}) == 3
        assert len(engine.requests) == 3


SURPLUS = response(b'{"error":{"message":"idle too long"}}', 408)


async def test_what_an_engine_says_after_its_answer_answers_nobody() -> None:
    async with fake_engine(written(response(COMPLETION) + SURPLUS)) as engine, gateway_over(engine.url) as run:
        for _ in range(3):
            answer = await post(run, chat())
            assert (answer.status_code, answer.content) == (200, COMPLETION)
        assert outcomes(run) == {"completed": 3}


async def test_what_an_engine_says_between_two_requests_answers_nobody() -> None:
    writers = []

    async def remembering(_request: object, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(response(COMPLETION))

    async with fake_engine(remembering) as engine, gateway_over(engine.url) as run:
        for _ in range(3):
            answer = await post(run, chat())
            assert (answer.status_code, answer.content) == (200, COMPLETION)
            writers[-1].write(SURPLUS)
            await until(writers[-1].is_closing)
        assert outcomes(run) == {"completed": 3}


async def test_as_many_connections_as_requests_at_once_and_all_are_used_again() -> None:
    gate = asyncio.Event()
    async with (
        fake_engine(held_stream(gate, after=(frame("a"), DONE))) as engine,
        gateway_over(engine.url) as run,
    ):
        first = [asyncio.create_task(post(run, chat(stream=True))) for _ in range(20)]
        await until(lambda: len(engine.requests) == 20)
        gate.set()
        assert {answer.status_code for answer in await asyncio.gather(*first)} == {200}
        opened = {request.connection for request in engine.requests}
        assert len(opened) == 20
        await asyncio.gather(*[post(run, chat(stream=True)) for _ in range(20)])
        assert {request.connection for request in engine.requests} == opened


async def test_closing_breaks_what_is_open() -> None:
    async with fake_engine(silence()) as engine:
        engines = EngineClient()
        waiting = asyncio.create_task(engines.send(engine.url, "POST", "/x", [], b"{}"))
        await engine.arrived.wait()
        await engines.close()
        await engine.left.wait()
        with pytest.raises(EngineGoneError):
            await waiting


async def test_a_response_is_left_once_and_then_says_no_more() -> None:
    async with fake_engine() as engine:
        engines = EngineClient()
        one = await engines.send(engine.url, "POST", "/x", [], b"{}")
        assert (one.status, one.header(b"content-type"), one.header(b"none")) == (200, b"application/json", b"")
        assert await one.body(1000) == COMPLETION
        two = await engines.send(engine.url, "POST", "/x", [], b"{}")
        one.close()  # its connection is the second's by now
        assert await one.read() == b""
        assert await two.body(1000) == COMPLETION
        await engines.close()
        assert len({request.connection for request in engine.requests}) == 1


async def test_an_answer_longer_than_the_limit() -> None:
    async with fake_engine(whole(b"x" * 1001)) as engine:
        engines = EngineClient()
        got = await engines.send(engine.url, "GET", "/x", [])
        with pytest.raises(EngineGoneError, match="longer than 1000 bytes"):
            await got.body(1000)
        await engines.close()


async def test_a_url_with_a_path_and_a_name_that_does_not_exist() -> None:
    async with fake_engine() as engine:
        engines = EngineClient(TimeLimits(connect_s=5))
        await engines.send(engine.url + "/base", "GET", "/x?y=1", [(b"a", b"b")])
        assert (engine.requests[0].target, engine.requests[0].headers["a"]) == ("/base/x?y=1", "b")
        assert "content-length" not in engine.requests[0].headers
        with pytest.raises(EngineUnreachableError):
            await engines.send("http://no-such-host.invalid:1", "GET", "/", [])
        await engines.close()


async def test_a_pause_of_the_reader_is_no_silence_of_the_engine() -> None:
    piece, pieces = b"x" * 65_536, 256

    async def flood(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(pieces):
            writer.write(http_chunk(piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async with fake_engine(flood) as engine:
        engines = EngineClient(TimeLimits(idle_s=0.3))
        got = await engines.send(engine.url, "GET", "/x", [])
        await asyncio.sleep(0.6)
        assert len(await got.body(1 << 30)) == pieces * len(piece)
        await engines.close()


@pytest.mark.parametrize(
    ("url", "host", "prefix", "tls"),
    [
        ("http://10.0.0.1:8000", b"10.0.0.1:8000", "", False),
        ("http://engine/", b"engine:80", "", False),
        ("https://engine/a/b/", b"engine:443", "/a/b", True),
        ("http://[::1]:8000", b"[::1]:8000", "", False),
    ],
)
def test_origins(url: str, host: bytes, prefix: str, tls: bool) -> None:
    origin = origin_of(url)
    assert (origin.host_header, origin.prefix, origin.tls) == (host, prefix, tls)
