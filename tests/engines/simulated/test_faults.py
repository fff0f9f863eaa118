"""The faults that a simulated engine has on order, as its clients meet them."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.registry import dialect as dialect_of
from engines.simulated.lies import told

DIALECTS = pytest.mark.parametrize("dialect", ["vllm", "sglang"])
CHAT = "/v1/chat/completions"
BODY = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 20, "ignore_eos": True}
STREAM = {**BODY, "stream": True}


async def order(client: httpx.AsyncClient, **fault: Any) -> None:
    answer = await client.post("/sim/fault", json=fault)
    assert answer.status_code == 200, answer.text


async def read(client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[bytes, type[Exception] | None]:
    """What came, and how that ended."""
    got = b""
    try:
        async with client.stream("POST", CHAT, json=body, timeout=0.5) as answer:
            async for part in answer.aiter_raw():
                got += part
    except httpx.HTTPError as error:
        return got, type(error)
    return got, None


Broken = Callable[[httpx.AsyncClient, dict[str, Any]], Awaitable[tuple[bytes, type[Exception] | None]]]
ENDS: dict[str, tuple[type[Exception] | None, type[Exception] | None]] = {
    "hang": (httpx.ReadTimeout, httpx.ReadTimeout),
    "not-http": (httpx.RemoteProtocolError, httpx.RemoteProtocolError),
    "stall": (httpx.ReadTimeout, httpx.ReadTimeout),
    "close": (httpx.RemoteProtocolError, httpx.RemoteProtocolError),
    "reset": (httpx.ReadError, httpx.ReadError),
    "bad-chunks": (httpx.RemoteProtocolError, httpx.RemoteProtocolError),
    "bad-json": (None, None),
    "broken-sse": (None, None),
}


@DIALECTS
@pytest.mark.parametrize("fault", ENDS)
async def test_how_a_stream_and_a_plain_answer_break(dialect: str, fault: str, connect: Any) -> None:
    async with connect(dialect=dialect, speed=100.0) as client:
        await order(client, fault=fault, after_tokens=3, count=None)
        streamed, whole = await asyncio.gather(read(client, STREAM), read(client, BODY))
        assert (streamed[1], whole[1]) == ENDS[fault]
        assert b"[DONE]" not in streamed[0]
        if fault not in ("hang", "not-http", "reset"):  # a reset may take away what was sent
            assert streamed[0].count(b'"content":" ') == 3
            with pytest.raises(ValueError, match=r"char|line|delimiter|Unterminated|Expecting"):
                json.loads(whole[0])
        assert (await client.get("/health")).status_code == 200  # inference is dead, and health does not know
        await order(client)
        assert (await client.post(CHAT, json=BODY)).status_code == 200


@DIALECTS
@pytest.mark.parametrize("fault", ["stall", "reset", "close", "bad-json"])
async def test_before_the_first_token(dialect: str, fault: str, connect: Any) -> None:
    async with connect(dialect=dialect, speed=100.0) as client:
        await order(client, fault=fault)
        got, ended = await read(client, STREAM)
        assert b'"content":" ' not in got
        assert ended is not None or fault == "bad-json"


@DIALECTS
async def test_a_fault_lasts_for_so_many_requests(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect, speed=100.0) as client:
        await order(client, fault="refuse", status=429, count=2)
        assert [(await client.post(CHAT, json=BODY)).status_code for _ in range(3)] == [429, 429, 200]


async def test_overload_in_each_dialects_words(connect: Any) -> None:
    async with connect(dialect="vllm") as client:
        await order(client, fault="overload", count=None)
        assert (await client.post(CHAT, json=STREAM)).status_code == 503
    async with connect(dialect="sglang") as client:
        await order(client, fault="overload", count=None)
        assert (await client.post(CHAT, json=BODY)).status_code == 503
        answer = await client.post(CHAT, json=STREAM)
        assert (answer.status_code, answer.text.count("data: ")) == (200, 2)
        assert json.loads(answer.text.partition("\n")[0].removeprefix("data: "))["error"]["code"] == 503


@DIALECTS
async def test_slow(dialect: str, connect: Any) -> None:
    loop = asyncio.get_running_loop()
    async with connect(dialect=dialect, speed=1000.0) as client:
        await order(client, slow=300)  # 20 tokens take 3 ms each instead of a hundredth of that
        began = loop.time()
        assert (await client.post(CHAT, json=BODY)).status_code == 200
        assert loop.time() - began > 19 * 0.003


@DIALECTS
@pytest.mark.parametrize("lie", ["zero", "absurd", "nan", "missing", "garbage"])
async def test_lies_are_told_and_our_dialect_survives_them(dialect: str, lie: str, connect: Any) -> None:
    speaks = dialect_of(dialect)
    async with connect(dialect=dialect, speed=100.0) as client:
        await client.post(CHAT, json=BODY)

        async def pages() -> dict[str, bytes]:
            answers = {path: await client.get(path) for path in speaks.load_paths}
            return {path: answer.content for path, answer in answers.items() if answer.status_code == 200}

        truth = await pages()
        await order(client, metrics=lie)
        lied = await pages()
        assert lied.keys() == truth.keys()
        assert all(lied[path] != truth[path] for path in truth)
        speaks.read_load(lied)
        await order(client)
        assert speaks.read_load(await pages()).waiting_requests == 0


async def test_orders_that_make_no_sense(connect: Any) -> None:
    async with connect() as client:
        for body in ({"fault": "lightning"}, {"metrics": "true"}, {"slow": 0}, {"slow": "nan"}):
            assert (await client.post("/sim/fault", json=body)).status_code == 400


@given(st.dictionaries(st.sampled_from(["num_running_reqs", "queues", "rank"]), st.integers() | st.booleans()))
def test_a_lie_about_json_is_json(page: dict[str, Any]) -> None:
    for lie in ("zero", "absurd", "nan", "missing"):
        assert "rank" not in page or json.loads(told(json.dumps(page).encode(), lie))["rank"] == page["rank"]  # type: ignore[arg-type]
