"""Cache salts: what engines are told so that no tenant's prompts hit another's blocks, and who may not say it."""

import json
from typing import Any

import pytest
from fake_engine import FakeEngine, by_call, fake_engine, response, whole, written
from gateways import admin, chat, client, gateway_of, gateway_over, openai_error, post
from tenants import SALT_SECRET, bearer, tenant

from engines.registry import DIALECTS
from gateway.config import ConfigError
from gateway.serving.server import RunningGateway

BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": chat("x" * 3000),
    "/v1/completions": {"model": "m", "prompt": "x" * 3000},
    "/v1/responses": {"model": "m", "input": "x" * 3000},
    "/v1/embeddings": {"model": "m", "input": "x"},
    "/v1/rerank": {"model": "m", "query": "x", "documents": ["y"]},
}
MESSAGES = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "x" * 3000}]}


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CACHE_SECRET", SALT_SECRET)


AUTH = {"salt_env": "CACHE_SECRET"}


def salts(engine: FakeEngine) -> list[Any]:
    return [json.loads(request.body).get("cache_salt") for request in engine.requests]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("path", BODIES)
async def test_each_tenant_has_a_salt_and_the_body_is_otherwise_the_clients(dialect: str, path: str) -> None:
    tenants = [tenant("ann"), tenant("bob")]
    body = json.dumps(BODIES[path], indent=1).encode()
    async with fake_engine() as engine, gateway_over(engine.url, engine=dialect, tenants=tenants, auth=AUTH) as run:
        for name in ("ann", "bob", "ann"):
            assert (await post(run, body, path, bearer(name))).status_code == 200
    ann, bob, again = salts(engine)
    assert ann == again != bob
    assert len(ann) == len(bob) == 64
    sent = engine.requests[0].body
    assert sent.startswith(body.rstrip(b"}\n ")), "every byte of the client's is where it was"
    assert sent.count(b"cache_salt") == 1


async def test_the_same_secret_gives_the_same_salts_and_no_secret_others_at_each_start() -> None:
    async with fake_engine() as engine:
        for auth in (AUTH, AUTH, {}, {}):
            async with gateway_over(engine.url, tenants=[tenant("ann")], auth=auth) as run:
                await post(run, chat(), headers=bearer("ann"))
                drawn = any("drawn at each start" in notice for notice in run.gateway.notices())
                assert drawn == (auth is not AUTH)
    first, second, third, fourth = salts(engine)
    assert first == second
    assert len({first, third, fourth}) == 3


async def test_groups_share_and_others_opt_out() -> None:
    tenants = [tenant("a", salt_group="g"), tenant("b", salt_group="g"), tenant("g"), tenant("c", cache_salt=False)]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=tenants, auth=AUTH) as run:
        for name in "abgc":
            await post(run, chat(), headers=bearer(name))
    a, b, g, c = salts(engine)
    assert a == b != g, "a tenant that is called as a group is is not in it"
    assert c is None


@pytest.mark.parametrize(
    "more", [{"cache_salt": "mine"}, {"extra_key": "mine"}, {"extra_key": ["mine"]}, {"cache_salt": 1}]
)
async def test_a_client_may_not_say_it_where_we_do(more: dict[str, Any]) -> None:
    tenants = [tenant("ann"), tenant("free", cache_salt=False)]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=tenants) as run:
        refused = await post(run, chat(**more), headers=bearer("ann"))
        assert (refused.status_code, openai_error(refused)["code"]) == (400, "cache_salt_not_allowed")
        assert not engine.requests
        assert (await post(run, chat(**more), headers=bearer("free"))).status_code == 200
        assert json.loads(engine.requests[0].body).items() >= more.items()


@pytest.mark.parametrize(
    "forged",
    [
        b'{"cache\\u005fsalt":"mine",',
        b'{"cache_salt":"mine","cache_salt":"mine",',
        b'{"cache_salt":null,"cache_salt":"mine",',
        b'{"extra\\u005fkey":"mine",',
    ],
)
async def test_however_it_is_spelt(forged: bytes) -> None:
    body = forged + json.dumps(chat()).encode()[1:]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann")]) as run:
        assert (await post(run, body, headers=bearer("ann"))).status_code == 400
        assert not engine.requests


async def test_a_null_is_none_and_ours_comes_last() -> None:
    body = b'{"cache_salt":null,' + json.dumps(chat()).encode()[1:]
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann")]) as run:
        assert (await post(run, body, headers=bearer("ann"))).status_code == 200
    assert len(salts(engine)[0]) == 64


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_where_engines_take_no_salt_nobody_with_a_salt_is_served(dialect: str) -> None:
    """Neither vLLM nor SGLang reads one in /v1/messages: served there, prompts would be in everybody's cache."""
    tenants = [tenant("ann"), tenant("free", cache_salt=False)]
    async with fake_engine() as engine, gateway_over(engine.url, engine=dialect, tenants=tenants) as run:
        refused = await post(run, MESSAGES, "/v1/messages", bearer("ann"))
        assert (refused.status_code, openai_error(refused)["code"]) == (403, "cache_not_isolated")
        assert not engine.requests
        assert (await post(run, MESSAGES, "/v1/messages", bearer("free"))).status_code == 200


async def test_tokenising_needs_no_salt() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann")]) as run:
        assert (await post(run, {"prompt": "x"}, "/tokenize", bearer("ann"))).status_code == 200
    assert salts(engine) == [None]


def predicted(answer: Any) -> int:
    return int(answer.headers["x-prefixgate-predicted-cached-tokens"])


async def test_no_hit_is_predicted_across_tenants() -> None:
    tenants = [tenant("a", salt_group="g"), tenant("b", salt_group="g"), tenant("c"), tenant("d", cache_salt=False)]
    body = chat("a prompt of some length " * 300)
    async with fake_engine() as engine, gateway_over(engine.url, tenants=tenants) as run:
        first = {name: predicted(await post(run, body, headers=bearer(name))) for name in "acdb"}
        again = {name: predicted(await post(run, body, headers=bearer(name))) for name in "acdb"}
    assert first == {"a": 0, "c": 0, "d": 0, "b": first["b"]}
    assert first["b"] > 0, "of its group's"
    assert min(again.values()) > 0


async def test_what_is_explained_for_a_tenant_is_what_it_would_meet() -> None:
    body = chat("a prompt of some length " * 300)
    async with fake_engine() as engine, gateway_over(engine.url, tenants=[tenant("ann"), tenant("bob")]) as run:
        await post(run, body, headers=bearer("ann"))
        async with admin(run) as http:
            told = {}
            for name in ("ann", "bob"):
                answer = await http.post("/api/explain", json=body, params={"tenant": name})
                told[name] = answer.json()["candidates"][0]["cached_tokens"]
            assert (await http.post("/api/explain", json=body, params={"tenant": "cat"})).status_code == 404
    assert told["ann"] > 0
    assert told["bob"] == 0


# ── stored responses ─────────────────────────────────────────────────────────────────────────────

STORED = json.dumps({"id": "resp_1", "object": "response", "status": "completed", "output": []}).encode()


def storing() -> Any:
    return by_call(
        {
            "POST /v1/responses": whole(STORED),
            "GET /v1/responses/resp_1": written(response(STORED)),
            "POST /v1/responses/resp_1/cancel": written(response(STORED)),
            "DELETE /v1/responses/resp_1": written(response(STORED)),
        }
    )


async def call(run: RunningGateway, method: str, path: str, name: str) -> int:
    async with client(run) as http:
        return (await http.request(method, path, headers=bearer(name))).status_code


async def test_a_stored_response_is_its_tenants_alone() -> None:
    tenants = [tenant("ann"), tenant("bob")]
    body = {"model": "m", "input": "x"}
    async with fake_engine(storing()) as engine, gateway_over(engine.url, tenants=tenants) as run:
        assert (await post(run, body, "/v1/responses", bearer("ann"))).status_code == 200
        calls = (("GET", ""), ("POST", "/cancel"), ("DELETE", ""))
        for method, verb in calls:
            assert await call(run, method, f"/v1/responses/resp_1{verb}", "bob") == 404
        following = body | {"previous_response_id": "resp_1"}
        refused = await post(run, following, "/v1/responses", bearer("bob"))
        assert (refused.status_code, openai_error(refused)["code"]) == (404, "response_not_found")
        assert len(engine.requests) == 1, "the engine has not been asked"
        assert (await post(run, following, "/v1/responses", bearer("ann"))).status_code == 200
        for method, verb in calls:
            assert await call(run, method, f"/v1/responses/resp_1{verb}", "ann") == 200


@pytest.mark.parametrize("dialect", DIALECTS)
async def test_no_tenant_can_make_an_engine_store_a_response_under_anothers_id(dialect: str) -> None:
    body = {"model": "m", "input": "x"}
    tenants = [tenant("ann"), tenant("bob")]
    async with fake_engine(whole(STORED)) as engine, gateway_over(engine.url, engine=dialect, tenants=tenants) as run:
        for name in ("ann", "bob", "ann"):
            answer = await post(run, body, "/v1/responses", bearer(name) | {"x-request-id": "same"})
            assert (answer.status_code, answer.headers["x-request-id"]) == (200, "same")
        said = [request.headers.get("x-request-id") or json.loads(request.body)["rid"] for request in engine.requests]
        assert said[0] == said[2] != said[1]
        for field in ("request_id", "rid"):
            refused = await post(run, body | {field: "same"}, "/v1/responses", bearer("bob"))
            assert (refused.status_code, openai_error(refused)["code"]) == (400, "request_id_not_allowed")
        assert len(engine.requests) == 3


async def test_without_a_salt_env_that_is_set_nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = {"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}
    for value, words in ((None, "is not set"), ("short", "at least 16 characters")):
        monkeypatch.delenv("CACHE_SECRET", raising=False)
        if value is not None:
            monkeypatch.setenv("CACHE_SECRET", value)
        with pytest.raises(ConfigError, match=f"CACHE_SECRET.*{words}"):
            async with gateway_of([pool], tenants=[tenant("ann")], auth=AUTH):
                pass
