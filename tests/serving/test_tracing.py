"""Traces: what a collector is told of a request, and what engines are told of the trace."""

import pytest
from collector import attributes, collecting
from fake_engine import DONE, FakeEngine, fake_engine, frame, stream, usage_frame, whole
from gateways import chat, client, gateway_of, gateway_over
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from gateway.config import ConfigError, build
from gateway.serving.gateway import Gateway

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
SENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
ANSWER = stream(frame("a"), frame("b"), usage_frame(10, 4), DONE)


def asked(engine: FakeEngine) -> list[dict[str, str]]:
    return [one.headers for one in engine.requests if one.method == "POST"]


async def test_a_request_as_spans() -> None:
    with collecting() as collector:
        async with fake_engine(ANSWER) as engine:
            async with gateway_over(engine.url, tracing={"endpoint": collector.url}) as run, client(run) as http:
                answer = await http.post("/v1/chat/completions", json=chat(stream=True), headers=SENT)
                assert answer.status_code == 200
            headers = asked(engine)[-1]
    names = sorted(span.name for span in collector.spans)
    assert names == ["POST /v1/chat/completions", "attempt p-0", "connect", "first token", "parse", "route", "stream"]
    root, attempt = collector.named("POST /v1/chat/completions")[0], collector.named("attempt p-0")[0]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert root.parent_span_id.hex() == PARENT
    assert headers["traceparent"] == f"00-{TRACE}-{attempt.span_id.hex()}-01"
    assert headers["tracestate"] == "vendor=1"
    assert attributes(attempt)["prefixgate.replica"] == "p-0"
    assert attributes(root)["gen_ai.usage.input_tokens"] == 10
    assert attributes(root)["prefixgate.cached_tokens"] == 4
    assert attributes(root)["prefixgate.outcome"] == "completed"
    assert root.kind == Span.SPAN_KIND_SERVER
    assert attempt.kind == Span.SPAN_KIND_CLIENT
    for span in collector.spans:
        assert root.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        inner = span.name in ("connect", "first token", "stream")
        if span is not root:
            assert span.parent_span_id == (attempt if inner else root).span_id
    assert not any("hello" in str(span) for span in collector.spans)


async def test_attempts_that_fail_are_told() -> None:
    with collecting() as collector:
        async with fake_engine(whole(b"{}", 500)) as broken, fake_engine(ANSWER) as sound:
            pools = [
                {"name": "a", "engine": "vllm", "model": "m", "replicas": [broken.url]},
                {"name": "b", "engine": "vllm", "model": "m", "replicas": [sound.url]},
            ]
            async with gateway_of(pools, tracing={"endpoint": collector.url}) as run, client(run) as http:
                for _ in range(2):
                    await http.post("/v1/chat/completions", json=chat(stream=True))
            tried = len(asked(broken))
            contexts = [headers["traceparent"].split("-")[2] for headers in asked(broken)]
    assert tried >= 1
    failed = collector.named("attempt a-0")
    assert len(failed) == tried
    assert {span.status.code for span in failed} == {Status.STATUS_CODE_ERROR}
    assert {span.status.message for span in failed} == {"engine"}
    assert sorted(contexts) == sorted(span.span_id.hex() for span in failed)
    assert len(collector.named("attempt b-0")) == 2
    roots = collector.named("POST /v1/chat/completions")
    assert {attributes(root)["prefixgate.outcome"] for root in roots} == {"completed"}


async def test_refusals_and_what_is_not_sampled() -> None:
    with collecting() as collector:
        async with fake_engine(ANSWER) as engine:
            tracing = {"endpoint": collector.url, "share": 0.0}
            async with gateway_over(engine.url, tracing=tracing) as run, client(run) as http:
                await http.post("/v1/chat/completions", json=chat(stream=True))
                wrong = await http.post("/v1/chat/completions", json=chat() | {"model": "no"}, headers=SENT)
                assert wrong.status_code == 404
            passed = asked(engine)[-1]["traceparent"]
    assert int(passed.split("-")[3], 16) & 1 == 0  # not sampled
    assert [span.name for span in collector.spans if not span.name.startswith("POST")] == ["parse"]
    (root,) = collector.named("POST /v1/chat/completions")
    assert attributes(root)["prefixgate.outcome"] == "rejected"
    assert root.status.code == Status.STATUS_CODE_ERROR


async def test_without_tracing_the_clients_context_passes() -> None:
    async with fake_engine(ANSWER) as engine, gateway_over(engine.url) as run, client(run) as http:
        await http.post("/v1/chat/completions", json=chat(stream=True), headers=SENT)
        assert asked(engine)[-1]["traceparent"] == SENT["traceparent"]


async def test_the_collector_gets_its_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_KEY", "x-key=secret-of-the-collector, x-more = 2")
    with collecting() as collector:
        tracing = {"endpoint": collector.url, "headers_env": "OTEL_KEY"}
        async with (
            fake_engine(ANSWER) as engine,
            gateway_over(engine.url, tracing=tracing) as run,
            client(run) as http,
        ):
            await http.post("/v1/chat/completions", json=chat(stream=True))
    assert collector.headers[0]["x-key"] == "secret-of-the-collector"
    assert collector.headers[0]["x-more"] == "2"


async def test_a_collector_that_is_away_costs_no_request(capsys: pytest.CaptureFixture[str]) -> None:
    tracing = {"endpoint": "http://127.0.0.1:9/v1/traces"}
    async with fake_engine(ANSWER) as engine, gateway_over(engine.url, tracing=tracing) as run, client(run) as http:
        answer = await http.post("/v1/chat/completions", json=chat(stream=True))
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("tracing", "said"),
    [
        ({"endpoint": "collector:4318"}, "is not an http"),
        ({"share": 1.5}, "between 0 and 1"),
        ({"service": ""}, "service"),
        ({"endpoint": "http://c:1", "headers_env": "NO_SUCH"}, "NO_SUCH"),
    ],
)
def test_mistakes_in_the_file(tracing: dict[str, object], said: str) -> None:
    pool = {"name": "p", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}
    with pytest.raises(ConfigError, match=said):
        Gateway(build({"pools": [pool], "tracing": tracing}))
