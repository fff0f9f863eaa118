"""What the engine receives is what the client sent, and what the client receives is what the engine sent."""

import json

import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    chunked_head,
    fake_engine,
    frame,
    http_chunk,
    raw,
    response,
    stream,
    usage_frame,
    whole,
)
from gateways import chat, chat_bytes, client, gateway_over, post
from raw_client import raw_client

HELLO = b'"messages":[{"role":"user","content":"hi"}]'
BODIES = {
    "raw unicode": '{"model":"m","messages":[{"role":"user","content":"žluť 🐎 \u2028 \ufeff \x7f"}]}'.encode(),
    "escaped unicode": rb'{"model":"m","messages":[{"role":"user","content":"\u017e \ud83d\udc0e \/ \u0000 \b"}]}',
    "escaped keys": rb'{"\u006dodel":"m","messages":[{"r\u006fle":"user","content":"hi"}]}',
    "huge integer": b'{"model":"m",' + HELLO + b',"seed":1' + b"0" * 400 + b"}",
    "huge float": b'{"model":"m",' + HELLO + b',"temperature":1e400,"top_p":-1E+400,"x":0.10000000000000000000001}',
    "duplicate keys": b'{"model":7,"messages":[],"model":"m",' + HELLO + b',"n":1,"n":2}',
    "odd whitespace": b' \r\n{ "model"\t:\n"m" , \r\n' + HELLO + b"\n }\n\n ",
    "unknown fields": b'{"zeta":{"a":[1,{"b":null}]},"model":"m",' + HELLO + b',"alpha":[[],{}],"":0}',
    "not a stream": b'{"model":"m",' + HELLO + b',"stream":false,"stream_options":null}',
    "five megabytes": chat_bytes("long " * 1_000_000),
}


async def test_vllm_receives_the_body_as_it_was_sent() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for name, body in BODIES.items():
            answer = await post(run, body, headers={"x-request-id": name.replace(" ", "-")})
            assert (name, answer.status_code, answer.content) == (name, 200, COMPLETION)
            request = engine.requests.pop()
            assert request.body == body, name
            assert request.headers["content-length"] == str(len(body))
            assert request.headers["x-request-id"] == name.replace(" ", "-")


async def test_sglang_receives_the_body_with_the_request_id_and_nothing_else() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, engine="sglang") as run:
        for name, body in BODIES.items():
            await post(run, body, headers={"x-request-id": "mine"})
            request = engine.requests.pop()
            closing = body.rindex(b"}")
            assert request.body == body[:closing] + b',"rid":"mine"' + body[closing:], name
            assert "x-request-id" not in request.headers


async def test_sglang_keeps_a_request_id_that_the_client_put_into_the_body() -> None:
    body = b'{"model":"m","rid":"theirs",' + HELLO + b"}"
    async with fake_engine() as engine, gateway_over(engine.url, engine="sglang") as run:
        await post(run, body)
    assert engine.requests[0].body == body


USAGE = b'"stream_options":{"include_usage":true}'
STREAMS = {
    "without options": (
        b'{"model":"m",' + HELLO + b',"stream":true}',
        b'{"model":"m",' + HELLO + b',"stream":true,' + USAGE + b"}",
    ),
    "odd whitespace": (
        b' {"stream" : true,"model":"m",' + HELLO + b" \n}\r\n",
        b' {"stream" : true,"model":"m",' + HELLO + b" \n," + USAGE + b"}\r\n",
    ),
    "options without usage": (
        b'{"stream":true,"stream_options":{ "continuous_usage_stats" : false },"model":"m",' + HELLO + b"}",
        b'{"stream":true,"stream_options":{ "continuous_usage_stats" : false ,"include_usage":true},"model":"m",'
        + HELLO
        + b"}",
    ),
    "usage refused": (
        b'{"stream":true,"stream_options":{"include_usage": false},"model":"m",' + HELLO + b"}",
        b'{"stream":true,"stream_options":{"include_usage": true},"model":"m",' + HELLO + b"}",
    ),
    "options null": (
        b'{"stream":true,"stream_options":null,"model":"m",' + HELLO + b"}",
        b'{"stream":true,"stream_options":{"include_usage":true},"model":"m",' + HELLO + b"}",
    ),
}
FRAMES = (frame("a"), b": keep-alive\n\n", frame("ž" * 3), frame(""))


async def test_a_stream_is_asked_for_its_usage_which_its_client_does_not_see() -> None:
    answers = stream(*FRAMES, usage_frame(9, 4), DONE)
    async with fake_engine(answers) as engine, gateway_over(engine.url) as run:
        for count, (name, (body, expected)) in enumerate(STREAMS.items(), 1):
            answer = await post(run, body)
            assert engine.requests.pop().body == expected, name
            assert answer.content == b"".join((*FRAMES, DONE)), name
            [series] = run.gateway.snapshot().series
            assert (series.prompt_tokens, series.completion_tokens, series.delivered_tokens) == (
                9 * count,
                2 * count,
                4 * count,
            )


async def test_both_additions_go_into_one_body() -> None:
    body = b'{"model":"m",' + HELLO + b',"stream":true}'
    answers = stream(frame("a"), usage_frame(9, 4), DONE)
    async with fake_engine(answers) as engine, gateway_over(engine.url, engine="sglang") as run:
        answer = await post(run, body, headers={"x-request-id": "mine"})
    assert answer.content == frame("a") + DONE
    assert engine.requests[0].body.startswith(body[:-1] + b",")
    added = {"rid": "mine", "stream_options": {"include_usage": True}}
    assert json.loads(engine.requests[0].body) == json.loads(body) | added


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
async def test_a_client_that_asks_for_usage_gets_it_and_its_body_is_left_alone(path: str) -> None:
    fields = b'"prompt":"hi"' if path == "/v1/completions" else HELLO
    body = b'{"stream":true, "stream_options" : {"include_usage":true},"model":"m",' + fields + b"}"
    frames = (*FRAMES, usage_frame(9, 4), DONE)
    async with fake_engine(stream(*frames)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, body, path)
    assert engine.requests[0].body == body
    assert answer.content == b"".join(frames)


@pytest.mark.parametrize(
    ("path", "fields"), [("/v1/responses", b'"input":"hi"'), ("/v1/messages", b'"max_tokens":5,' + HELLO)]
)
async def test_other_streams_are_left_alone(path: str, fields: bytes) -> None:
    body = b'{"stream":true,"model":"m",' + fields + b"}"
    frames = (b'event: x\ndata: {"type":"x", "n":1e400}\n\n', DONE)
    async with fake_engine(stream(*frames)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, body, path)
    assert engine.requests[0].body == body
    assert answer.content == b"".join(frames)


ODD_REPLIES = {
    "whitespace": b' \n{ "id" : "x" ,\t"choices":[] }\r\n\n',
    "numbers": b'{"usage":{"prompt_tokens":1' + b"0" * 400 + b',"completion_tokens":1e400},"x":1.0}',
    "unicode": '{"a":"ž","b":"\\u017e"}'.encode(),
    "duplicate keys": b'{"a":1,"a":2}',
    "three megabytes": b'{"a":"' + b"x" * 3_000_000 + b'"}',
}


async def test_a_plain_reply_reaches_the_client_unchanged() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for name, reply in ODD_REPLIES.items():
            engine.answer = whole(reply)
            answer = await post(run, chat())
            assert (answer.status_code, answer.content) == (200, reply), name
            assert answer.headers["content-length"] == str(len(reply))


async def test_however_a_stream_is_cut_only_our_usage_frame_is_missing() -> None:
    sent = b"".join((*FRAMES, frame("b", usage=None), usage_frame(9, 4), DONE))
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for cut in (1, 7, 64, 1000):
            engine.answer = stream(*[sent[at : at + cut] for at in range(0, len(sent), cut)])
            answer = await post(run, chat(stream=True))
            assert answer.content == sent.replace(usage_frame(9, 4), b""), cut


async def test_a_stream_with_other_line_ends_reaches_the_client_unchanged() -> None:
    frames = [piece.replace(b"\n", b"\r\n") for piece in (*FRAMES, DONE)]
    async with fake_engine(stream(*frames)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True))
    assert answer.content == b"".join(frames)


async def test_engine_headers_pass_but_for_those_of_its_own_connection() -> None:
    extra = (
        "X-Engine: yes\r\nopenai-processing-ms: 5\r\nserver: uvicorn\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n"
        "keep-alive: timeout=5\r\nconnection: keep-alive\r\nproxy-authenticate: Basic\r\nx-request-id: engine\r\n"
    )
    for answers in (whole(extra=extra), stream(frame("a"), DONE, extra=extra)):
        async with fake_engine(answers) as engine, gateway_over(engine.url) as run, client(run) as http:
            answer = await http.post("/v1/chat/completions", json=chat(stream=True), headers={"x-request-id": "mine"})
        assert answer.headers["x-engine"] == "yes"
        assert answer.headers["openai-processing-ms"] == "5"
        assert answer.headers.get_list("x-request-id") == ["mine"]
        assert len(answer.headers.get_list("date")) == 1
        assert "1970" not in answer.headers["date"]
        assert not {"server", "keep-alive", "proxy-authenticate", "connection"} & set(answer.headers)


async def test_bodies_of_every_framing_are_read_whole() -> None:
    chunked = chunked_head("application/json") + http_chunk(COMPLETION[:9]) + http_chunk(COMPLETION[9:])
    framings = {
        "chunked": chunked + b"0\r\n\r\n",
        "chunked, with trailers": chunked + b"0\r\nx-trailer: 1\r\n\r\n",
        "until the end": b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n" + COMPLETION,
        "HTTP/1.0": b"HTTP/1.0 200 OK\r\ncontent-type: application/json\r\n\r\n" + COMPLETION,
        "after early hints": b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + response(COMPLETION),
        "after 100 Continue": b"HTTP/1.1 100 Continue\r\n\r\n" + response(COMPLETION),
    }
    for name, data in framings.items():
        async with fake_engine(raw(data)) as engine, gateway_over(engine.url) as run:
            answer = await post(run, chat())
        assert (name, answer.status_code, answer.content) == (name, 200, COMPLETION)
        assert "link" not in answer.headers


async def test_a_stream_until_the_end_of_the_connection_is_whole() -> None:
    data = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n" + frame("a") + DONE
    async with fake_engine(raw(data)) as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(stream=True))
    assert answer.content == frame("a") + DONE


async def test_a_client_that_waits_for_100_continue_and_one_that_sends_chunks() -> None:
    body = chat_bytes()
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        async with raw_client(run.url) as http:
            await http.send(
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n"
                % len(body)
            )
            assert (await http.head())[0] == 100
            await http.send(body)
            status, headers = await http.head()
            assert (status, await http.body(headers)) == (200, COMPLETION)
        async with raw_client(run.url) as http:
            await http.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
            for at in range(0, len(body), 10):
                await http.send(http_chunk(body[at : at + 10]))
            await http.send(b"0\r\n\r\n")
            status, headers = await http.head()
            assert (status, await http.body(headers)) == (200, COMPLETION)
    assert [request.body for request in engine.requests] == [body, body]
    assert not {"expect", "transfer-encoding"} & set(engine.requests[0].headers | engine.requests[1].headers)
