"""Whatever engines and clients do: every request ends once, nothing stays booked, nothing hangs."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial

import pytest
import uvloop
from fake_engine import (
    COMPLETION,
    DONE,
    Answer,
    Request,
    chunked_head,
    fake_engine,
    frame,
    held_stream,
    raw,
    reset,
    response,
    silence,
    stream,
    usage_frame,
    whole,
)
from gateways import LIMIT_S, chat_bytes, gateway_of, nothing_is_booked, outcomes, until
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import RawClient, post_head, raw_client

from gateway.serving.server import RunningGateway

ERROR = b'data: {"error":{"message":"busy","type":"x","code":503}}\n\n'
FLAT = b'{"object":"error","message":"no","type":"BadRequest","param":null,"code":400}'
NESTED = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'


def scripts() -> dict[str, Answer]:
    """What an engine may do with a request, by name."""
    never = asyncio.Event()
    return {
        "whole": whole(),
        "stream": stream(frame("a"), b": comment\n\n", frame("b"), usage_frame(9, 4), DONE),
        "stream-in-bits": stream(*[bytes([byte]) for byte in frame("a") + usage_frame(9, None) + DONE]),
        "stream-breaks-at-a-frame": stream(frame("a"), frame("b"), complete=False),
        "stream-breaks-off": stream(frame("a"), frame("b")[:9], complete=False),
        "stream-without-done": stream(frame("a")),
        "stream-with-error": stream(frame("a"), ERROR, DONE),
        "error-at-once": stream(ERROR, DONE),
        "empty-stream": stream(),
        "stream-stalls": held_stream(never, frame("a")),
        "stream-stalls-at-once": held_stream(never),
        "body-breaks-off": raw(response(COMPLETION)[:-9]),
        "body-stalls": stalled(response(COMPLETION)[:-9]),
        "endless-body": raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + COMPLETION),
        "bad-chunks": raw(chunked_head() + b"zz\r\n"),
        "not-json": whole(b"<html>", 200, "text/html"),
        "not-http": raw(b"\x00\x01\x02"),
        "flat-400": whole(FLAT, 400),
        "nested-400": whole(NESTED, 400),
        "detail-404": whole(b'{"detail":"Not Found"}', 404),
        "401": whole(b'{"error":"Unauthorized"}', 401),
        "429": whole(NESTED, 429),
        "500": whole(b"", 500),
        "503": whole(FLAT, 503),
        "reset": reset(),
        "end": raw(b""),
        "silence": silence(),
    }


def stalled(data: bytes) -> Answer:
    async def answer(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(data)
        await asyncio.sleep(3600)

    return answer


Ask = tuple[bool, list[str], str, str | None]


class World:
    """A gateway over three engines that do with each attempt what the request's `x-script` says."""

    def __init__(self, runner: asyncio.Runner, retry: dict[str, float]) -> None:
        self.runner = runner
        self.retry = retry
        self.sent = 0
        self.stack = AsyncExitStack()
        self.run: RunningGateway
        self._scripts: dict[str, Answer] = {}
        self._attempts: dict[str, int] = {}

    async def start(self) -> None:
        self._scripts = scripts()
        a, b, c = [await self.stack.enter_async_context(fake_engine(self.answer)) for _ in range(3)]
        pools = [
            {"name": "v", "engine": "vllm", "replicas": [a.url, b.url], "model": "m"},
            {"name": "s", "engine": "sglang", "replicas": [c.url], "model": "m"},
        ]
        # Long enough for a slow machine, short enough for a stall in every other example.
        limits = {"first_byte_s": 0.15, "first_token_s": 0.15, "idle_s": 0.15}
        polling, queue = {"interval_s": 0.05}, {"interactive_deadline_s": 0.2}
        self.run = await self.stack.enter_async_context(
            gateway_of(pools, timeouts=limits, polling=polling, queue=queue, retry=self.retry, limit_s=None)
        )

    async def answer(self, request: Request, writer: asyncio.StreamWriter) -> None:
        if request.target == "/tokenize":
            await tokenised(request, writer)
            return
        script = request.headers["x-script"].split(",")
        number = request.headers["x-number"]
        attempt = self._attempts[number] = self._attempts.get(number, -1) + 1
        await self._scripts[script[min(attempt, len(script) - 1)]](request, writer)


async def tokenised(request: Request, writer: asyncio.StreamWriter) -> None:
    """As by a template that lets an answer be gone on with."""
    body = json.loads(request.body)
    if "prompt" in body:
        ids = list(body["prompt"].encode())
    else:
        ended = len(body["messages"]) > 1 and not body["continue_final_message"]
        ids = [1, *range(len(body["messages"])), *([9] if ended else [])]
    await whole(json.dumps({"tokens": ids, "count": len(ids)}).encode())(request, writer)


WORLDS = {
    "retries": {"continue_streams": False},
    "continues": {"budget_share": 1.0},
    "has no budget": {"budget_share": 0.0, "budget_floor_per_s": 0.0},
    "hedges": {"hedge_after": 1e-6, "hedge_floor_s": 0.03, "hedge_share": 1.0, "budget_share": 1.0},
    "waits": {"wait_s": 0.3, "budget_share": 1.0},
}


@pytest.fixture(scope="module", params=WORLDS)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = World(runner, WORLDS[request.param])
        runner.run(made.start())
        yield made
        runner.run(made.stack.aclose())


LEAVING = ("stays", "leaves at once", "leaves after the head", "leaves after a piece", "leaves in its body")
ASKS = st.tuples(
    st.booleans(),  # streams
    st.lists(st.sampled_from(sorted(scripts())), min_size=1, max_size=3),
    st.sampled_from(("stays", *LEAVING)),
    st.sampled_from((None, "same-id")),
)


async def ask(world: World, number: int, one: Ask) -> None:
    """One client; what it gets must be sound if it stays."""
    streams, script, leaving, request_id = one
    body = chat_bytes("x" * 1000, stream=streams)
    headers = {"x_script": ",".join(script), "x_number": str(number)}
    if request_id is not None:
        headers["x_request_id"] = request_id
    async with raw_client(world.run.url) as http:
        if leaving == "leaves in its body":
            await http.send(post_head(len(body), **headers) + body[:100])
            await http.leave()
            return
        await http.post(body, **headers)
        if leaving == "leaves at once":
            await http.leave()
            return
        status, head = await http.head()
        if leaving == "leaves after the head":
            await http.leave()
            return
        if leaving == "leaves after a piece":
            await http.reader.read(10)
            await http.leave()
            return
        await check(http, status, head, streams)


async def check(http: RawClient, status: int, head: dict[str, str], streams: bool) -> None:
    body = await http.body(head)
    if status != 200:
        assert status in (400, 404, 429, 500, 502, 503, 504)
        assert json.loads(body)["error"]["message"]
        assert ("retry-after" in head) == (status in (429, 503))
    elif head["content-type"] == "application/json":
        assert body == COMPLETION
    else:
        assert body.endswith(b"\n\n")
        last = body.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
        assert last == b"data: [DONE]" or json.loads(last.removeprefix(b"data: "))["error"]
        assert body.count(b"[DONE]") + body.count(b'"error"') >= 1
        ids = {json.loads(line[6:]).get("id") for line in body.split(b"\n") if line.startswith(b'data: {"id"')}
        assert len(ids) <= 1
        assert not (streams and b'"usage": {' in body)


async def all_ask(world: World, asks: list[Ask]) -> None:
    async with asyncio.timeout(LIMIT_S):
        numbers = range(world.sent, world.sent + len(asks))
        world.sent += len(asks)
        await asyncio.gather(*map(partial(ask, world), numbers, asks))
        await until(lambda: sum(outcomes(world.run).values()) >= world.sent and nothing_is_booked(world.run))
    assert sum(outcomes(world.run).values()) == world.sent
    assert all(replica.state == "up" for replica in world.run.gateway.snapshot().replicas)


@settings(max_examples=15)
@given(asks=st.lists(ASKS, min_size=1, max_size=8))
def test_every_request_ends_once(world: World, asks: list[Ask]) -> None:
    world.runner.run(all_ask(world, asks))


@pytest.mark.parametrize("leaving", LEAVING)
def test_every_script(world: World, leaving: str) -> None:
    world.runner.run(
        all_ask(world, [(streams, [name], leaving, None) for name in scripts() for streams in (False, True)])
    )
