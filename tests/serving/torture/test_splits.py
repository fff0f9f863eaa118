"""However bytes are cut on their way, in either direction: requests and answers are the same."""

import asyncio

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    Request,
    chunked_head,
    fake_engine,
    frame,
    http_chunk,
    response,
    stream,
    usage_frame,
    whole,
    written,
)
from gateways import chat_bytes, gateway_over, nothing_is_booked, outcomes
from raw_client import RawClient, post_head, raw_client

CUT_S = 0.0005
"""Long enough for a piece to be read before the next one is sent: both ends are on one event loop."""
STREAMED = frame("a") + b": comment\n\n" + frame("ž")
ANSWERS = {False: COMPLETION, True: STREAMED + DONE}


async def either(request: Request, writer: asyncio.StreamWriter) -> None:
    """Plain or streamed, as the request wants it."""
    streams = b'"stream": true' in request.body
    await (stream(STREAMED, usage_frame(9, 4), DONE) if streams else whole())(request, writer)


async def send_cut(http: RawClient, data: bytes, at: int) -> None:
    await http.send(data[:at])
    await asyncio.sleep(CUT_S)
    await http.send(data[at:])


def chunked(body: bytes) -> bytes:
    """The body in two chunks, with extensions and trailers."""
    first = b'%x;name=value;other="a;b"\r\n%b\r\n' % (9, body[:9])
    rest = b"00%X\r\n%b\r\n" % (len(body) - 9, body[9:])
    return post_head(None) + first + rest + b"0\r\nx-trailer: 1\r\nx-request-id: smuggled\r\n\r\n"


FRAMINGS = {
    "content-length": lambda body: post_head(len(body)) + body,
    "chunked": chunked,
    "two at once": lambda body: (post_head(len(body)) + body) + chunked(body),
}


@pytest.mark.parametrize("streams", [False, True])
@pytest.mark.parametrize("framing", FRAMINGS)
async def test_a_request_cut_anywhere(framing: str, streams: bool) -> None:
    body = chat_bytes(stream=streams)
    data = FRAMINGS[framing](body)
    count = data.count(b" HTTP/1.1\r\n")
    async with fake_engine(either) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        for at in range(1, len(data)):
            await send_cut(http, data, at)
            for _ in range(count):
                status, _headers, got = await http.answer()
                assert (at, status, got) == (at, 200, ANSWERS[streams])
        assert outcomes(run) == {"completed": count * (len(data) - 1)}
        assert nothing_is_booked(run)
    for request in engine.requests:
        assert request.body.startswith(body[:-1])
        assert "x-trailer" not in request.headers
        assert request.headers["x-request-id"] != "smuggled"


async def test_a_request_byte_by_byte() -> None:
    data = b"".join(FRAMINGS["two at once"](chat_bytes(stream=streams)) for streams in (False, True))
    async with fake_engine(either) as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        for byte in data:
            await http.send(bytes([byte]))
            await asyncio.sleep(CUT_S)
        assert [(await http.answer())[2] for _ in range(4)] == [COMPLETION] * 2 + [STREAMED + DONE] * 2


PLAIN_ANSWERS = {
    "content-length": response(COMPLETION, extra="x-engine: yes\r\n"),
    "chunked": chunked_head("application/json", "x-engine: yes\r\n")
    + (b"5;x=y\r\n%b\r\n" % COMPLETION[:5] + http_chunk(COMPLETION[5:]) + b"0\r\nx-trailer: 1\r\n\r\n"),
    "after early hints": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"
    + response(COMPLETION, extra="x-engine: yes\r\n"),
}


@pytest.mark.parametrize("framing", PLAIN_ANSWERS)
async def test_a_plain_answer_cut_anywhere(framing: str) -> None:
    data = PLAIN_ANSWERS[framing]
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        for at in range(1, len(data)):
            engine.answer = cut(data, at)
            await http.post(chat_bytes())
            status, headers, body = await http.answer()
            assert (at, status, body, headers["x-engine"]) == (at, 200, COMPLETION, "yes")
            assert not {"link", "x-trailer"} & set(headers)
        assert len({request.connection for request in engine.requests}) == 1
        assert outcomes(run) == {"completed": len(data) - 1}


@pytest.mark.parametrize("asks_for_usage", [False, True])
async def test_a_stream_cut_anywhere(asks_for_usage: bool) -> None:
    body = chat_bytes(stream=True, **({"stream_options": {"include_usage": True}} if asks_for_usage else {}))
    usage = usage_frame(9, 4)
    data = chunked_head() + http_chunk(STREAMED) + http_chunk(usage + DONE) + b"0\r\n\r\n"
    expected = STREAMED + (usage if asks_for_usage else b"") + DONE
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        for at in range(1, len(data)):
            engine.answer = cut(data, at)
            await http.post(body)
            status, _, got = await http.answer()
            assert (at, status, got) == (at, 200, expected)
        assert len({request.connection for request in engine.requests}) == 1
        assert outcomes(run) == {"completed": len(data) - 1}
        [series] = run.gateway.snapshot().series
        assert (series.prompt_tokens, series.delivered_tokens) == (9 * (len(data) - 1), 4 * (len(data) - 1))


def cut(data: bytes, at: int):  # type: ignore[no-untyped-def]
    """The engine's bytes in two pieces."""

    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data[:at])
        await asyncio.sleep(CUT_S)
        writer.write(data[at:])

    return answer


async def test_what_follows_a_whole_stream_is_no_part_of_it() -> None:
    data = chunked_head() + http_chunk(frame("a") + DONE) + b"0\r\n\r\n"
    async with fake_engine(written(data + response(b"{}", 408))) as engine, gateway_over(engine.url) as run:
        for _ in range(2):
            async with raw_client(run.url) as http:
                await http.post(chat_bytes(stream=True))
                assert (await http.answer())[2] == frame("a") + DONE
        assert outcomes(run) == {"completed": 2}
