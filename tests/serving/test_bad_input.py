"""What is wrong with a request is said clearly, in OpenAI's shape, and costs no engine anything."""

import pytest
from fake_engine import fake_engine, http_chunk, whole
from gateways import (
    LIMIT_S,
    chat,
    chat_bytes,
    client,
    gateway_of,
    gateway_over,
    nothing_is_booked,
    openai_error,
    outcomes,
    post,
)
from raw_client import post_head, raw_client

CHAT = "/v1/chat/completions"
BAD: list[tuple[str, bytes, str | None]] = [
    (CHAT, b"", None),
    (CHAT, b"{", None),
    (CHAT, b"null", None),
    (CHAT, b"[]", None),
    (CHAT, b'"model"', None),
    (CHAT, b"\xff\xfe{}", None),
    (CHAT, b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', None),
    (CHAT, b'{"model":"m","messages":[{"role":"user","content":"hi"}]} x', None),
    (CHAT, b'{"model":"m","messages":' + b"[" * 100_000, None),
    (CHAT, b'{"model":"m"}', "messages"),
    (CHAT, b'{"model":"m","messages":[]}', "messages"),
    (CHAT, b'{"model":"m","messages":"hi"}', "messages"),
    (CHAT, b'{"model":"m","messages":[1]}', "messages"),
    (CHAT, b'{"model":"m","messages":[{"content":"hi"}]}', "messages"),
    (CHAT, b'{"model":7,"messages":[{"role":"user","content":"hi"}]}', "model"),
    (CHAT, b'{"model":"m","stream":"yes","messages":[{"role":"user","content":"hi"}]}', "stream"),
    ("/v1/completions", b'{"model":"m"}', "prompt"),
    ("/v1/completions", b'{"model":"m","prompt":{}}', "prompt"),
    ("/v1/completions", b'{"model":"m","prompt":["a",1]}', "prompt"),
    ("/v1/responses", b'{"model":"m"}', "input"),
    ("/v1/messages", b'{"model":"m","max_tokens":1}', "messages"),
    ("/v1/embeddings", b'{"model":"m"}', "input"),
    ("/v1/rerank", b'{"model":"m","query":"q"}', "documents"),
    ("/tokenize", b'{"model":"m"}', "prompt"),
]
SURROGATES = [
    rb'{"model":"m\ud800","messages":[{"role":"user","content":"hi"}]}',
    rb'{"model":"m","messages":[{"role":"user","content":"\ud800"}],"user":"\udfff"}',
    rb'{"model":"m","messages":[{"role":"\ud800","content":"hi"}],"n":1e999,"messages":[{"role":"\ud800"}]}',
]


async def test_bodies_that_no_engine_could_serve() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for count, (path, body, param) in enumerate(BAD, 1):
            answer = await post(run, body, path, {"x-request-id": "mine"})
            assert answer.status_code == 400, body[:80]
            error = openai_error(answer)
            assert (error["type"], error["param"]) == ("invalid_request_error", param), body[:80]
            assert answer.headers["x-request-id"] == "mine"
            assert outcomes(run) == {"rejected": count}
        assert not engine.requests
        assert nothing_is_booked(run)


async def test_half_of_a_character_is_refused_or_served_but_never_breaks_us() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for body in SURROGATES:
            answer = await post(run, body)
            assert answer.status_code in (200, 400, 404), body
            if answer.status_code != 200:
                openai_error(answer)
        assert sum(outcomes(run).values()) == len(SURROGATES)


async def test_models() -> None:
    async with fake_engine() as engine:
        pool = {"name": "a", "engine": "vllm", "replicas": [engine.url], "model": "m"}
        other = {"name": "b", "engine": "vllm", "replicas": [f"http://localhost:{engine.port}"], "model": "n"}
        without_model = b'{"messages":[{"role":"user","content":"hi"}]}'
        async with gateway_of([pool]) as run:
            assert (await post(run, without_model)).status_code == 200
            assert engine.requests[0].body == without_model
            unknown = await post(run, chat(model="gpt-\u017e\u2028"))
            assert unknown.status_code == 404
            error = openai_error(unknown)
            assert (error["code"], error["param"]) == ("model_not_found", "model")
            assert "`gpt-\u017e\u2028`" in error["message"]
            assert "`m`" in error["message"]
        async with gateway_of([pool, other]) as run:
            several = await post(run, without_model)
            assert several.status_code == 400
            error = openai_error(several)
            assert (error["code"], error["param"]) == ("model_required", "model")
            assert "`m`, `n`" in error["message"]
            assert outcomes(run) == {"rejected": 1}
    assert len(engine.requests) == 1


async def test_an_unknown_models_name_is_no_label() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for number in range(5):
            await post(run, chat(model=f"made-up-{number}"))
        assert [(series.model, series.outcomes) for series in run.gateway.snapshot().series] == [("", {"rejected": 5})]


async def test_a_body_that_is_too_long() -> None:
    body = chat_bytes("x" * 20_000_000)
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        answer = await post(run, body)
        assert answer.status_code == 413
        assert openai_error(answer)["code"] == "request_too_large"
        async with raw_client(run.url) as http:  # declared, and refused before it is sent
            await http.send(post_head(len(body), expect="100-continue"))
            assert (await http.head())[0] == 413
        async with raw_client(run.url) as http:  # not declared
            await http.send(post_head(None))
            for at in range(0, len(body), 1 << 20):
                await http.send(http_chunk(body[at : at + (1 << 20)]))
            await http.send(b"0\r\n\r\n")
            status, headers = await http.head()
            assert (status, b"max_body_bytes" in await http.body(headers)) == (413, True)
            assert headers["connection"] == "close"
        assert outcomes(run) == {"rejected": 3}


async def test_the_limit_is_the_configured_one() -> None:
    body = chat_bytes("x" * 100)
    for limit, status in ((len(body), 200), (len(body) - 1, 413)):
        async with fake_engine() as engine, gateway_over(engine.url, server={"max_body_bytes": limit}) as run:
            assert (await post(run, body)).status_code == status


async def test_a_compressed_body() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(), headers={"content-encoding": "gzip"})
        assert answer.status_code == 415
        assert "compressed" in openai_error(answer)["message"]
        assert (await post(run, chat(), headers={"content-encoding": "identity"})).status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_wrong_routes_and_methods(method: str) -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, client(run) as http:
        for path in ("/", "/v1", "/v2/chat/completions", "/v1/chat/completions/", "/v1/responses/", "/metrics"):
            answer = await http.request(method, path)
            assert answer.status_code == 404, path
            assert path in openai_error(answer)["message"]
        for path in (CHAT, "/v1/responses", "/v1/messages", "/v1/embeddings", "/tokenize"):
            answer = await http.request(method, path)
            assert answer.status_code == 405, path
            openai_error(answer)
        answer = await http.request("POST", "/v1/models")
        assert answer.status_code == 405
        assert openai_error(answer)["message"] == "/v1/models does not take POST"
        assert answer.headers["allow"] == "GET"
        assert outcomes(run) == {}
        assert not engine.requests


async def test_no_replica_is_up() -> None:
    async with gateway_over("http://127.0.0.1:9") as run:
        answer = await post(run, chat())
        assert answer.status_code == 503
        assert int(answer.headers["retry-after"]) >= 1
        error = openai_error(answer)
        assert (error["type"], error["code"]) == ("service_unavailable", "no_replica")
        assert "p-0" in error["message"]
        assert outcomes(run) == {"rejected": 1}


async def test_something_that_is_not_http() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.send(b"\x16\x03\x01 hello\r\n\r\n")
        answer = await http.reader.read(LIMIT_S)
        assert answer.startswith(b"HTTP/1.1 400")


async def test_a_bug_of_ours_is_confessed_but_not_shown(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with fake_engine(whole()) as engine, gateway_over(engine.url) as run:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("our secret")

        monkeypatch.setattr(run.gateway.router, "route", broken)
        answer = await post(run, chat(), headers={"x-request-id": "mine"})
        assert answer.status_code == 500
        error = openai_error(answer)
        assert (error["type"], "secret" in answer.text) == ("internal_error", False)
        assert "mine" in error["message"]
        assert nothing_is_booked(run)
    assert "our secret" in caplog.text
