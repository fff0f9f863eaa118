"""Which headers cross the gateway, who is said to have answered, and what pins and sessions do."""

import asyncio
import json

import pytest
from fake_engine import COMPLETION, DONE, fake_engine, frame, held_stream, stream, usage_frame, whole
from gateways import chat, chat_bytes, client, gateway_of, gateway_over, nothing_is_booked, openai_error, post
from raw_client import raw_client

SECRETS = {
    "authorization": "Bearer client-secret",
    "proxy-authorization": "Basic client-secret",
    "cookie": "session=client-secret",
    "x-api-key": "client-secret",
    "api-key": "client-secret",
    "cookie2": "client-secret",
}


async def test_a_request_id_is_taken_over_and_given_back() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        answer = await post(run, chat(), headers={"X-Request-Id": "trace/7:a"})
    assert answer.headers["x-request-id"] == "trace/7:a"
    assert engine.requests[0].headers["x-request-id"] == "trace/7:a"


async def test_a_request_without_a_usable_id_gets_one() -> None:
    given: list[str | bytes | None] = [None, "", "two words", "x" * 129, "žluť".encode(), b"tab\tbed"]
    async with fake_engine() as engine, gateway_over(engine.url) as run, client(run) as http:
        answers = []
        for name in given:
            headers = {} if name is None else {b"x-request-id": name if isinstance(name, bytes) else name.encode()}
            answers.append(await http.post("/v1/chat/completions", json=chat(), headers=headers))
    ids = [answer.headers["x-request-id"] for answer in answers]
    assert all(len(made) == 32 and int(made, 16) >= 0 for made in ids)
    assert len(set(ids)) == len(given)
    assert [request.headers["x-request-id"] for request in engine.requests] == ids


async def test_two_live_requests_of_one_id_have_different_ids_at_the_engine() -> None:
    gate = asyncio.Event()
    async with fake_engine(held_stream(gate)) as engine, gateway_over(engine.url) as run:
        first = asyncio.create_task(post(run, chat(), headers={"x-request-id": "same"}))
        await engine.arrived.wait()
        engine.answer = whole()
        second = await post(run, chat(), headers={"x-request-id": "same"})
        gate.set()
        await first
        third = await post(run, chat(), headers={"x-request-id": "same"})
        assert nothing_is_booked(run)
    ids = [request.headers["x-request-id"] for request in engine.requests]
    assert ids[0] == ids[2] == "same"
    assert ids[1].startswith("same-")
    assert second.headers["x-request-id"] == third.headers["x-request-id"] == "same"


async def test_an_answer_says_who_gave_it_and_what_was_predicted() -> None:
    body = chat("a prompt of some length " * 200)
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        first, second = await post(run, body), await post(run, body)
    for answer in (first, second):
        assert (answer.headers["x-prefixgate-pool"], answer.headers["x-prefixgate-replica"]) == ("p", "p-0")
    assert first.headers["x-prefixgate-predicted-cached-tokens"] == "0"
    assert int(second.headers["x-prefixgate-predicted-cached-tokens"]) > 0


@pytest.mark.parametrize("engine_name", ["vllm", "sglang"])
async def test_the_clients_credentials_never_reach_an_engine(engine_name: str) -> None:
    async with fake_engine() as engine, gateway_over(engine.url, engine=engine_name) as run:
        await post(run, chat(), headers={**SECRETS, "x-trace": "kept"})
    assert b"client-secret" not in engine.requests[0].head
    assert engine.requests[0].headers["x-trace"] == "kept"


async def test_the_pools_own_key_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENGINE_KEY", "engine-secret\n")  # as read from a file
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    async with fake_engine() as locked, fake_engine() as open_:
        pools = [
            {"name": "a", "engine": "vllm", "replicas": [locked.url], "model": "m", "api_key_env": "ENGINE_KEY"},
            {"name": "b", "engine": "vllm", "replicas": [open_.url], "model": "m", "api_key_env": "NO_SUCH_KEY"},
        ]
        async with gateway_of(pools) as run:
            for pool in "ab":
                answer = await post(run, chat(), headers={**SECRETS, "x-prefixgate-pool": pool})
                assert "engine-secret" not in str(answer.headers)
    assert locked.requests[0].headers["authorization"] == "Bearer engine-secret"
    assert {poll.headers["authorization"] for poll in locked.polls} == {"Bearer engine-secret"}
    assert "authorization" not in open_.requests[0].headers


async def test_headers_that_are_about_the_connection_or_for_us_stay_here() -> None:
    ours = {
        "accept-encoding": "gzip",
        "te": "trailers",
        "keep-alive": "timeout=9",
        "proxy-connection": "keep-alive",
        "x-prefixgate-replica": "p-0",
        "x-priority": "batch",
    }
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        await post(run, chat(), headers=ours)
    [request] = engine.requests
    assert not set(ours) & set(request.headers)
    assert request.headers["host"] == engine.url.removeprefix("http://")
    assert request.head.lower().count(b"content-length") == request.head.lower().count(b"\nhost:") == 1


async def test_where_the_client_sits_is_not_passed_on_nor_what_it_named_as_for_us_alone() -> None:
    where = {
        "forwarded": "for=10.1.2.3",
        "via": "1.1 proxy",
        "x-forwarded-for": "10.1.2.3",
        "x-forwarded-host": "inside",
        "x-forwarded-proto": "https",
        "x-real-ip": "10.1.2.3",
    }
    engines = {"x-override-rid": "another's"}
    named = {"connection": "close, X-Hop,x-other , content-length, authorization", "x-hop": "1", "X-Other": "2"}
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        assert (await post(run, chat(), headers=where | engines | named | {"x-kept": "3"})).status_code == 200
    [request] = engine.requests
    assert not ({*where, *engines, "x-hop", "x-other", "connection"}) & set(request.headers)
    assert request.headers["x-kept"] == "3"
    assert json.loads(request.body) == chat()


async def test_what_an_engine_says_of_itself_or_for_us_is_not_passed_on() -> None:
    said = {
        "set-cookie": "a=b",
        "set-cookie2": "a=b",
        "server": "uvicorn",
        "x-powered-by": "x",
        "www-authenticate": "Bearer",
        "authentication-info": "x",
        "authorization": "Bearer engine-secret",
        "alt-svc": "h3",
        "strict-transport-security": "max-age=1",
        "keep-alive": "timeout=5",
        "proxy-authenticate": "Basic",
        "x-prefixgate-pool": "forged",
        "x-prefixgate-arm": "forged",
        "x-ratelimit-remaining-requests": "9",
        "X-PrefixGate-Anything": "forged",
    }
    extra = "".join(f"{name}: {value}\r\n" for name, value in said.items()) + "x-kept: 1\r\n"
    for answer_with in (whole(extra=extra), stream(frame("a"), usage_frame(3, 0), DONE, extra=extra)):
        async with fake_engine(answer_with) as engine, gateway_over(engine.url) as run:
            answer = await post(run, chat(stream=True))
        assert answer.status_code == 200
        assert answer.headers["x-kept"] == "1"
        ours = {"x-prefixgate-pool"}
        assert not ({name.lower() for name in said} - ours) & set(answer.headers)
        assert answer.headers.get_list("x-prefixgate-pool") == ["p"]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500, 503])
async def test_an_error_that_quotes_the_pools_key_is_passed_on_without_it(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "engine-secret")
    quoting = b'{"error":{"message":"no such thing, Bearer engine-secret","type":"x","code":"engine-secret"}}'
    async with fake_engine(whole(quoting, status)) as engine:
        pool = {"name": "p", "engine": "vllm", "replicas": [engine.url], "model": "m", "api_key_env": "ENGINE_KEY"}
        async with gateway_of([pool], queue={"interactive_deadline_s": 0.5}) as run:
            answer = await post(run, chat())
    assert answer.status_code >= 400
    assert engine.requests[0].headers["authorization"] == "Bearer engine-secret"
    assert "engine-secret" not in answer.text + str(answer.headers)


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 500])
async def test_calls_about_stored_responses_keep_credentials_apart_too(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ENGINE_KEY", "engine-secret")
    quoting = b'{"error":{"message":"no such thing, Bearer engine-secret","type":"x"}}'
    answer_with = whole(COMPLETION if status == 200 else quoting, status, extra="set-cookie: a=b\r\n")
    async with fake_engine(whole(b'{"id":"resp_1","object":"response","output":[]}')) as engine:
        pool = {"name": "p", "engine": "vllm", "replicas": [engine.url], "model": "m", "api_key_env": "ENGINE_KEY"}
        async with gateway_of([pool]) as run, client(run) as http:
            assert (await post(run, {"model": "m", "input": "x"}, "/v1/responses")).status_code == 200
            engine.answer = answer_with
            answer = await http.get("/v1/responses/resp_1", headers=SECRETS)
    assert answer.status_code == (502 if status in (401, 403) else status)
    assert "engine-secret" not in answer.text + str(answer.headers)
    assert "set-cookie" not in answer.headers
    assert b"client-secret" not in engine.requests[-1].head


async def test_a_client_that_wants_its_connection_closed_gets_it_closed() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, raw_client(run.url) as http:
        await http.post(chat_bytes(), connection="close")
        status, headers = await http.head()
        assert (status, await http.body(headers)) == (200, COMPLETION)
        assert await http.reader.read() == b""
        assert await post(run, chat())
    assert len({request.connection for request in engine.requests}) == 1  # the client's wish is about its own


async def test_pins_by_header() -> None:
    async with fake_engine() as a, fake_engine() as b, fake_engine() as c:
        pools = [
            {"name": "x", "engine": "vllm", "replicas": [a.url, b.url], "model": "m"},
            {"name": "y", "engine": "sglang", "replicas": [c.url], "model": "m"},
        ]
        async with gateway_of(pools) as run:
            for pin, replica in (("x-0", "x-0"), ("x-1", "x-1"), ("y-0", "y-0")):
                for _ in range(3):
                    answer = await post(run, chat(), headers={"x-prefixgate-replica": pin})
                    assert answer.headers["x-prefixgate-replica"] == replica
            for _ in range(3):
                answer = await post(run, chat(), headers={"x-prefixgate-pool": "y"})
                assert answer.headers["x-prefixgate-replica"] == "y-0"
            wrong = [
                await post(run, chat(), headers={"x-prefixgate-replica": "z-9"}),
                await post(run, chat(), headers={"x-prefixgate-pool": "x", "x-prefixgate-replica": "y-0"}),
            ]
    assert (len(a.requests), len(b.requests), len(c.requests)) == (3, 3, 6)
    for answer in wrong:
        assert answer.status_code == 400
        assert openai_error(answer)["code"] == "unknown_pin"


async def test_a_pinned_request_is_not_taken_over_by_another_replica() -> None:
    async with (
        fake_engine(whole(b"{}", 500)) as broken,
        fake_engine() as sound,
        gateway_over(broken.url, sound.url) as run,
    ):
        answer = await post(run, chat(), headers={"x-prefixgate-replica": "p-0"})
        assert answer.status_code == 500
        assert not sound.requests


async def test_a_session_stays_where_it_is() -> None:
    async with fake_engine() as a, fake_engine() as b, fake_engine() as c:
        urls = (a.url, b.url, c.url)
        async with gateway_over(*urls, routing={"policy": "session"}) as run:
            where: dict[str, set[str]] = {}
            for turn in range(3):
                for session in map(str, range(12)):
                    answer = await post(run, chat(f"turn {turn}"), headers={"x-session-id": session})
                    where.setdefault(session, set()).add(answer.headers["x-prefixgate-replica"])
            by_user = {
                (await post(run, chat(str(turn), user="ann"))).headers["x-prefixgate-replica"] for turn in range(3)
            }
    assert {len(replicas) for replicas in where.values()} == {1}
    assert len(set.union(*where.values())) > 1
    assert len(by_user) == 1
