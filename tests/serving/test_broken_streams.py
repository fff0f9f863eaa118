"""After the first byte a failure is an error frame, and the stream ends without [DONE]."""

import asyncio
import json

import pytest
from fake_engine import DONE, Request, chunked_head, fake_engine, frame, held_stream, http_chunk, response, stream
from gateways import chat, gateway_over, nothing_is_booked, openai_error, outcomes, post, until

from gateway.routing.facts import Finished

ERROR = b'data: {"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}\n\n'


def last_error(content: bytes) -> dict[str, object]:
    """The error of the last frame; there must be no [DONE]."""
    assert b"[DONE]" not in content
    assert content.endswith(b"\n\n")
    last = content.removesuffix(b"\n\n").rpartition(b"\n\n")[2]
    data = next(line for line in last.split(b"\n") if line.startswith(b"data: "))
    error: dict[str, object] = json.loads(data.removeprefix(b"data: "))["error"]
    return error


@pytest.mark.parametrize("asks_for_usage", [False, True])
async def test_an_engine_that_breaks_off(asks_for_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    async with (
        fake_engine(stream(frame("one"), complete=False)) as a,
        fake_engine() as b,
        gateway_over(a.url, b.url) as run,
    ):
        answer = await post(run, chat(stream=True, **options), headers={"x-prefixgate-replica": "p-0"})
        assert outcomes(run) == {"engine_failed": 1}
        assert nothing_is_booked(run)
    assert answer.status_code == 200
    assert answer.content.startswith(frame("one"))
    assert last_error(answer.content)["type"] == "bad_gateway"
    assert not b.requests


@pytest.mark.parametrize("asks_for_usage", [False, True])
async def test_an_engine_that_breaks_off_within_a_frame(asks_for_usage: bool) -> None:
    options = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
    answers = stream(frame("one"), frame("two")[:20], complete=False)
    async with fake_engine(answers) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True, **options))
    assert last_error(answer.content)["type"] == "bad_gateway"


async def test_a_stream_that_ends_without_done() -> None:
    async with fake_engine(stream(frame("one"))) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True))
        assert outcomes(run) == {"engine_failed": 1}
    assert answer.content.startswith(frame("one"))
    assert "before it was complete" in str(last_error(answer.content)["message"])


async def test_garbage_in_the_middle() -> None:
    async def answer_(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(chunked_head() + http_chunk(frame("one")) + b"zz\r\n")

    async with fake_engine(answer_) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True))
        assert outcomes(run) == {"engine_failed": 1}
    assert answer.content.startswith(frame("one"))
    assert "not HTTP" in str(last_error(answer.content)["message"])


async def test_the_engines_own_error_frame_passes_and_no_done_follows() -> None:
    cuts = (
        (ERROR, DONE),
        (ERROR + DONE,),
        (ERROR,),
        (ERROR + b"data: [DO", b"NE]\n\n"),
        (ERROR[:30], ERROR[30:] + DONE),
        (frame("two") + ERROR + DONE,),
    )
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for asks_for_usage in (False, True):
            options = {"stream_options": {"include_usage": True}} if asks_for_usage else {}
            for cut in cuts:
                engine.answer = stream(frame("one"), *cut)
                answer = await post(run, chat(stream=True, **options))
                between = frame("two") if frame("two") in cut[0] else b""
                assert answer.content == frame("one") + between + ERROR, cut
        assert outcomes(run) == {"engine_failed": 2 * len(cuts)}
        assert nothing_is_booked(run)


async def test_done_with_other_line_ends_does_not_follow_an_error_either() -> None:
    ends = [piece.replace(b"\n", b"\r\n") for piece in (frame("one"), ERROR + DONE)]
    async with fake_engine(stream(*ends)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True))
    assert answer.content == (frame("one") + ERROR).replace(b"\n", b"\r\n")


async def test_anthropic_clients_get_an_error_event() -> None:
    start = b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":3}}}\n\n'
    delta = b'event: content_block_delta\ndata: {"type":"content_block_delta","delta":{"text":"x"}}\n\n'
    async with fake_engine(stream(start, delta, complete=False)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True, max_tokens=9), "/v1/messages")
    assert answer.content.startswith(start + delta)
    event, data = answer.content.removeprefix(start + delta).removesuffix(b"\n\n").split(b"\n")
    assert event == b"event: error"
    assert json.loads(data.removeprefix(b"data: "))["type"] == "error"


async def test_a_failed_responses_stream() -> None:
    begin = b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"x"}\n\n'
    failed = b'event: response.failed\ndata: {"type":"response.failed","response":{"error":{"message":"died"}}}\n\n'
    async with fake_engine(stream(begin, failed)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, {"model": "m", "input": "x", "stream": True}, "/v1/responses")
        assert outcomes(run) == {"engine_failed": 1}
    assert answer.content == begin + failed


async def test_an_engine_that_stops_in_the_middle_of_a_stream() -> None:
    answers = held_stream(asyncio.Event(), frame("one"))
    async with fake_engine(answers) as engine, gateway_over(engine.url, timeouts={"idle_s": 0.2}) as run:
        answer = await post(run, chat(stream=True))
        await engine.left.wait()
        assert outcomes(run) == {"timed_out": 1}
        assert nothing_is_booked(run)
    assert answer.content.startswith(frame("one"))
    assert last_error(answer.content)["type"] == "timeout_error"


@pytest.mark.parametrize("delimited", [True, False])
async def test_an_engine_that_stops_in_the_middle_of_a_plain_answer(delimited: bool) -> None:
    whole = response(b'{"a":1}')
    begun = whole[:-3] if delimited else b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n{}"

    async def answer_(_request: Request, writer: asyncio.StreamWriter) -> None:
        writer.write(begun)
        await asyncio.sleep(3600)

    async with fake_engine(answer_) as engine, gateway_over(engine.url, timeouts={"idle_s": 0.2}) as run:
        answer = await post(run, chat())
        await until(engine.left.is_set)
        assert outcomes(run) == {"timed_out": 1}
    assert answer.status_code == 504
    assert openai_error(answer)["type"] == "timeout_error"


async def test_a_last_frame_without_its_blank_line() -> None:
    done = DONE.rstrip(b"\n")
    async with fake_engine(stream(frame("one"), done)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True))
        assert answer.content == frame("one") + done
        assert outcomes(run) == {"completed": 1}
        for pieces in ((frame("one").rstrip(b"\n"),), (frame("one"), frame("two")[:20])):
            engine.answer = stream(*pieces)
            answer = await post(run, chat(stream=True))
            assert answer.content.startswith(frame("one"))
            assert b"two" not in answer.content  # half a frame is of no use, and the stream might have gone on
            assert "before it was complete" in str(last_error(answer.content)["message"])
        assert outcomes(run) == {"completed": 1, "engine_failed": 2}


async def test_a_bug_of_ours_in_the_middle_of_a_stream(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_engine(stream(frame("one"), DONE)) as engine, gateway_over(engine.url) as run:
        observe = run.gateway.observe

        def broken(fact: object) -> None:
            if isinstance(fact, Finished):
                raise ZeroDivisionError("our secret")
            observe(fact)  # type: ignore[arg-type]

        monkeypatch.setattr(run.gateway, "observe", broken)
        answer = await post(run, chat(stream=True))
    assert answer.content.startswith(frame("one"))
    assert b'"internal_error"' in answer.content
    assert b"secret" not in answer.content
    assert "our secret" in caplog.text
