"""Bodies that no client should send, at every endpoint that takes one: told what is wrong, or served; never our bug."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest
import uvloop
from fake_engine import COMPLETION, FakeEngine, fake_engine
from gateways import LIMIT_S, at_rest, chat_bytes, gateway_over, until
from hypothesis import given, settings
from hypothesis import strategies as st
from raw_client import RawClient, raw_client

from gateway.serving.server import RunningGateway
from gateway.wire.request import Endpoint

TURNS = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]}]
TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
VALID: dict[str, dict[str, Any]] = {
    Endpoint.CHAT: {"model": "m", "messages": TURNS, "tools": TOOLS, "max_tokens": 5, "stream": False, "user": "u",
                    "stream_options": {"include_usage": True}, "chat_template_kwargs": {"thinking": True}},
    Endpoint.COMPLETIONS: {"model": "m", "prompt": ["one", "two"], "max_tokens": 5, "cache_salt": "s", "n": 1},
    Endpoint.RESPONSES: {"model": "m", "input": TURNS, "instructions": "be brief", "reasoning": {"effort": "low"},
                         "previous_response_id": None, "tools": TOOLS},
    Endpoint.MESSAGES: {"model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "s"}], "messages": TURNS,
                        "thinking": {"type": "enabled", "budget_tokens": 10}, "metadata": {"user_id": "u"}},
    Endpoint.EMBEDDINGS: {"model": "m", "input": [[1, 2, 3], [4]]},
    Endpoint.RERANK: {"model": "m", "query": "q", "documents": ["a", {"text": "b"}]},
    Endpoint.TOKENIZE: {"model": "m", "messages": TURNS, "add_generation_prompt": True},
    Endpoint.DETOKENIZE: {"model": "m", "tokens": [1, 2, 3]},
}  # fmt: skip


@dataclass(frozen=True)
class Written:
    """JSON, or what should have been, as it is written: json.dumps would not."""

    text: bytes


def deep(opening: bytes, closing: bytes, depth: int) -> Written:
    return Written(opening * depth + closing * depth)


ODD = st.one_of(
    st.sampled_from(
        [None, True, False, 0, -1, 1.5, "", "x" * 5000, "\0", "é\u2028\U0001f600", [], {}, [[]], [None], [{}]]
    ),
    st.sampled_from(
        [
            Written(text)
            for text in (
                *(
                    b"1e999",
                    b"-1e999",
                    b"1" + b"0" * 400,
                    b"-0",
                    b"1.0e-400",
                    b"9223372036854775808",
                    b"0.1" + b"1" * 500,
                ),
                *(rb'"\ud800"', rb'"\udfff\ud800"', rb'"\u0000"', b'"\xff\xfe"', b'"\xed\xa0\x80"', b'"\0"', rb'"\x"'),
                *(b"NaN", b"Infinity", b"nul", b"01", b"+1", b"'x'", b"/* x */ 1", b"\xef\xbb\xbf1", b'{"a":1,"a":[]}'),
                *(b'{"":{}}', b"[1,]", b'{"a":1,}', b'{"a"}', b"[", b"}", b'"', b"\\"),
            )
        ]
    ),
    st.builds(deep, st.just(b"["), st.just(b"]"), st.sampled_from([10, 900, 5000, 200_000])),
    st.builds(deep, st.just(b'{"a":'), st.just(b"}"), st.sampled_from([10, 900, 5000])),
)
PLACE = st.lists(st.integers(0, 7), min_size=1, max_size=5)
CHANGE = st.tuples(st.sampled_from(["replace", "delete", "double", "rename", "add"]), PLACE, ODD)
TEAR = st.one_of(
    st.tuples(st.just("cut"), st.integers(0, 400), st.just(b"")),
    st.tuples(
        st.just("insert"),
        st.integers(0, 400),
        st.sampled_from([b"\0", b"\xff", b'"', b"{", b"]", b"\\", b",", b":", b"\xc3", b"\r\n", b"  ", b"\\ud800"]),
    ),
    st.tuples(st.just("overwrite"), st.integers(0, 400), st.binary(min_size=1, max_size=4)),
)


def write(value: Any) -> bytes:
    """As JSON; an object is a list of pairs, so that keys may come twice."""
    if isinstance(value, Written):
        return value.text
    if isinstance(value, dict):
        value = Pairs([[key, one] for key, one in value.items()])
    if isinstance(value, Pairs):
        return b"{" + b",".join(write(key) + b":" + write(one) for key, one in value.pairs) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(write, value)) + b"]"
    return json.dumps(value).encode()


@dataclass
class Pairs:
    """An object whose keys may come twice."""

    pairs: list[list[Any]]


def opened(value: Any) -> Any:
    if isinstance(value, dict):
        return Pairs([[key, opened(one)] for key, one in value.items()])
    return [opened(one) for one in value] if isinstance(value, list) else value


def change(body: Pairs, how: str, place: list[int], odd: Any) -> None:
    """Change one thing somewhere in a body: `place` says at which turn to go where."""
    odd = deepcopy(odd)  # else one change would grow into the values of those that follow
    holder: Any = body
    rows = holder.pairs
    for step in place[:-1]:
        if not rows:
            break
        row = rows[step % len(rows)]
        inner = row[1] if isinstance(holder, Pairs) else row
        if not isinstance(inner, (Pairs, list)):
            break
        holder, rows = inner, inner.pairs if isinstance(inner, Pairs) else inner
    at = place[-1] % len(rows) if rows else 0
    if how == "add" or not rows:
        rows.insert(at, ["x", odd] if isinstance(holder, Pairs) else odd)
    elif how == "delete":
        del rows[at]
    elif how == "double":
        rows.append([rows[at][0], odd] if isinstance(holder, Pairs) else deepcopy(rows[at]))
    elif how == "rename" and isinstance(holder, Pairs):
        rows[at][0] = odd if isinstance(odd, (str, Written)) else "renamed"
    elif isinstance(holder, Pairs):
        rows[at][1] = odd
    else:
        rows[at] = odd


def tear(raw: bytes, how: str, at: int, data: bytes) -> bytes:
    at = min(at, len(raw))
    if how == "cut":
        return raw[:at]
    return raw[:at] + data + raw[at if how == "insert" else at + len(data) :]


class World:
    """A gateway over one engine that says yes to all."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self.runner = runner
        self.stack = AsyncExitStack()
        self.engine: FakeEngine
        self.run: RunningGateway

    async def start(self) -> None:
        self.engine = await self.stack.enter_async_context(fake_engine())
        limits = {"first_byte_s": 10}
        self.run = await self.stack.enter_async_context(gateway_over(self.engine.url, timeouts=limits, limit_s=None))


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        made = World(runner)
        runner.run(made.start())
        yield made
        runner.run(made.stack.aclose())


async def sound(http: RawClient, raw: bytes, path: str) -> int:
    """Send a body; whatever is said to it must be in our shape, and no bug of ours."""
    await http.post(raw, path)
    status, headers, body = await http.answer()
    assert status == 200 or 400 <= status < 500, (status, body, raw[:500])
    assert "connection" not in headers, (status, raw[:500])
    if status != 200:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert len(error["message"]) < 2000 + len(raw)
    return status


async def all_sound(world: World, path: str, bodies: list[bytes]) -> None:
    """One after the other over one connection, and then an ordinary request over the same."""
    url = world.run.url if path in VALID else world.run.admin_url
    async with asyncio.timeout(LIMIT_S), raw_client(url) as http:
        for raw in bodies:
            world.engine.requests.clear()
            status = await sound(http, raw, path)
            if path in VALID:
                reached = [request.body for request in world.engine.requests]
                assert len(reached) == (status == 200)
                assert all(means(sent) == means(raw) for sent in reached), (raw[:500], reached[0][:500])
        if path in VALID:
            await http.post(chat_bytes())
            assert (await http.answer())[2] == COMPLETION
    async with asyncio.timeout(LIMIT_S):
        await until(lambda: at_rest(world.run))


def means(raw: bytes) -> object:
    """What a lenient reader takes a body for, without what the gateway may add."""
    try:
        body = json.loads(raw.decode("utf-8", "surrogatepass"), parse_int=str, parse_float=str, parse_constant=str)
    except RecursionError:
        return raw
    return {key: value for key, value in body.items() if key != "stream_options"} if isinstance(body, dict) else body


@pytest.mark.parametrize("path", [*VALID, "/api/explain"])
@settings(max_examples=40)
@given(changes=st.lists(st.lists(CHANGE, min_size=1, max_size=3), min_size=1, max_size=4))
def test_valid_bodies_with_something_odd_in_them(world: World, path: str, changes: list[list[Any]]) -> None:
    bodies = []
    for together in changes:
        body = opened(VALID.get(path, VALID[Endpoint.CHAT]))
        for how, place, odd in together:
            change(body, how, place, odd)
        bodies.append(write(body))
    world.runner.run(all_sound(world, path, bodies))


@pytest.mark.parametrize("path", [*VALID, "/api/explain"])
@settings(max_examples=40)
@given(tears=st.lists(st.lists(TEAR, min_size=1, max_size=3), min_size=1, max_size=4))
def test_valid_bodies_that_are_torn(world: World, path: str, tears: list[list[Any]]) -> None:
    bodies = []
    for together in tears:
        raw = write(VALID.get(path, VALID[Endpoint.CHAT]))
        for how, at, data in together:
            raw = tear(raw, how, at, data)
        bodies.append(raw)
    world.runner.run(all_sound(world, path, bodies))


@pytest.mark.parametrize("path", [*VALID, "/api/explain"])
@settings(max_examples=20)
@given(bodies=st.lists(st.binary(max_size=300) | ODD.map(write), min_size=1, max_size=4))
def test_anything_at_all(world: World, path: str, bodies: list[bytes]) -> None:
    world.runner.run(all_sound(world, path, bodies))
