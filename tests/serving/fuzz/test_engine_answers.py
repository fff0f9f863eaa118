"""Answers that no engine should give, plain and streamed: the client gets sound HTTP, and in time; never our bug."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import uvloop
from fake_engine import (
    COMPLETION,
    DONE,
    Request,
    chunked_head,
    fake_engine,
    frame,
    http_chunk,
    response,
    usage_frame,
)
from gateways import LIMIT_S, at_rest, chat_bytes, gateway_over, outcomes, until
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import raw_client

from gateway.serving.server import RunningGateway

EVENT = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"x"}}\n\n'
END = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
ERROR = b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","code":500}}\n\n'
FRAMES = [frame("a"), frame("ž", usage=None), b": ping\n\n", usage_frame(9, 4), ERROR, EVENT, END, DONE]
WHOLES = [
    response(COMPLETION),
    response(b'{"object":"error","message":"no","type":"BadRequest","code":400}', 400),
    response(b'{"error":{"message":"busy","type":"Service Unavailable","code":503}}', 503),
    response(b"<html>", 502, "text/html"),
    response(b"", 204),
    b"HTTP/1.1 100 Continue\r\n\r\n" + response(COMPLETION),
    b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + COMPLETION,
    chunked_head("application/json") + http_chunk(COMPLETION[:40]) + http_chunk(COMPLETION[40:]) + b"0\r\n\r\n",
]
BITS = [
    *(b"\0", b"\xff", b"\r", b"\n", b"\r\n", b"\n\n", b"\r\n\r\n", b":", b" ", b"{", b'"', b"\\ud800", b"9" * 40),
    *(
        b"data: ",
        b"data:[DONE]\n\n",
        b"event: error\n",
        b"0\r\n\r\n",
        b"ffffffff\r\n",
        b"[" * 5000,
        b"HTTP/1.1 200 OK\r\n",
    ),
    *(b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"content-type: text/event-stream\r\n"),
    *(
        b"connection: close\r\n",
        b"content-encoding: gzip\r\n",
        b'"usage":{"prompt_tokens":-1}',
        b"1e999",
        b"\xef\xbb\xbf",
    ),
]
EDIT = st.tuples(
    st.sampled_from(["insert", "cut", "drop", "repeat"]), st.floats(0, 1), st.sampled_from(BITS), st.integers(1, 60)
)


def streams(frames: list[bytes], ends: bool) -> bytes:
    return chunked_head() + b"".join(map(http_chunk, frames)) + (b"0\r\n\r\n" if ends else b"")


BASE = st.sampled_from(WHOLES) | st.builds(streams, st.lists(st.sampled_from(FRAMES), max_size=8), st.booleans())


def edit(raw: bytes, how: str, where: float, bit: bytes, count: int) -> bytes:
    at = int(where * len(raw))
    if how == "insert":
        return raw[:at] + bit + raw[at:]
    if how == "cut":
        return raw[:at]
    if how == "drop":
        return raw[:at] + raw[at + count :]
    return raw[: at + count] + raw[at:]


class World:
    """A gateway over an engine that answers with `data`, in two pieces."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.stack = AsyncExitStack()
        self.sent = 0
        self.data = b""
        self.cut = 0
        self.closes = False
        self.run: RunningGateway

    async def start(self) -> None:
        engine = await self.stack.enter_async_context(fake_engine(self.answer))
        limits = {"first_byte_s": 0.2, "first_token_s": 0.2, "idle_s": 0.2}
        alone = {"retry": {"wait_s": 0.0}, "health": {"failures": 1000, "open_s": 0.001, "most_open_s": 0.001}}
        alone["queue"] = {"interactive_deadline_s": 0.3}  # how long one waits that its engine is too busy for
        tables = {"timeouts": limits, "polling": {"interval_s": 0.05}, "routing": {"max_attempts": 1}, **alone}
        self.run = await self.stack.enter_async_context(gateway_over(engine.url, limit_s=None, **tables))

    async def answer(self, _request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(self.data[: self.cut])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(self.data[self.cut :])
        if self.closes:
            await writer.drain()
            writer.close()


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = World(runner)
        runner.run(made.start())
        yield made
        runner.run(made.stack.aclose())


async def ask(world: World, path: str, body: bytes) -> None:
    """The answer is whole HTTP, an error of ours has our shape, and the connection serves the next request."""
    async with asyncio.timeout(LIMIT_S), raw_client(world.run.url, limit=1 << 22) as http:
        await http.post(body, path)
        status, headers, answer = await http.answer()
        assert b"internal_error" not in answer
        if "x-prefixgate-replica" not in headers:
            assert json.loads(answer)["error"]["message"]
        await http.send(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        assert (await http.answer())[0] == 200
    world.sent += 1
    async with asyncio.timeout(LIMIT_S):
        await until(lambda: at_rest(world.run))
    ended = outcomes(world.run)
    assert sum(ended.values()) == world.sent
    assert set(ended) <= {"completed", "engine_failed", "engine_rejected", "timed_out", "rejected"}, (status, answer)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages", "/v1/responses", "/v1/embeddings"])
@settings(max_examples=50)
@given(
    base=BASE,
    edits=st.lists(EDIT, max_size=3),
    cut=st.floats(0, 1),
    closes=st.booleans(),
    streamed=st.booleans(),
)
def test_any_answer(
    world: World, path: str, base: bytes, edits: list, cut: float, closes: bool, streamed: bool
) -> None:
    for one in edits:
        base = edit(base, *one)
    world.data, world.cut, world.closes = base, int(cut * len(base)), closes
    asked = {"/v1/responses": b'{"model":"m","input":"x"}', "/v1/embeddings": b'{"model":"m","input":"x"}'}
    body = asked.get(path, chat_bytes(stream=streamed, max_tokens=5))
    world.runner.run(ask(world, path, body))
