"""Whoever breaks off, at whatever byte: the engine is freed or the next one asked, and nothing stays behind."""

import asyncio
import json
import socket
import struct

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    chunked_head,
    fake_engine,
    frame,
    held_stream,
    http_chunk,
    raw,
    response,
    silence,
    stream,
    usage_frame,
)
from gateways import at_rest, chat, chat_bytes, gateway_over, outcomes, post, retries, until
from raw_client import RawClient, post_head, raw_client

BODY = chat_bytes()
HEAD = post_head(len(BODY))
ASIDE = 0.001
"""Long enough for what was sent to be read: both ends are on one event loop."""


async def reset(http: RawClient) -> None:
    """Break off with RST."""
    with socket.socket(fileno=socket.dup(http.writer.get_extra_info("socket").fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    http.writer.transport.abort()


async def close(http: RawClient) -> None:
    """Close properly."""
    http.writer.close()


async def shut(http: RawClient) -> None:
    """Say that nothing more will be sent: to us that is leaving, as it frees the engine at once."""
    http.writer.write_eof()


LEAVING = pytest.mark.parametrize("leave", [reset, close, shut])


@LEAVING
async def test_by_the_client_at_every_byte_of_its_request(leave) -> None:  # type: ignore[no-untyped-def]
    chunks = post_head(None) + http_chunk(BODY[:9]) + http_chunk(BODY[9:]) + b"0\r\nx: y\r\n\r\n"
    async with fake_engine(silence()) as engine, gateway_over(engine.url) as run:
        counted = 0
        for data, whole_head in ((HEAD + BODY, len(HEAD)), (chunks, len(post_head(None)))):
            for at in range(len(data) + 1):
                async with raw_client(run.url) as http:
                    await http.send(data[:at])
                    await asyncio.sleep(ASIDE)
                    await leave(http)
                counted += at >= whole_head  # before that it is not known what was asked
        await until(lambda: at_rest(run))
        assert outcomes(run) == {"client_gone": counted}
        assert len(engine.requests) == 2


@LEAVING
async def test_by_a_client_that_does_not_wait_for_its_bytes_to_be_read(leave) -> None:  # type: ignore[no-untyped-def]
    async with fake_engine(silence()) as engine, gateway_over(engine.url) as run:
        for _ in range(100):
            async with raw_client(run.url) as http:
                await http.post(BODY)
                await leave(http)
        await until(lambda: at_rest(run))
        assert set(outcomes(run)) <= {"client_gone"}  # what a reset overtakes never came
        if leave is not reset:
            assert outcomes(run) == {"client_gone": 100}


@LEAVING
async def test_by_the_client_at_every_point_of_a_stream(leave) -> None:  # type: ignore[no-untyped-def]
    pieces = [frame("one"), frame("two")[:30], frame("two")[30:], b": comment\n\n", usage_frame(9, 4), DONE]
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for count in range(len(pieces)):
            engine.left.clear()
            engine.answer = held_stream(asyncio.Event(), *pieces[:count])
            async with raw_client(run.url) as http:
                await http.post(chat_bytes(stream=True))
                await until(lambda count=count: len(engine.requests) == count + 1)
                if count:
                    await http.head()
                await asyncio.sleep(ASIDE)
                await leave(http)
                await engine.left.wait()
            await until(lambda: at_rest(run))
        assert outcomes(run) == {"client_gone": len(pieces)}


async def test_by_a_client_that_has_read_part_of_a_whole_answer() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for count in range(0, 300, 7):
            async with raw_client(run.url) as http:
                await http.post(BODY)
                await http.reader.readexactly(count)
                await reset(http)
        await until(lambda: at_rest(run))
        assert sum(outcomes(run).values()) >= 42
        assert set(outcomes(run)) <= {"completed", "client_gone"}


async def test_the_answer_that_was_given_is_not_taken_away_by_shutting() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.post(BODY)
        await until(lambda: outcomes(run) == {"completed": 1})
        await asyncio.sleep(ASIDE)
        http.writer.write_eof()
        assert (await http.answer())[2] == COMPLETION
        assert await http.rest() == b""


UNSHAKEN = {"failures": 1000}
"""No breaker opens: each of the failures is to be seen."""
PLAIN = {
    "content-length": response(COMPLETION),
    "chunked": chunked_head("application/json")
    + http_chunk(COMPLETION[:9])
    + http_chunk(COMPLETION[9:])
    + b"0\r\n\r\n",
}


@pytest.mark.parametrize("framing", PLAIN)
async def test_by_the_engine_at_every_byte_of_a_plain_answer(framing: str) -> None:
    data = PLAIN[framing]
    async with (
        fake_engine() as broken,
        fake_engine() as sound,
        gateway_over(broken.url, sound.url, routing={"policy": "round-robin"}, health=UNSHAKEN) as run,
        raw_client(run.url) as http,
    ):
        for at in range(len(data)):
            broken.answer = raw(data[:at])
            asked = len(broken.requests)
            while len(broken.requests) == asked:
                await http.post(BODY)
                status, headers, body = await http.answer()
                assert (at, status, body, headers["x-prefixgate-replica"]) == (at, 200, COMPLETION, "p-1")
        assert retries(run) == len(broken.requests) == len(data)
        assert outcomes(run) == {"completed": len(sound.requests)}
        http.writer.close()
        await until(lambda: at_rest(run))


@pytest.mark.parametrize("asks_for_usage", [False, True])
async def test_by_the_engine_at_every_byte_of_a_stream(asks_for_usage: bool) -> None:
    frames = (frame("one"), frame("ž" * 3), b": comment\n\n", usage_frame(9, 4), DONE)
    data = chunked_head() + b"".join(map(http_chunk, frames)) + b"0\r\n\r\n"
    passed = [one for one in frames if asks_for_usage or one is not frames[3]]
    expected, alike = b"".join(passed), frame("fine") + DONE
    body = chat_bytes(stream=True, **({"stream_options": {"include_usage": True}} if asks_for_usage else {}))
    whole_streams = failed = 0
    async with (
        fake_engine() as broken,
        fake_engine(stream(frame("fine"), DONE)) as sound,
        gateway_over(
            broken.url,
            sound.url,
            routing={"policy": "round-robin"},
            retry={"continue_streams": False},
            health=UNSHAKEN,
        ) as run,
        raw_client(run.url) as http,
    ):
        for at in range(len(data)):
            broken.answer = raw(data[:at])
            asked = len(broken.requests)
            while len(broken.requests) == asked:
                await http.post(body)
                status, headers, got = await http.answer()
                assert (at, status) == (at, 200)
                if headers["x-prefixgate-replica"] == "p-1":
                    assert got == alike
                elif got.endswith(DONE):
                    assert got == expected
                    whole_streams += 1
                else:
                    check_broken(got, expected)
                    failed += 1
        assert failed > 0.5 * len(data)
        assert 0 < whole_streams < 20  # only what ends the framing was missing
        assert retries(run) + whole_streams + failed == len(broken.requests)
        assert outcomes(run) == {"completed": len(sound.requests) + whole_streams, "engine_failed": failed}
        http.writer.close()
        await until(lambda: at_rest(run))


def check_broken(got: bytes, expected: bytes) -> None:
    """The beginning of what was expected, then an error in a frame of its own."""
    before, _, last = got.removesuffix(b"\n\n").rpartition(b"\n\n")
    assert json.loads(last.removeprefix(b"data: "))["error"]["type"] == "bad_gateway"
    assert expected.startswith(before.removesuffix(b"\n")), (before, expected)
    assert frame("one").removesuffix(b"\n\n") in before


async def test_by_the_engine_with_nobody_else_to_ask() -> None:
    data = response(COMPLETION)
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        for at in range(0, len(data), 5):
            engine.answer = raw(data[:at])
            await http.post(BODY)
            status, _, body = await http.answer()
            assert (at, status, json.loads(body)["error"]["type"]) == (at, 502, "bad_gateway")
        engine.answer = raw(data)
        assert (await post(run, chat())).content == COMPLETION
