"""The admin port's token: nothing without it but the page that asks for it, and /metrics where that is wished."""

import re
import socket
from typing import Any

import pytest
from fake_engine import fake_engine
from gateways import admin, chat, client, gateway_of, gateway_over, openai_error, post
from tenants import bearer, tenant

from gateway.config import ConfigError

TOKEN = "an admin token of some length"
GUARDED = {"admin_token_env": "ADMIN_TOKEN"}
WITH = {"authorization": f"Bearer {TOKEN}"}
PATHS = ("/api/snapshot", "/api/replicas", "/api/requests", "/api/requests/x", "/api/experiments", "/api/events",
         "/api/pools/p/prefill", "/metrics", "/openapi.json", "/nope", "/%61pi/snapshot", "/api")  # fmt: skip


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADMIN_TOKEN", TOKEN + "\n")


async def test_nothing_is_told_without_the_token() -> None:
    wrong = ({}, {"authorization": TOKEN}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": "Bearer"},
             {"authorization": f"Basic {TOKEN}"}, {"x-api-key": TOKEN}, {"cookie": f"token={TOKEN}"})  # fmt: skip
    async with fake_engine() as engine, gateway_over(engine.url, server=GUARDED) as run, admin(run) as http:
        for headers in wrong:
            for path in PATHS:
                answer = await http.get(path, headers=headers)
                assert (path, answer.status_code) == (path, 401)
                assert openai_error(answer)["code"] == "invalid_admin_token"
            assert (await http.post("/api/explain", json=chat(), headers=headers)).status_code == 401
        assert (await http.get("/api/snapshot", headers=WITH)).json()["snapshot"]["replicas"]
        assert (await http.post("/api/explain", json=chat(), headers=WITH)).status_code == 200
        assert "prefixgate_replica_up" in (await http.get("/metrics", headers=WITH)).text
        assert (await post(run, chat())).status_code == 200, "the main port has nothing to do with it"


async def test_metrics_may_be_open() -> None:
    server = GUARDED | {"admin_open_metrics": True}
    async with fake_engine() as engine, gateway_over(engine.url, server=server) as run, admin(run) as http:
        assert (await http.get("/metrics")).status_code == 200
        assert (await http.get("/api/snapshot")).status_code == 401


async def test_the_page_asks_for_the_token_and_holds_nothing_itself() -> None:
    async with fake_engine() as engine, gateway_over(engine.url, server=GUARDED) as run, admin(run) as http:
        page = (await http.get("/")).text
        assert 'type="password"' in page
        assert engine.url not in page
        modules = re.findall(r"dashboard/\w+/\w+\.js", page)
        assert len(modules) > 5
        texts = [(await http.get("/" + module)).text for module in modules]
        assert any("sessionStorage" in text for text in texts)
        assert not any("new EventSource" in text for text in texts), "it cannot send a header"
        async with http.stream("GET", "/api/events", headers=WITH) as events:
            assert events.status_code == 200
            assert (await anext(events.aiter_lines())).startswith("data: {")


async def test_on_a_shared_port_the_two_kinds_of_keys_do_not_open_each_others_doors(unused_port: int) -> None:
    server = GUARDED | {"port": unused_port, "admin_port": unused_port}
    pool: dict[str, Any] = {"name": "p", "engine": "vllm", "model": "m"}
    async with (
        fake_engine() as engine,
        gateway_of([pool | {"replicas": [engine.url]}], server=server, tenants=[tenant("ann")]) as run,
    ):
        assert run.url == run.admin_url
        async with client(run) as http:

            async def status(path: str, headers: dict[str, str]) -> int:
                return (await http.get(path, headers=headers)).status_code

            assert [await status("/v1/models", headers) for headers in (bearer("ann"), WITH, {})] == [200, 401, 401]
            assert [await status("/api/snapshot", headers) for headers in (bearer("ann"), WITH, {})] == [401, 200, 401]
            assert [await status("/health", headers) for headers in (bearer("ann"), WITH, {})] == [200, 200, 200]
            assert await status("/", {}) == 200
            assert (await post(run, chat(), headers=WITH)).status_code == 401
            assert (await post(run, chat(), headers=bearer("ann"))).status_code == 200


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.parametrize(("value", "words"), [(None, "is not set"), ("", "is not set"), ("short", "at least 16")])
async def test_a_token_that_is_missing_or_could_be_guessed_stops_the_start(
    value: str | None, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ADMIN_TOKEN")
    if value is not None:
        monkeypatch.setenv("ADMIN_TOKEN", value)
    async with fake_engine() as engine:
        with pytest.raises(ConfigError, match=f"ADMIN_TOKEN.*{words}"):
            async with gateway_over(engine.url, server=GUARDED):
                pass


@pytest.mark.parametrize(("host", "told"), [("0.0.0.0", True), ("127.0.0.1", False)])
async def test_who_opens_the_port_to_others_is_told(host: str, told: bool) -> None:
    async with fake_engine() as engine:
        async with gateway_over(engine.url, server={"host": host}) as run:
            assert any("admin_token_env" in notice for notice in run.gateway.notices()) == told
        async with gateway_over(engine.url, server={"host": host} | GUARDED) as run:
            assert not any("admin_token_env" in notice for notice in run.gateway.notices())


async def test_without_a_token_all_is_as_before() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        assert (await http.get("/api/snapshot")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://{host}", "sec-fetch-site": "same-origin"}, 200),
        ({}, 200),
    ],
)
async def test_no_page_of_another_site_can_change_anything(headers: dict[str, str], status: int) -> None:
    """Nor has it to know the token, where there is none."""
    async with fake_engine() as engine, gateway_over(engine.url) as run, admin(run) as http:
        sent = {name: value.format(host=run.admin_url.partition("://")[2]) for name, value in headers.items()}
        answer = await http.post("/api/replicas/p-0/drain", headers=sent)
        assert answer.status_code == status
        assert (await http.get("/api/snapshot", headers=sent)).status_code == 200
        state = (await http.get("/api/replicas")).json()[0]["state"]
        assert state == ("up" if status == 403 else "draining")
