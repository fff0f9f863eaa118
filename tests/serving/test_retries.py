"""Until the client has a byte, another replica takes over; what is nobody else's to solve is told at once."""

import asyncio
import json
import socket

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    Answer,
    chunked_head,
    fake_engine,
    frame,
    http_chunk,
    raw,
    reset,
    response,
    silence,
    stream,
    whole,
)
from gateways import (
    admin,
    chat,
    gateway_of,
    gateway_over,
    nothing_is_booked,
    openai_error,
    outcomes,
    post,
    retries,
)

from gateway.routing.facts import ReplicaRestarted

VLLM_503 = b'{"error":{"message":"The server is busy","type":"Service Unavailable","param":null,"code":503}}'
VLLM_500 = b'{"error":{"message":"EngineCore died","type":"InternalServerError","param":null,"code":500}}'
SGLANG_503 = b'{"object":"error","message":"The request queue is full.","type":"503","param":null,"code":503}'
RATE_LIMIT = b'{"error":{"message":"slow down","type":"rate_limit","param":null,"code":429}}'
SGLANG_FRAME = b'data: {"error":{"object":"error","message":"The request queue is full.","type":"503","code":503}}\n\n'
ABORTED = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": "abort"}
ABORTED_FRAME = b"data: " + json.dumps({"id": "c", "choices": [ABORTED]}).encode() + b"\n\n"

FAILURES: dict[str, tuple[Answer, int]] = {
    "reset before the head": (reset(), 502),
    "end before the head": (raw(b""), 502),
    "part of the head": (raw(b"HTTP/1.1 200 OK\r\ncontent-ty"), 502),
    "500": (whole(VLLM_500, 500), 500),
    "500 that is not JSON": (whole(b"<html>Internal Server Error", 500, "text/html"), 500),
    "502 of a proxy": (whole(b"", 502), 502),
    "vLLM's 503": (whole(VLLM_503, 503), 503),
    "SGLang's 503": (whole(SGLANG_503, 503), 503),
    "429": (whole(RATE_LIMIT, 429), 429),
    "not HTTP": (raw(b"SSH-2.0-OpenSSH_9.6\r\n"), 502),
    "a protocol upgrade": (raw(b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"), 502),
    "a redirection": (whole(b"", 307, extra="location: http://127.0.0.1:9/\r\n"), 502),
    "a body that is not JSON": (whole(b"<html>hello</html>", 200, "text/html"), 502),
    "a body that is not an object": (whole(b"[1]"), 502),
    "a body that breaks off": (raw(response(COMPLETION)[:-5]), 502),
    "an error whose body breaks off": (raw(response(VLLM_503, 503)[:-5]), 502),
    "chunks that break off": (raw(chunked_head("application/json") + http_chunk(COMPLETION)), 502),
    "chunks that are none": (raw(chunked_head("application/json") + b"zz\r\n" + COMPLETION), 502),
}
STREAM_FAILURES: dict[str, tuple[Answer, int]] = {
    "an error frame at once": (stream(SGLANG_FRAME, DONE), 503),
    "an abort at once": (stream(ABORTED_FRAME, DONE), 503),
    "no frame": (stream(), 502),
    "an end before the first frame": (stream(complete=False), 502),
    "an end in the first frame": (stream(frame("one")[:9], complete=False), 502),
    "503 instead": (whole(SGLANG_503, 503), 503),
    "a page instead": (whole(b"<html>", 200, "text/html"), 502),
}


@pytest.mark.parametrize("streams", [False, True])
async def test_another_replica_answers_and_without_one_the_client_is_told(streams: bool) -> None:
    sound = stream(frame("fine"), DONE) if streams else whole()
    async with fake_engine() as first, fake_engine(sound) as second:
        pools = [
            {"name": "both", "engine": "sglang", "replicas": [first.url, second.url], "model": "m"},
            {"name": "alone", "engine": "vllm", "replicas": [f"http://localhost:{first.port}"], "model": "lonely"},
        ]
        async with gateway_of(pools, routing={"policy": "round-robin"}) as run:
            for name, (failing, status) in (STREAM_FAILURES if streams else FAILURES).items():
                anew = ReplicaRestarted("both-0", run.gateway.clock())  # so that nothing is held against it
                run.gateway.router.observe(anew)
                before, lost, asked = outcomes(run), retries(run), len(first.requests)
                first.answer = failing
                for _ in range(2):
                    answer = await post(run, chat(stream=streams))
                    assert answer.status_code == 200, name
                    assert answer.content == (frame("fine") + DONE if streams else COMPLETION), name
                    assert answer.headers["x-prefixgate-replica"] == "both-1", name
                assert retries(run) - lost == len(first.requests) - asked > 0, name

                told = await post(run, chat(stream=streams, model="lonely"))
                assert told.status_code == status, name
                assert openai_error(told)["type"] not in ("503", ""), name
                assert ("retry-after" in told.headers) == (status in (429, 503)), name
                assert told.headers["x-prefixgate-replica"] == "alone-0", name
                ended = "engine_rejected" if status in (429, 503) else "engine_failed"
                now = {"completed": 2 + before.get("completed", 0), ended: 1 + before.get(ended, 0)}
                assert outcomes(run) == before | now, name
                assert nothing_is_booked(run), name


async def test_a_replica_that_refuses_connections_is_left_out_from_then_on() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        async with fake_engine() as gone, fake_engine() as sound:
            polling = {"interval_s": 60}
            urls = (gone.url, sound.url)
            async with gateway_over(*urls, routing={"policy": "round-robin"}, polling=polling) as run:
                dead = f"http://127.0.0.1:{reserved.getsockname()[1]}"
                backends = run.gateway.backends
                backends["p-0"] = type(backends["p-0"])(**{**_fields(backends["p-0"]), "url": dead})
                answers = [await post(run, chat()) for _ in range(4)]
                assert [answer.headers["x-prefixgate-replica"] for answer in answers] == ["p-1"] * 4
                assert retries(run) == 1
                [down] = [view for view in run.gateway.snapshot().replicas if view.name == "p-0"]
                assert down.state == "down"
                assert "no connection" in down.reason
                alone = await post(run, chat(), headers={"x-prefixgate-replica": "p-0"})
                assert alone.status_code == 503
                assert "no connection" in openai_error(alone)["message"]
                assert alone.headers["retry-after"] == "2"


def _fields(backend: object) -> dict[str, object]:
    return {name: getattr(backend, name) for name in type(backend).__struct_fields__}  # type: ignore[attr-defined]


async def test_no_more_replicas_are_tried_than_allowed() -> None:
    dead = whole(VLLM_500, 500)
    async with fake_engine(dead) as a, fake_engine(dead) as b, fake_engine(reset()) as c:
        for most, expected in ((1, 1), (2, 2), (9, 3)):
            for engine in (a, b, c):
                engine.requests.clear()
            async with gateway_over(a.url, b.url, c.url, routing={"max_attempts": most}) as run:
                answer = await post(run, chat())
                tried = [engine for engine in (a, b, c) if engine.requests]
                assert sum(len(engine.requests) for engine in (a, b, c)) == len(tried) == expected
                assert answer.status_code in (500, 502)
                openai_error(answer)
                assert retries(run) == expected - 1
                assert outcomes(run) == {"engine_failed": 1}
                assert nothing_is_booked(run)


async def test_the_retries_show_in_the_metrics() -> None:
    async with (
        fake_engine(reset()) as broken,
        fake_engine() as sound,
        gateway_over(broken.url, sound.url, routing={"policy": "round-robin"}) as run,
    ):
        for _ in range(2):
            await post(run, chat())
        async with admin(run) as http:
            page = (await http.get("/metrics")).text
    labels = 'model="m",pool="p",reason="connection",replica="p-0"'
    assert f"prefixgate_retries_total{{{labels}}} {len(broken.requests)}.0" in page
    assert broken.requests


REFUSALS = {
    400: b'{"error":{"message":"max_tokens is too large","type":"BadRequestError","param":"max_tokens","code":400}} ',
    404: b'{"error":{"message":"The model `m` does not exist.","type":"NotFoundError","param":"model","code":404}}',
    422: b'{"error":{"message":"no","type":"UnprocessableEntityError","param":null,"code":422},"extra":1.0}',
}


async def test_vllms_refusal_passes_as_it_is_and_is_not_tried_again() -> None:
    async with fake_engine() as a, fake_engine() as b, gateway_over(a.url, b.url) as run:
        for count, (status, body) in enumerate(REFUSALS.items(), 1):
            a.answer = b.answer = whole(body, status)
            for streams in (False, True):
                answer = await post(run, chat(stream=streams))
                assert (answer.status_code, answer.content) == (status, body)
                assert answer.headers["x-prefixgate-replica"] in ("p-0", "p-1")
            assert outcomes(run) == {"engine_rejected": 2 * count}
            assert len(a.requests) + len(b.requests) == 2 * count


async def test_sglangs_flat_refusal_becomes_openais() -> None:
    flat = b'{"object":"error","message":"too long","type":"BadRequestError","param":"messages","code":400}'
    async with (
        fake_engine(whole(flat, 400)) as a,
        fake_engine(whole(flat, 400)) as b,
        gateway_over(a.url, b.url, engine="sglang") as run,
    ):
        answer = await post(run, chat())
    assert answer.status_code == 400
    expected = {"message": "too long", "type": "BadRequestError", "param": "messages", "code": 400}
    assert openai_error(answer) == expected
    assert len(a.requests) + len(b.requests) == 1


async def test_sglangs_flat_404_keeps_its_message() -> None:
    flat = b'{"object":"error","message":"Response with id \'r\' not found.","type":"NotFound","param":null,"code":404}'
    async with fake_engine(whole(flat, 404)) as engine, gateway_over(engine.url, engine="sglang") as run:
        answer = await post(run, {"model": "m", "input": "x"}, "/v1/responses")
    assert answer.status_code == 404
    assert openai_error(answer)["message"] == "Response with id 'r' not found."


async def test_an_engine_that_wants_a_key_is_the_gateways_fault() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for status in (401, 403):
            for body in (b'{"error":"Unauthorized"}', b'{"error":{"message":"no key","type":"x"}}', b""):
                engine.answer = whole(body, status)
                answer = await post(run, chat())
                assert answer.status_code == 502
                assert "api_key_env" in openai_error(answer)["message"]


async def test_an_error_page_without_end_is_not_read_to_its_end() -> None:
    async with fake_engine(whole(b"x" * 2_000_000, 400)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat())
    assert answer.status_code == 502
    assert "longer than" in openai_error(answer)["message"]


@pytest.mark.parametrize("streams", [False, True])
async def test_engines_that_begin_no_answer_are_asked_in_turn_and_none_is_waited_for(streams: bool) -> None:
    async with (
        fake_engine(silence()) as a,
        fake_engine(silence()) as b,
        gateway_over(a.url, b.url, timeouts={"first_byte_s": 0.2, "first_token_s": 0.2}) as run,
    ):
        answer = await post(run, chat(stream=streams))
        await a.left.wait()
        await b.left.wait()
        assert outcomes(run) == {"timed_out": 1}
        assert nothing_is_booked(run)
    assert answer.status_code == 504
    assert openai_error(answer)["type"] == "timeout_error"
    assert len(a.requests) == len(b.requests) == 1


async def test_a_long_prompt_may_take_longer_to_its_first_token() -> None:
    timeouts = {"first_token_s": 0.1, "first_token_s_per_1k": 1000.0}
    async with fake_engine(silence()) as engine, gateway_over(engine.url, timeouts=timeouts) as run:
        short = await post(run, chat("a", stream=True))
        async with asyncio.timeout(20):
            long = asyncio.create_task(post(run, chat("a" * 2000, stream=True)))
            while len(engine.requests) < 2:  # noqa: ASYNC110 - the engine has no event for it
                await asyncio.sleep(0.01)
            assert not (await asyncio.wait([long], timeout=1.0))[0]
            long.cancel()
    assert short.status_code == 504
    assert "began no answer" in openai_error(short)["message"]


async def test_a_head_alone_is_no_beginning() -> None:
    async def only_head(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        await writer.drain()
        await asyncio.sleep(60)

    timeouts = {"first_token_s": 0.2}
    async with fake_engine(only_head) as engine, gateway_over(engine.url, timeouts=timeouts) as run:
        answer = await post(run, chat(stream=True))
    assert answer.status_code == 504


async def test_no_answer_may_take_longer_than_all_of_the_time() -> None:
    async def drip(_request: object, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(600):
            writer.write(http_chunk(frame("a")))
            await writer.drain()
            await asyncio.sleep(0.05)

    async with fake_engine(drip) as engine, gateway_over(engine.url, timeouts={"total_s": 0.5}) as run:
        answer = await post(run, chat(stream=True))
        assert outcomes(run) == {"timed_out": 1}
    assert answer.content.startswith(frame("a"))
    assert b'"error"' in answer.content
    assert b"[DONE]" not in answer.content


async def test_a_kept_connection_is_no_reason_to_wait_twice() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, timeouts={"first_byte_s": 0.2}) as run:
        await post(run, chat())
        engine.answer = silence()
        answer = await post(run, chat())
    assert answer.status_code == 504
    assert len(engine.requests) == 2


async def test_no_connection_within_the_limit() -> None:
    # A listener whose queue of one is full takes no further connection, and refuses none.
    with socket.socket() as busy, socket.socket() as one, socket.socket() as two:
        busy.bind(("127.0.0.1", 0))
        busy.listen(0)
        one.connect(busy.getsockname())
        two.setblocking(False)
        two.connect_ex(busy.getsockname())
        async with fake_engine() as engine, gateway_over(engine.url, timeouts={"connect_s": 0.2}) as run:
            backends = run.gateway.backends
            url = f"http://127.0.0.1:{busy.getsockname()[1]}"
            backends["p-0"] = type(backends["p-0"])(**{**_fields(backends["p-0"]), "url": url})
            answer = await post(run, chat())
    assert answer.status_code == 502
    assert "no connection within 0.2 s" in openai_error(answer)["message"]
