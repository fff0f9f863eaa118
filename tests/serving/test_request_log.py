"""One line for each request, with what was decided and what came of it, and nothing that is secret."""

import asyncio
import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_engine import DONE, FakeEngine, fake_engine, frame, stream, whole
from gateways import chat, client, gateway_over, post

from gateway.routing.facts import Outcome
from gateway.serving.messages import say_on_stderr
from gateway.serving.request_log import WAITING_LINES, RequestLine, RequestLog
from gateway.serving.server import RunningGateway


@pytest.fixture
def stderr(capfd: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """What was written so far, line by line, as JSON."""

    def lines() -> list[dict[str, Any]]:
        return [json.loads(line) for line in capfd.readouterr().err.splitlines()]

    return lines


def gateway(engine: FakeEngine, requests: str = "all") -> Any:
    return gateway_over(engine.url, log={"requests": requests})


async def asked(run: RunningGateway, **more: Any) -> int:
    async with client(run) as http:
        headers = {"authorization": "Bearer secret-key", "x-request-id": "the-id"}
        answer = await http.post("/v1/chat/completions", json=chat("a secret", **more), headers=headers)
        return answer.status_code


async def test_a_line_tells_who_where_and_what_came_of_it(stderr: Any) -> None:
    async with fake_engine(whole()) as engine, gateway(engine) as run:
        assert await asked(run) == 200
    (line,) = stderr()
    wanted = {"request": "the-id", "endpoint": "/v1/chat/completions", "outcome": "completed", "model": "m",
              "pool": "p", "replica": "p-0", "policy": "ttft", "attempts": 1}  # fmt: skip
    assert wanted.items() <= line.items()
    assert line["tenant"].startswith("key-")
    assert line["prompt_tokens"] > 0
    assert line["total_ms"] > 0
    assert "secret" not in json.dumps(line)


async def test_a_stream_has_its_first_token(stderr: Any) -> None:
    async with fake_engine(stream(frame("fine"), DONE)) as engine, gateway(engine) as run:
        assert await asked(run, stream=True) == 200
    (line,) = stderr()
    assert 0 < line["ttft_ms"] <= line["total_ms"]


async def test_only_problems_unless_more_is_wished(stderr: Any) -> None:
    async with fake_engine(whole()) as engine, gateway(engine, "problems") as run:
        await asked(run)
        await asked(run, model="unknown")
        engine.answer = whole(b'{"object":"error","message":"a secret","type":"InternalServerError","code":500}', 500)
        await asked(run)
    refused, failed = stderr()
    assert (refused["outcome"], refused["reason"]) == ("rejected", "model_not_found")
    assert "replica" not in refused
    assert (failed["outcome"], failed["replica"]) == ("engine_failed", "p-0")
    assert failed["reason"]
    assert "secret" not in json.dumps([refused, failed])


async def test_none_where_none_are_wished(stderr: Any) -> None:
    async with fake_engine(whole(b"{}", 500)) as engine, gateway(engine, "none") as run:
        await asked(run)
    assert stderr() == []


async def test_a_retried_request_is_a_problem(stderr: Any) -> None:
    async with (
        fake_engine(whole(b"{}", 500)) as bad,
        fake_engine() as good,
        gateway_over(bad.url, good.url, routing={"policy": "round-robin"}, log={"requests": "problems"}) as run,
    ):
        for _ in range(2):
            assert (await post(run, chat())).status_code == 200
    told = [(line["outcome"], line["attempts"], line["replica"]) for line in stderr()]
    assert told == [("completed", 2, "p-1")] * len(told) != []


def line(number: int = 0) -> RequestLine:
    return RequestLine("now", f"r{number}", "/v1/x", "t", Outcome.COMPLETED, 1.0)


async def test_who_does_not_read_costs_lines_but_no_time(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    log = RequestLog(everything=True, file=writer)
    for number in range(WAITING_LINES + 7):
        log.add(line(number))
    assert log.dropped == 7
    assert "7 lines" in log.notices()[0]
    closing = asyncio.create_task(log.close())
    read = b""
    while read.count(b"\n") < WAITING_LINES:
        read += await asyncio.to_thread(os.read, reader, 1 << 16)
    await closing
    os.close(reader)
    os.close(writer)
    assert json.loads(read.splitlines()[-1])["request"] == f"r{WAITING_LINES - 1}"


async def test_a_closed_stderr_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    log = RequestLog(everything=True, file=writer)
    log.add(line())
    await log.close()
    os.close(writer)
    assert log.dropped == 1


def test_messages_are_text_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        root.handlers.clear()
        say_on_stderr("json", "worker-1")
        try:
            raise ValueError("two\nlines")
        except ValueError:
            logging.getLogger("prefixgate").warning("it %s", "broke", exc_info=True)
        said = json.loads(capsys.readouterr().err)
        assert (said["level"], said["worker"], said["message"]) == ("warning", "worker-1", "it broke")
        assert "ValueError" in said["traceback"]
        root.handlers.clear()
        say_on_stderr("text", "worker-1")
        logging.getLogger("prefixgate").warning("it broke")
        assert capsys.readouterr().err.endswith("WARNING prefixgate worker-1 it broke\n")
    finally:
        root.handlers[:] = before
