"""However requests are strung together, cut, and left: their answers come in order and exact, up to the first error."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
import uvloop
from fake_engine import COMPLETION, DONE, Request, chunked_head, fake_engine, frame, http_chunk, response, usage_frame
from gateways import LIMIT_S, at_rest, chat_bytes, gateway_over, outcomes, until
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import RawClient, post_head, raw_client
from thoroughness import examples

from gateway.serving.server import RunningGateway

LONG = "x" * 70_000


@dataclass(frozen=True)
class Kind:
    """A request as it is sent, the answer that it must get (None: not compared), and whether it ends the connection."""

    data: bytes
    status: int
    body: bytes | None
    ends: bool = False
    counted: str | None = None
    method: str = "POST"


def posted(body: bytes, **headers: str) -> bytes:
    return post_head(len(body), **headers) + body


def in_chunks(body: bytes) -> bytes:
    half = len(body) // 2
    return post_head(None) + http_chunk(body[:half]) + http_chunk(body[half:]) + b"0\r\nx-trailer: 1\r\n\r\n"


STREAMED = frame("a") + b": comment\n\n" + frame("ž") + DONE
COLD = b"GET %b HTTP/1.1\r\nhost: x\r\n\r\n"
KINDS = {
    "plain": Kind(posted(chat_bytes()), 200, COMPLETION, counted="completed"),
    "long": Kind(posted(chat_bytes(LONG)), 200, COMPLETION, counted="completed"),
    "stream": Kind(posted(chat_bytes(stream=True)), 200, STREAMED, counted="completed"),
    "chunked": Kind(in_chunks(chat_bytes()), 200, COMPLETION, counted="completed"),
    "chunked stream": Kind(in_chunks(chat_bytes(LONG, stream=True)), 200, STREAMED, counted="completed"),
    "offer": Kind(posted(chat_bytes(), connection="upgrade", upgrade="h2c"), 200, COMPLETION, counted="completed"),
    "health": Kind(COLD % b"/health", 200, b""),
    "models": Kind(COLD % b"/v1/models", 200, None),
    "nowhere": Kind(COLD % b"/nowhere", 404, None),
    "head": Kind(b"HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n", 200, b"", method="HEAD"),
    "no JSON": Kind(posted(b"{"), 400, None, counted="rejected"),
    "last": Kind(posted(chat_bytes(), connection="close"), 200, COMPLETION, ends=True, counted="completed"),
    "too long": Kind(post_head(1 << 30), 413, None, ends=True, counted="rejected"),
    "not HTTP": Kind(b"\0\r\n\r\n", 400, None, ends=True),
    "two lengths": Kind(post_head(5, content_length="6"), 400, None, ends=True),
    "bad chunk": Kind(post_head(None) + b"5\r\nhello!!", 400, None, ends=True, counted="rejected"),
}


class World:
    """A gateway over an engine that answers in pieces; the sizes of these are drawn too."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.stack = AsyncExitStack()
        self.run: RunningGateway
        self.sizes = [1 << 20]

    async def start(self) -> None:
        engine = await self.stack.enter_async_context(fake_engine(self.answer))
        self.run = await self.stack.enter_async_context(gateway_over(engine.url, limit_s=None))

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        data = response(COMPLETION)
        if b'"stream": true' in request.body:
            chunks = (frame("a") + b": comment\n\n", frame("ž"), usage_frame(9, 4) + DONE)
            data = chunked_head() + b"".join(map(http_chunk, chunks)) + b"0\r\n\r\n"
        for piece in pieces(data, self.sizes):
            writer.write(piece)
            await asyncio.sleep(0)


def pieces(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    """The data in pieces of these sizes, over and over."""
    at = count = 0
    while at < len(data):
        size = sizes[count % len(sizes)]
        yield data[at : at + size]
        at, count = at + size, count + 1


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = World(runner)
        runner.run(made.start())
        yield made
        runner.run(made.stack.aclose())


async def send(http: RawClient, data: bytes, sizes: list[int]) -> None:
    """Send it all, or as much as the gateway lets be sent after an error."""
    for piece in pieces(data, sizes):
        if http.writer.is_closing():
            return
        http.writer.write(piece)
        await asyncio.sleep(0)


async def check(http: RawClient, kinds: list[Kind]) -> None:
    """The answers to all of them, and then an end where one of them brings it."""
    for kind in kinds:
        status, headers, body = await http.answer(kind.method)
        assert (kind.data[:60], status) == (kind.data[:60], kind.status)
        if kind.body is not None:
            assert body == kind.body
        elif status != 200:
            assert json.loads(body)["error"]["message"]
        assert headers.get("connection") == ("close" if kind.ends else None)
        if kind.ends:
            assert await http.rest() == b""


async def whole_conversation(world: World, names: list[str], sizes: list[int], answer_sizes: list[int]) -> None:
    world.sizes = answer_sizes
    kinds = [KINDS[name] for name in names]
    answered = kinds[: next((at + 1 for at, kind in enumerate(kinds) if kind.ends), len(kinds))]
    expected = Counter(outcomes(world.run)) + Counter(kind.counted for kind in answered if kind.counted)
    async with asyncio.timeout(LIMIT_S), raw_client(world.run.url) as http:
        sending = asyncio.create_task(send(http, b"".join(kind.data for kind in kinds), sizes))
        await check(http, answered)
        await sending
    await until(lambda: at_rest(world.run))
    assert outcomes(world.run) == expected


SIZES = st.lists(st.integers(1, 50) | st.integers(50, 5_000) | st.just(200_000), min_size=1, max_size=5)
NAMES = st.lists(st.sampled_from(sorted(KINDS)), min_size=1, max_size=8)


@pytest.mark.law
@settings(max_examples=examples(25, 150))
@given(names=NAMES, sizes=SIZES, answer_sizes=SIZES)
def test_who_stays_gets_every_answer(world: World, names: list[str], sizes: list[int], answer_sizes: list[int]) -> None:
    world.runner.run(whole_conversation(world, names, sizes, answer_sizes))


async def left_conversation(world: World, names: list[str], sizes: list[int], sent: float, read: int) -> None:
    """Send part of it, read part of the answers, leave."""
    kinds = [KINDS[name] for name in names]
    data = b"".join(kind.data for kind in kinds)
    before = Counter(outcomes(world.run))
    async with asyncio.timeout(LIMIT_S), raw_client(world.run.url) as http:
        sending = asyncio.create_task(send(http, data[: int(sent * len(data))], sizes))
        got = b""
        while len(got) < read:
            try:
                async with asyncio.timeout(0.05):
                    piece = await http.reader.read(read - len(got))
            except TimeoutError:
                break
            if not piece:
                break
            got += piece
        await http.leave()
        await asyncio.gather(sending, return_exceptions=True)
    async with raw_client(world.run.url) as next_one:  # once it is served, the one before has been taken and read
        await next_one.send(KINDS["health"].data)
        await next_one.answer()
    await until(lambda: at_rest(world.run))
    now = Counter(outcomes(world.run))
    assert now >= before
    assert (now - before).total() <= sum(kind.counted is not None for kind in kinds)


@pytest.mark.law
@settings(max_examples=examples(25, 150))
@given(names=NAMES, sizes=SIZES, sent=st.floats(0, 1), read=st.integers(0, 3_000))
def test_who_leaves_leaves_nothing_behind(
    world: World, names: list[str], sizes: list[int], sent: float, read: int
) -> None:
    world.runner.run(left_conversation(world, names, sizes, sent, read))
