"""Calls about a stored Responses object go to the replica that holds it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fake_engine import FakeEngine, Request, by_call, fake_engine, raw, response, silence, stream, whole
from gateways import client, gateway_over, openai_error, post
from raw_client import raw_client

MISSING = whole(b'{"error":{"message":"no such response"}}', 404)


def object_of(response_id: str) -> bytes:
    return json.dumps({"id": response_id, "object": "response", "usage": {"input_tokens": 5}}).encode()


@asynccontextmanager
async def two_engines() -> AsyncIterator[tuple[FakeEngine, FakeEngine]]:
    """The second holds `resp_b`, the first nothing."""
    calls = {
        "POST /v1/responses": whole(object_of("resp_b")),
        "GET /v1/responses/resp_b": whole(object_of("resp_b")),
        "GET /v1/responses/resp_b?stream=true": stream(b"data: {}\n\n"),
        "DELETE /v1/responses/resp_b": whole(b'{"deleted":true}'),
        "POST /v1/responses/resp_b/cancel": whole(b'{"status":"cancelled"}'),
    }
    async with (
        fake_engine(by_call({"POST /v1/responses": whole(object_of("resp_a"))})) as a,
        fake_engine(by_call(calls)) as b,
    ):
        yield a, b


def lines(engine: FakeEngine) -> list[str]:
    return [f"{request.method} {request.target}" for request in engine.requests]


async def test_calls_go_to_the_holder() -> None:
    async with two_engines() as (a, b), gateway_over(a.url, b.url) as run, client(run) as http:
        made = await post(run, {"model": "m", "input": "x"}, "/v1/responses", {"x-prefixgate-replica": "p-1"})
        assert made.json()["id"] == "resp_b"
        secret = {"authorization": "Bearer client-secret", "x-request-id": "mine"}
        got = await http.get("/v1/responses/resp_b", headers=secret)
        assert (got.status_code, got.content) == (200, object_of("resp_b"))
        assert (got.headers["x-prefixgate-replica"], got.headers["x-prefixgate-pool"]) == ("p-1", "p")
        assert got.headers["x-request-id"] == "mine"
        assert (await http.get("/v1/responses/resp_b?stream=true")).content == b"data: {}\n\n"
        assert (await http.post("/v1/responses/resp_b/cancel")).json() == {"status": "cancelled"}
        assert (await http.delete("/v1/responses/resp_b")).json() == {"deleted": True}
    assert lines(a) == []
    assert lines(b) == [
        "POST /v1/responses",
        "GET /v1/responses/resp_b",
        "GET /v1/responses/resp_b?stream=true",
        "POST /v1/responses/resp_b/cancel",
        "DELETE /v1/responses/resp_b",
    ]
    assert all(b"client-secret" not in request.head for request in b.requests)


async def test_a_conversation_goes_on_where_it_was_stored() -> None:
    async with two_engines() as (a, b), gateway_over(a.url, b.url) as run:
        for pin, engine, stored in (("p-0", a, "resp_a"), ("p-1", b, "resp_b")):
            await post(run, {"model": "m", "input": "x"}, "/v1/responses", {"x-prefixgate-replica": pin})
            for turn in range(3):
                body = {"model": "m", "input": f"turn {turn}", "previous_response_id": stored}
                answer = await post(run, body, "/v1/responses")
                assert answer.headers["x-prefixgate-replica"] == pin
            assert len(engine.requests) == 4


async def test_a_streams_response_is_remembered_too() -> None:
    done = b'data: {"type":"response.completed","response":{"id":"resp_s"}}\n\n'
    created = b'data: {"type":"response.created","response":{"id":"resp_s"}}\n\n'
    async with fake_engine(stream(created, done)) as a, fake_engine() as b, gateway_over(a.url, b.url) as run:
        body = {"model": "m", "input": "x", "stream": True}
        await post(run, body, "/v1/responses", {"x-prefixgate-replica": "p-0"})
        assert run.gateway.router.holder("resp_s") == "p-0"


async def test_an_unknown_id_is_asked_for_once_and_then_remembered() -> None:
    async with two_engines() as (a, b), gateway_over(a.url, b.url) as run, client(run) as http:
        for _ in range(2):
            assert (await http.get("/v1/responses/resp_b")).content == object_of("resp_b")
        assert (await http.delete("/v1/responses/resp_b")).status_code == 200
    assert lines(a) == ["GET /v1/responses/resp_b"]
    assert lines(b) == ["GET /v1/responses/resp_b"] * 3 + ["DELETE /v1/responses/resp_b"]


async def test_an_id_that_nobody_knows() -> None:
    async with (
        fake_engine(MISSING) as a,
        fake_engine(raw(b"")) as b,
        gateway_over(a.url, b.url, "http://127.0.0.1:9") as run,
        client(run) as http,
    ):
        for method, path in (("GET", "resp_x"), ("DELETE", "resp_x"), ("POST", "resp_x/cancel")):
            answer = await http.request(method, f"/v1/responses/{path}", headers={"x-request-id": "mine"})
            assert answer.status_code == 404
            assert openai_error(answer)["code"] == "response_not_found"
            assert answer.headers["x-request-id"] == "mine"


async def test_a_holder_that_has_gone() -> None:
    async with two_engines() as (a, b), gateway_over(a.url, b.url, timeouts={"first_byte_s": 0.2}) as run:
        await post(run, {"model": "m", "input": "x"}, "/v1/responses", {"x-prefixgate-replica": "p-1"})
        async with client(run) as http:
            b.answer = raw(b"")
            answer = await http.get("/v1/responses/resp_b")
            assert answer.status_code == 502
            assert "p-1" in openai_error(answer)["message"]
            b.answer = raw(response(object_of("resp_b")).replace(b"content-length", b"x-length") + b"")
            assert (await http.get("/v1/responses/resp_b")).content == object_of("resp_b")
            b.answer = stream(b"data: {}\n\n", complete=False)
            answer = await http.get("/v1/responses/resp_b")
            assert answer.content.startswith(b'data: {}\n\ndata: {"type":"error"')
            b.answer = silence()
            assert (await http.get("/v1/responses/resp_b")).status_code == 504


async def test_an_id_cannot_smuggle_anything_to_an_engine() -> None:
    async with two_engines() as (a, b), gateway_over(a.url, b.url) as run, raw_client(run.url) as http:
        for evil in ("x%20y%0d%0aX-Evil:%20yes%0d%0a%0d%0a", "x%0d%0aX-Evil:%20yes", "x%3fq=1", "%c5%be"):
            await http.send(f"GET /v1/responses/{evil} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            status, headers = await http.head()
            await http.body(headers)
            assert status == 404
    received: list[Request] = a.requests + b.requests
    assert {request.target for request in received} == {
        "/v1/responses/x%20y%0D%0AX-Evil%3A%20yes%0D%0A%0D%0A",
        "/v1/responses/x%0D%0AX-Evil%3A%20yes",
        "/v1/responses/x%3Fq%3D1",
        "/v1/responses/%C5%BE",
    }
