"""Tenants from outside: who is let in, what they see, what they may use, and what they are charged."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import anthropic
import openai
import pytest
from fake_engine import (
    COMPLETION,
    DONE,
    FakeEngine,
    fake_engine,
    frame,
    held_stream,
    models,
    response,
    stream,
    usage_frame,
    whole,
)
from gateways import (
    admin,
    chat,
    chat_bytes,
    client,
    gateway_of,
    gateway_over,
    nothing_is_booked,
    openai_error,
    outcomes,
    post,
    until,
)
from raw_client import raw_client
from tenants import bearer, key_of, tenant

from gateway.config import build
from gateway.serving.server import RunningGateway

ENDPOINTS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages", "/v1/embeddings", "/v1/rerank"),
    *("/tokenize", "/detokenize"),
)


@asynccontextmanager
async def two_pools(
    *tenants: dict[str, object], **tables: object
) -> AsyncIterator[tuple[RunningGateway, list[FakeEngine]]]:
    """Pool `one` serves `m` and `secret`, pool `two` serves `m` and `other`."""
    async with AsyncExitStack() as stack:
        engines = [await stack.enter_async_context(fake_engine()) for _ in range(2)]
        for engine, served in zip(engines, (("m", "secret"), ("m", "other")), strict=True):
            engine.pages["/v1/models"] = response(models(*served))
        pools = [
            {"name": name, "engine": "vllm", "replicas": [engine.url]}
            for name, engine in zip(("one", "two"), engines, strict=True)
        ]
        run = await stack.enter_async_context(gateway_of(pools, tenants=list(tenants), **tables))
        yield run, engines


# ── keys ─────────────────────────────────────────────────────────────────────────────────────────


async def test_without_tenants_everybody_is_let_in() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for headers in ({}, {"authorization": "Bearer pg-anything"}, {"x-api-key": "none"}):
            answer = await post(run, chat(), headers=headers)
            assert answer.status_code == 200
            assert not any(name.startswith("x-ratelimit") for name in answer.headers)


async def test_a_key_is_needed_everywhere_but_where_load_balancers_look() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann")]) as run, client(run) as http:
        asked = [("POST", path) for path in ENDPOINTS]
        asked += [
            ("GET", path) for path in ("/v1/models", "/v1/models/m", "/v1/responses/resp_1", "/openapi.json", "/x")
        ]
        asked += [
            ("DELETE", "/v1/responses/resp_1"),
            ("POST", "/v1/responses/resp_1/cancel"),
            ("OPTIONS", "/v1/models"),
        ]
        for headers in (
            {},
            {"authorization": "Bearer pg-wrong"},
            {"x-api-key": "wrong"},
            {"authorization": key_of("ann")},
        ):
            for method, path in asked:
                answer = await http.request(method, path, json=chat() if method == "POST" else None, headers=headers)
                assert (path, answer.status_code) == (path, 401)
                assert openai_error(answer)["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/health", "/ready"):
            assert (await http.get(path)).status_code == 200
        assert not engine.requests
        for path in ("/v1/models", "/v1/models/m"):
            assert (await http.get(path, headers=bearer("ann"))).status_code == 200
        assert (await http.post("/tokenize", json={"prompt": "x"}, headers=bearer("ann"))).status_code == 200


@pytest.mark.parametrize(
    "headers", [bearer("ann"), {"x-api-key": key_of("ann")}, {"authorization": f"bearer {key_of('ann')}"}]
)
async def test_both_headers_will_do_and_no_key_reaches_an_engine(headers: dict[str, str]) -> None:
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann")]) as run:
        assert (await post(run, chat(), headers=headers)).json() == json.loads(COMPLETION)
        [request] = engine.requests
        assert key_of("ann").encode() not in request.head + request.body
        async with admin(run) as http:
            told = (await http.get("/api/snapshot")).text + (await http.get("/metrics")).text
            told += (await http.get("/api/requests")).text
    assert key_of("ann") not in told


async def test_sdks_raise_what_they_raise_for_their_own_service() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann", cache_salt=False)]) as run:
        async with openai.AsyncOpenAI(base_url=run.url + "/v1", api_key="pg-no", max_retries=0) as sdk:
            with pytest.raises(openai.AuthenticationError, match="not known here"):
                await sdk.models.list()
        async with openai.AsyncOpenAI(base_url=run.url + "/v1", api_key=key_of("ann"), max_retries=0) as sdk:
            assert [model.id for model in (await sdk.models.list()).data] == ["m"]
        async with anthropic.AsyncAnthropic(base_url=run.url, api_key="pg-no", max_retries=0) as other:
            with pytest.raises(anthropic.AuthenticationError) as raised:
                await other.messages.create(model="m", max_tokens=1, messages=[{"role": "user", "content": "x"}])
            assert raised.value.body["error"]["type"] == "authentication_error"  # type: ignore[index]


async def test_who_is_not_let_in_need_not_send_the_body() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann")]) as run:
        async with raw_client(run.url) as http:
            await http.send(b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999\r\n\r\n{")
            assert await http.error() == (401, "invalid_api_key")
        await until(lambda: outcomes(run) == {"rejected": 1})


async def test_keys_that_are_not_required() -> None:
    tenants = [tenant("ann"), {"name": "anonymous", "requests_per_minute": 2}]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=tenants, auth={"required": False}) as run:
        statuses = [
            (await post(run, chat(), headers=headers)).status_code for headers in ({}, {"x-api-key": "none"}, {})
        ]
        assert statuses == [200, 200, 429]
        assert (await post(run, chat(), headers={"x-api-key": "pg-mistyped"})).status_code == 401
        assert (await post(run, chat(), headers=bearer("ann"))).status_code == 200
        assert [view.name for view in run.gateway.snapshot().tenants] == ["anonymous", "ann"]
        assert b"cache_salt" not in engine.requests[0].body + engine.requests[1].body
        assert b"cache_salt" in engine.requests[2].body


async def test_requests_are_counted_for_the_tenant_whichever_key_it_used() -> None:
    ann = tenant("ann")
    ann["keys"] += tenant("ann's other")["keys"]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[ann]) as run:
        for name in ("ann", "ann's other"):
            await post(run, chat(), headers=bearer(name))
        (view,) = run.gateway.snapshot().tenants
        assert (view.name, view.requests) == ("ann", 2)


# ── models and pools ─────────────────────────────────────────────────────────────────────────────


async def test_what_a_tenant_may_not_use_does_not_exist() -> None:
    tenants = [tenant("all"), tenant("m-only", models=["m"]), tenant("two-only", pools=["two"])]
    tenants.append(tenant("neither", models=["secret"], pools=["two"]))
    async with two_pools(*tenants) as (run, _), client(run) as http:
        seen, asked, listed = {}, {}, {}
        for name in ("all", "m-only", "two-only", "neither"):
            headers = bearer(name)
            seen[name] = [card["id"] for card in (await http.get("/v1/models", headers=headers)).json()["data"]]
            listed[name] = [
                (await http.get(f"/v1/models/{model}", headers=headers)).status_code for model in ("secret", "no")
            ]
            answers = [
                await post(run, chat() | {"model": model}, headers=headers) for model in ("secret", "other", "no")
            ]
            asked[name] = [answer.status_code for answer in answers]
            for model, answer in zip(("secret", "other", "no"), answers, strict=True):
                if answer.status_code == 404:
                    assert openai_error(answer)["code"] == "model_not_found"
                    hidden = {"m", "secret", "other"} - set(seen[name]) - {model}
                    assert not any(f"`{other}`" in answer.text for other in hidden), answer.text
                    like = answers[2].text.replace("`no`", f"`{model}`")
                    assert answer.text == like, "a model that is hidden looks like one that is not there"
    assert seen == {"all": ["m", "secret", "other"], "m-only": ["m"], "two-only": ["m", "other"], "neither": []}
    assert asked == {
        "all": [200, 200, 404], "m-only": [404, 404, 404], "two-only": [404, 200, 404], "neither": [404, 404, 404]
    }  # fmt: skip
    assert listed == {"all": [200, 404], "m-only": [404, 404], "two-only": [404, 404], "neither": [404, 404]}


async def test_a_tenants_requests_stay_in_its_pools_even_when_these_are_down() -> None:
    tenants = [tenant("ann", pools=["two"])]
    async with two_pools(*tenants) as (run, (one, two)):
        for number in range(6):
            assert (await post(run, chat(str(number)), headers=bearer("ann"))).status_code == 200
        assert (len(one.requests), len(two.requests)) == (0, 6)
        two.answer = whole(b'{"error":{"message":"no","type":"x"}}', 500)
        assert (await post(run, chat(), headers=bearer("ann"))).status_code == 500
        assert not one.requests


async def test_a_request_without_a_model_means_the_only_one_that_the_tenant_sees() -> None:
    body = {"messages": chat()["messages"]}
    async with two_pools(tenant("ann", models=["other"]), tenant("bob")) as (run, (_, two)):
        assert (await post(run, body, headers=bearer("ann"))).status_code == 200
        assert len(two.requests) == 1
        assert openai_error(await post(run, body, headers=bearer("bob")))["code"] == "model_required"


async def test_pins_are_for_those_who_may() -> None:
    async with two_pools(tenant("ann", may_pin=True), tenant("bob")) as (run, (one, two)):
        for header, place in (("x-prefixgate-pool", "two"), ("x-prefixgate-replica", "two-0")):
            assert (await post(run, chat(), headers=bearer("ann") | {header: place})).status_code == 200
            refused = await post(run, chat(), headers=bearer("bob") | {header: place})
            assert (refused.status_code, openai_error(refused)["code"]) == (403, "pin_not_allowed")
        assert (len(one.requests), len(two.requests)) == (0, 2)


# ── limits ───────────────────────────────────────────────────────────────────────────────────────


async def test_requests_beyond_the_limit_are_told_when_to_come_again() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann", requests_per_minute=2)]) as run:
        answers = [await post(run, chat(), headers=bearer("ann")) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert [answer.headers["x-ratelimit-remaining-requests"] for answer in answers] == ["1", "0", "0"]
        assert {answer.headers["x-ratelimit-limit-requests"] for answer in answers} == {"2"}
        assert "x-ratelimit-limit-tokens" not in answers[0].headers
        error = openai_error(answers[2])
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")
        assert 1 <= int(answers[2].headers["retry-after"]) <= 30
        assert len(engine.requests) == 2
        assert nothing_is_booked(run)


async def test_tokens_are_charged_as_promised_and_settled_as_used() -> None:
    """1000 a minute: one request that may take 900 keeps others out until it is known to have taken 10."""
    gate = asyncio.Event()
    held = held_stream(gate, frame("a"), after=(frame("b"), usage_frame(8, 0), DONE))
    async with (
        fake_engine(held) as engine,
        gateway_over(engine.url, tenants=[tenant("ann", tokens_per_minute=1000)]) as run,
    ):
        first = asyncio.create_task(post(run, chat(stream=True, max_tokens=900), headers=bearer("ann")))
        await engine.arrived.wait()
        second = await post(run, chat(max_tokens=200), headers=bearer("ann"))
        assert second.status_code == 429
        assert (openai_error(second)["type"], openai_error(second)["code"]) == ("tokens", "rate_limit_exceeded")
        gate.set()
        assert (await first).status_code == 200
        engine.answer = whole()
        third = await post(run, chat(max_tokens=200), headers=bearer("ann"))
        assert third.status_code == 200
        assert int(third.headers["x-ratelimit-remaining-tokens"]) > 700
        (view,) = run.gateway.tenancy or ()
        assert (view.tokens, view.inflight) == (10 + 10, 0)


async def test_a_clients_leave_and_an_engines_failure_are_settled_too() -> None:
    gate = asyncio.Event()
    tenants = [tenant("ann", tokens_per_minute=100_000, max_concurrency=1)]
    async with fake_engine(held_stream(gate, frame("a"))) as engine, gateway_over(engine.url, tenants=tenants) as run:
        async with raw_client(run.url) as http:
            await http.post(chat_bytes(stream=True, max_tokens=50_000), authorization=f"Bearer {key_of('ann')}")
            assert (await http.head())[0] == 200
            await http.chunk()
            assert (await post(run, chat(), headers=bearer("ann"))).json()["error"][
                "code"
            ] == "concurrency_limit_exceeded"
        assert run.gateway.tenancy is not None
        (ann,) = run.gateway.tenancy
        await until(lambda: ann.inflight == 0)
        left = ann.tokens_left(run.gateway.clock())
        assert left is not None
        assert left.left > 99_000, "who leaves is not charged what it never got"
        engine.answer = whole(b'{"error":{"message":"no","type":"x"}}', 500)
        before = ann.tokens
        assert (await post(run, chat(max_tokens=50_000), headers=bearer("ann"))).status_code == 500
        assert (await post(run, b"{", headers=bearer("ann"))).status_code == 400
        assert (ann.tokens, ann.inflight) == (before, 0)


async def test_one_tenants_limit_is_not_anothers() -> None:
    tenants = [tenant("ann", requests_per_minute=1), tenant("bob", requests_per_minute=1)]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=tenants) as run:
        statuses = [
            (await post(run, chat(), headers=bearer(name))).status_code for name in ("ann", "ann", "bob", "bob")
        ]
    assert statuses == [200, 429, 200, 429]


async def test_what_tenants_do_is_measured() -> None:
    tenants = [tenant("ann", requests_per_minute=1), tenant("bob")]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=tenants) as run, admin(run) as http:
        for _ in range(3):
            await post(run, chat(), headers=bearer("ann"))
        metrics = (await http.get("/metrics")).text
        view = (await http.get("/api/snapshot")).json()
    for line in (
        'prefixgate_tenant_requests_total{tenant="ann"} 1.0',
        'prefixgate_tenant_requests_total{tenant="bob"} 0.0',
        'prefixgate_tenant_refused_total{limit="requests_per_minute",tenant="ann"} 2.0',
        'prefixgate_tenant_tokens_total{tenant="ann"} 10.0',
        'prefixgate_tenant_inflight{tenant="ann"} 0.0',
    ):
        assert line in metrics
    assert view["gateway"]["tenants"][0]["refused"] == {
        "requests_per_minute": 2,
        "tokens_per_minute": 0,
        "max_concurrency": 0,
    }


async def test_an_open_ended_request_is_not_free() -> None:
    """Without max_tokens nobody knows what it will take: something is charged, and the rest in the end."""
    tenants = [tenant("ann", tokens_per_minute=500)]
    answer = stream(frame("a"), usage_frame(5, 0), DONE)
    async with fake_engine(answer) as engine, gateway_over(engine.url, tenants=tenants) as run:
        answered = await post(run, chat(stream=True), headers=bearer("ann"))
        assert 200 < int(answered.headers["x-ratelimit-remaining-tokens"]) < 250
        assert answered.status_code == 200


async def test_anthropics_clients_are_told_in_anthropics_words() -> None:
    tenants = [tenant("ann", requests_per_minute=1, cache_salt=False)]
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    async with fake_engine() as engine, gateway_over(engine.url, tenants=tenants) as run:
        answers = [await post(run, body, "/v1/messages", {"x-api-key": key_of("ann")}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 429]
    assert (answers[1].json()["type"], answers[1].json()["error"]["type"]) == ("error", "rate_limit_error")


async def test_readiness_tells_strangers_no_more_than_that() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann")]) as run, client(run) as http:
        assert (await http.get("/ready")).json() == {"ready": True}


async def test_another_configuration_of_tenants() -> None:
    """What is in flight goes on and is settled; who is gone is let in no longer."""
    gate = asyncio.Event()
    held = held_stream(gate, frame("a"), after=(usage_frame(8, 0), DONE))
    tenants = [tenant("ann", max_concurrency=2), tenant("bob")]
    async with fake_engine(held) as engine, gateway_over(engine.url, tenants=tenants) as run:
        running = asyncio.create_task(post(run, chat(stream=True), headers=bearer("ann")))
        await engine.arrived.wait()
        pools = [{"name": "p", "engine": "vllm", "replicas": [engine.url], "model": "m"}]
        run.gateway.renew_tenants(build({"pools": pools, "tenants": [tenant("ann", max_concurrency=1), tenant("cat")]}))
        statuses = [
            (await post(run, chat("x", stream=True), headers=bearer(name))).status_code for name in ("ann", "bob")
        ]
        assert statuses == [429, 401]
        gate.set()
        assert (await running).status_code == 200
        for name in ("ann", "cat"):
            assert (await post(run, chat("x", stream=True), headers=bearer(name))).status_code == 200
        salts = [json.loads(request.body)["cache_salt"] for request in engine.requests]
        assert salts[0] == salts[1] != salts[2]
        run.gateway.renew_tenants(build({"pools": pools}))
        assert (await post(run, chat("x", stream=True))).status_code == 200
