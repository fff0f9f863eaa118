"""The admin port: what it shows is what happened."""

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
from fake_engine import COMPLETION, DONE, FakeEngine, fake_engine, frame, models, response, stream, usage_frame, whole
from gateways import admin, chat, client, gateway_of, gateway_over, openai_error, post
from prometheus_client.parser import text_string_to_metric_families

from gateway import __version__
from gateway.config import build
from gateway.serving.server import RunningGateway, running

FAMILIES = {
    "prompt_tokens": "counter",
    "completion_tokens": "counter",
    "unreported_prompt_tokens": "counter",
    "cached_tokens": "counter",
    "requests": "counter",
    "retries": "counter",
    "continuations": "counter",
    "ttft_seconds": "histogram",
    "itl_seconds": "histogram",
    "request_seconds": "histogram",
    "route_seconds": "histogram",
    "overhead_seconds": "histogram",
    "held_seconds": "histogram",
    "prediction_error_tokens": "histogram",
    "predicted_ttft_error_seconds": "histogram",
    "held_requests": "gauge",
    "replica_up": "gauge",
    "replica_inflight": "gauge",
    "replica_waiting_tokens": "gauge",
    "replica_waiting_requests": "gauge",
    "replica_kv_usage": "gauge",
    "index_blocks": "gauge",
    "index_bytes": "gauge",
    "prefill_chunk_tokens": "gauge",
    "ttft_curve_base_ms": "gauge",
    "ttft_curve_ms_per_token": "gauge",
    "ttft_curve_ms_per_token2": "gauge",
    "ttft_curve_bias": "gauge",
    "ttft_curve_mape": "gauge",
    "ttft_curve_observations": "gauge",
}
PROMPT = "a long enough prompt " * 100


@asynccontextmanager
async def busy_gateway() -> AsyncIterator[tuple[RunningGateway, FakeEngine]]:
    """Three completed requests (one a stream of three frames), one refused by the engine, one by us."""
    async with fake_engine() as engine:
        engine.pages["/v1/loads"] = response(b'{"loads":[{"num_waiting_uncached_tokens":11,"token_usage":0.5}]}')
        engine.pages["/server_info"] = response(b'{"version":"0.5.23","chunked_prefill_size":4096}')
        pools = [
            {
                "name": "s",
                "engine": "sglang",
                "replicas": [engine.url],
                "model": "m",
                "prefill": {"chunk_tokens": 8192},
            },
            {"name": "down", "engine": "vllm", "replicas": ["http://127.0.0.1:9"], "model": "other"},
        ]
        async with gateway_of(pools) as run:
            for _ in range(2):
                await post(run, chat(PROMPT))
            engine.answer = stream(frame("a"), frame("b"), frame("c"), usage_frame(9, 4), DONE)
            await post(run, chat(PROMPT, stream=True), headers={"x-request-id": "streamed"})
            engine.answer = whole(b'{"error":{"message":"no"}}', 400)
            await post(run, chat(PROMPT), headers={"x-request-id": "refused"})
            await post(run, chat(PROMPT, model="unknown"))
            yield run, engine


async def read_metrics(run: RunningGateway) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Our samples by name (without the prefix) and sorted labels; types and names are checked on the way."""
    async with admin(run) as http:
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    families = {family.name: family for family in text_string_to_metric_families(answer.text)}
    for name, kind in FAMILIES.items():
        assert families[f"prefixgate_{name}"].type == kind
        assert families[f"prefixgate_{name}"].documentation
    assert "process_resident_memory_bytes" in families
    return {
        (sample.name.removeprefix("prefixgate_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name.startswith("prefixgate_")
    }


async def test_the_metrics_are_what_was_sent() -> None:
    async with busy_gateway() as (run, _engine):
        samples = await read_metrics(run)
    at = (("model", "m"), ("pool", "s"), ("replica", "s-0"))

    def value(name: str, **more: str) -> float:
        return samples[name, tuple(sorted((*at, *more.items())))]

    assert value("requests_total", outcome="completed") == 3
    assert value("requests_total", outcome="engine_rejected") == 1
    nobody = (("model", ""), ("outcome", "rejected"), ("pool", ""), ("replica", ""))
    assert samples["requests_total", nobody] == 1
    assert value("prompt_tokens_total") == 27
    assert value("completion_tokens_total") == 4
    assert value("cached_tokens_total", kind="delivered") == 12
    assert value("cached_tokens_total", kind="available") == value("cached_tokens_total", kind="routed") > 0
    assert value("unreported_prompt_tokens_total") == 0
    assert value("retries_total", reason="connection") == value("retries_total", reason="continued") == 0
    assert value("ttft_seconds_count") == 1
    assert value("predicted_ttft_error_seconds_bucket", le="+Inf") == 1
    assert value("itl_seconds_count") == 2
    assert value("request_seconds_count") == value("route_seconds_count") == value("overhead_seconds_count") == 4
    assert value("held_seconds_count") == 4
    assert value("held_seconds_sum") == samples["held_requests", ()] == 0
    assert value("prediction_error_tokens_bucket", le="+Inf") == 3
    assert value("ttft_seconds_bucket", le="+Inf") == 1
    assert value("replica_up") == 1
    assert value("replica_inflight") == 0
    assert value("replica_waiting_tokens") == 11
    assert value("replica_kv_usage") == 0.5
    assert value("index_bytes") > value("index_blocks") > 0
    assert value("ttft_curve_base_ms") > 0
    assert value("ttft_curve_ms_per_token") > 0
    assert value("ttft_curve_ms_per_token2") == 0
    assert value("ttft_curve_observations") == 1, "only streams show their first token"
    assert value("ttft_curve_mape") == abs(value("ttft_curve_bias")) > 0
    assert value("prefill_chunk_tokens", kind="desired") == 8192
    assert value("prefill_chunk_tokens", kind="actual") == 4096
    assert samples["replica_up", (("model", "other"), ("pool", "down"), ("replica", "down-0"))] == 0


async def test_labels_with_odd_names_can_be_read() -> None:
    odd = 'org/"model"\\x\n'
    async with fake_engine() as engine:
        engine.pages["/v1/models"] = response(models(odd))
        async with gateway_over(engine.url, model=None) as run:
            assert (await post(run, chat(model=odd))).status_code == 200
            samples = await read_metrics(run)
    at = (("model", odd), ("outcome", "completed"), ("pool", "p"), ("replica", "p-0"))
    assert samples["requests_total", at] == 1


async def test_the_snapshot_and_its_event() -> None:
    async with busy_gateway() as (run, engine), admin(run) as http:
        view = (await http.get("/api/snapshot")).json()
        async with http.stream("GET", "/api/events") as events:
            assert events.headers["content-type"].startswith("text/event-stream")
            event = await anext(events.aiter_lines())
        seen = json.loads(event.removeprefix("data: "))
    assert seen["snapshot"]["series"] == view["snapshot"]["series"]
    gateway, snapshot = view["gateway"], view["snapshot"]
    assert gateway["version"] == __version__
    assert gateway["uptime_s"] >= 0
    assert gateway["notices"] == []
    assert any("8192" in warning for warning in gateway["warnings"]["s-0"])
    assert (snapshot["policy"], snapshot["held"]) == ("ttft", 0)
    up, down = snapshot["replicas"]
    assert (up["name"], up["url"], up["state"], up["version"]) == ("s-0", engine.url, "up", "0.5.23")
    assert (down["name"], down["state"]) == ("down-0", "down")
    assert "failed" in down["reason"]
    [series] = [one for one in snapshot["series"] if one["replica"]]
    assert series["outcomes"] == {"completed": 3, "engine_rejected": 1}
    assert series["hit_rate"] == 12 / 27


async def test_recent_requests_explain_themselves() -> None:
    async with busy_gateway() as (run, _engine), admin(run) as http:
        one = (await http.get("/api/requests/streamed")).json()
        every = (await http.get("/api/requests")).json()
        two = (await http.get("/api/requests", params={"limit": 2})).json()
        missing = await http.get("/api/requests/none")
        bad = await http.get("/api/requests", params={"limit": "many"})
    assert (one["request_id"], one["outcome"], one["attempts"], one["policy"]) == ("streamed", "completed", 1, "ttft")
    assert one["usage"] == {"prompt_tokens": 9, "completion_tokens": 2, "cached_tokens": 4}
    assert one["ttft_s"] > 0
    [row] = one["candidates"]
    assert (row["replica"], row["chosen"]) == ("s-0", True)
    assert row["cached_tokens"] == one["available_tokens"] > 0
    assert row["cost_ms"] == sum(term["ms"] for term in row["terms"])
    assert [term["name"] for term in row["terms"]] == ["wait", "prefill", "others", "eviction"]
    assert [record["request_id"] for record in every][:2] == ["refused", "streamed"]
    assert len(every) == 4
    assert two == every[:2]
    assert missing.status_code == 404
    assert openai_error(missing)["code"] == "request_not_found"
    assert bad.status_code == 400
    assert "limit" in openai_error(bad)["message"]


async def test_what_would_be_done_with_a_body() -> None:
    async with busy_gateway() as (run, engine), admin(run) as http:
        asked = len(engine.requests)
        told = (await http.post("/api/explain", json=chat(PROMPT))).json()
        text = await http.post("/api/explain?endpoint=/v1/completions", json={"model": "m", "prompt": "x"})
        unknown = await http.post("/api/explain", json=chat(model="unknown"))
        down = await http.post("/api/explain", json=chat(model="other"))
        wrong = await http.post("/api/explain?endpoint=/v1/none", json={})
        broken = await http.post("/api/explain", content=b"{")
        assert len(engine.requests) == asked
        assert len((await http.get("/api/requests")).json()) == 4
    assert told["candidates"][0]["cached_tokens"] > 0
    assert "only usable replica" in told["why"]
    assert text.json()["candidates"][0]["replica"] == "s-0"
    statuses = {"unknown": (unknown, 404), "down": (down, 503), "wrong": (wrong, 400), "broken": (broken, 400)}
    for name, (answer, status) in statuses.items():
        assert answer.status_code == status, name
        openai_error(answer)


async def test_the_rest_of_the_admin_api() -> None:
    experiment = {"name": "e", "arms": {"p": 1.0}}
    state = {"redis_url": "redis://x"}
    async with fake_engine() as engine, gateway_over(engine.url, experiments=[experiment], state=state) as run:
        async with admin(run) as http:
            page = await http.get("/")
            assert page.headers["content-type"].startswith("text/html")
            assert "<html" in page.text
            assert [view["name"] for view in (await http.get("/api/replicas")).json()] == ["p-0"]
            prefill = (await http.get("/api/pools/p/prefill")).json()
            assert set(prefill) == {"pool", "desired", "actual", "drift", "change", "advice"}
            assert set(prefill["actual"]) == {"p-0"}
            [told] = (await http.get("/api/experiments")).json()
            assert (told["name"], told["unit"], told["state"]) == ("e", "prefix-family", "running")
            assert len((await http.get("/api/snapshot")).json()["gateway"]["notices"]) == 1
            for method, path, status in (
                ("GET", "/api/pools/none/prefill", 404),
                ("GET", "/api/none", 404),
                ("GET", "/v1/models", 404),
                ("POST", "/v1/chat/completions", 404),
                ("POST", "/api/snapshot", 405),
            ):
                answer = await http.request(method, path)
                assert answer.status_code == status, path
                openai_error(answer)
        async with client(run) as http:
            assert (await http.get("/api/snapshot")).status_code == 404


async def test_one_port_may_serve_both() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with fake_engine() as engine, gateway_over(engine.url, server={"port": port, "admin_port": port}) as run:
        assert run.url == run.admin_url == f"http://127.0.0.1:{port}"
        assert (await post(run, chat())).content == COMPLETION
        async with client(run) as http:
            assert "prefixgate_requests_total" in (await http.get("/metrics")).text
            assert (await http.get("/health")).status_code == 200
            assert "<html" in (await http.get("/")).text


async def test_a_bug_in_the_admin_api_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with gateway_over("http://127.0.0.1:9") as run:

        def broken(*_: object) -> None:
            raise ZeroDivisionError("our secret")

        monkeypatch.setattr(run.gateway.router, "share", broken)
        async with httpx.AsyncClient(base_url=run.admin_url, trust_env=False) as http:
            answer = await http.get("/api/snapshot")
        monkeypatch.undo()
    assert answer.status_code == 500
    assert openai_error(answer)["type"] == "internal_error"
    assert "secret" not in answer.text


async def test_ports_that_are_taken() -> None:
    with socket.socket() as taken, socket.socket() as free:
        for one in (taken, free):
            one.bind(("127.0.0.1", 0))
        taken.listen()
        busy, port = (one.getsockname()[1] for one in (taken, free))
        free.close()
        pool = {"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}
        for server in ({"port": busy, "admin_port": 0}, {"port": port, "admin_port": busy}):
            with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
                async with running(build({"pools": [pool], "server": server})):
                    pass
