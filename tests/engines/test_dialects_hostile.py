"""Nothing that an engine sends may raise: random bytes, random JSON and random JSON under the names we read."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.cache_events import EventSource
from engines.registry import DIALECTS
from engines.reports import EngineDescription, EngineError, LoadReport, PrefillSettings

# A slow machine is no defect.
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

WORDS = st.sampled_from(
    [
        "error", "message", "type", "param", "code", "detail", "loc", "msg", "object", "data", "id",
        "max_model_len", "loads", "dp_rank", "num_reqs", "num_running_reqs", "num_waiting_reqs",
        "num_waiting_uncached_tokens", "token_usage", "max_total_num_tokens", "version", "chunked_prefill_size",
        "max_prefill_tokens", "enable_mixed_chunk", "page_size", "enable_cache_report", "disable_radix_cache",
        "enable_dp_attention", "dp_size", "context_length", "internal_states", "memory_usage", "token_capacity",
        "vllm_config", "scheduler_config", "cache_config", "max_num_batched_tokens",
        "long_prefill_token_threshold", "enable_prefix_caching", "block_size", "parent", "kv_events",
        "kv_events_config", "enable_kv_cache_events", "publisher", "endpoint", "replay_endpoint", "topic", "0", "1",
        "endpoint_host", "endpoint_port_base", "replay_endpoint_port_base",
    ]
)  # fmt: skip
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
    | st.sampled_from([-1, 0, 1, 503, "503", 2**63, 10**400, 1e308, "", True, "zmq", "tcp://*:5557", 65535, "\ud800"])
)  # fmt: skip
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS | st.text(max_size=4), inner, max_size=6),
    max_leaves=25,
)
NAMES = st.sampled_from(
    [
        "vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc",
        "vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total", "vllm:cache_config_info",
        "process_start_time_seconds", "sglang:prompt_tokens_total", "sglang:cached_tokens_total",
        "sglang:num_running_reqs", "sglang:token_usage", "sglang:page_size", "sglang:max_total_num_tokens",
        "http_requests_total", "sglang:http_requests_total", "sglang:http_responses_total",
    ]
)  # fmt: skip
LABEL = st.sampled_from(
    [
        "engine", "dp_rank", "num_gpu_blocks", "block_size", "kv_cache_size_tokens", "enable_prefix_caching",
        "handler", "endpoint", "method", "status", "status_code",
    ]
)  # fmt: skip
LABEL_VALUE = st.sampled_from(
    [
        "0", "16", "None", "True", "9" * 18, "9" * 19, "9" * 5000, "²", '\\"', "}",
        "POST", "2xx", "/sleep", "/flush_cache",
    ]
)  # fmt: skip
VALUE = st.sampled_from(["0", "1", "-1", "NaN", "+Inf", "-Inf", "1e308", "1e999", "0x1", "9" * 400, ""])
SAMPLE = st.builds(
    lambda name, labels, value: name + "{" + ",".join(f'{k}="{v}"' for k, v in labels.items()) + "} " + value,
    NAMES, st.dictionaries(LABEL, LABEL_VALUE), VALUE,
)  # fmt: skip
BODIES = (
    st.binary(max_size=200)
    | JSON.map(lambda value: json.dumps(value).encode())  # also NaN, Infinity and lone surrogates
    | st.lists(SAMPLE, max_size=8).map(lambda lines: "\n".join(lines).encode())
)


@pytest.mark.parametrize("name", sorted(DIALECTS))
@patient
@given(body=BODIES, status=st.integers(-1, 1000))
def test_errors(name: str, body: bytes, status: int) -> None:
    error = DIALECTS[name].read_error(status, body)
    assert isinstance(error, EngineError)
    assert 400 <= error.status <= 599
    assert error.message.strip()
    assert error.type
    (error.message + error.type).encode()
    if error.status < 500 and error.status not in (408, 429):
        assert not error.retryable


@pytest.mark.parametrize("name", sorted(DIALECTS))
@patient
@given(data=st.data())
def test_loads(name: str, data: st.DataObject) -> None:
    engine = DIALECTS[name]
    report = engine.read_load({path: data.draw(BODIES, label=path) for path in engine.load_paths})
    assert isinstance(report, LoadReport)
    counts = (
        report.running_requests, report.waiting_requests, report.waiting_uncached_tokens, report.kv_capacity_tokens,
        report.prompt_tokens_total, report.cached_tokens_total, report.cache_resets_total,
    )  # fmt: skip
    assert all(count is None or (type(count) is int and 0 <= count < 2**63) for count in counts)
    assert report.kv_usage is None or 0.0 <= report.kv_usage <= 1.0
    assert report.block_tokens is None or report.block_tokens > 0


@pytest.mark.parametrize("name", sorted(DIALECTS))
@patient
@given(data=st.data(), chunk_tokens=st.none() | st.integers(1, 2**20))
def test_descriptions(name: str, data: st.DataObject, chunk_tokens: int | None) -> None:
    engine = DIALECTS[name]
    description = engine.describe({path: data.draw(BODIES, label=path) for path in engine.description_paths})
    assert isinstance(description, EngineDescription)
    assert description.block_tokens is None or description.block_tokens > 0
    assert all(engine.warnings(description, PrefillSettings(chunk_tokens=chunk_tokens)))


@pytest.mark.parametrize("name", sorted(DIALECTS))
@patient
@given(data=st.data())
def test_event_sources(name: str, data: st.DataObject) -> None:
    engine = DIALECTS[name]
    sources = engine.read_event_sources({path: data.draw(BODIES, label=path) for path in engine.description_paths})
    assert [source.rank for source in sources] == sorted({source.rank for source in sources})
    for source in sources:
        assert isinstance(source, EventSource)
        assert 0 <= source.rank < 1024
        assert source.endpoint.strip()
        assert source.replay_endpoint is None or source.replay_endpoint.strip()


@pytest.mark.parametrize("name", sorted(DIALECTS))
@patient
@given(body=BODIES)
def test_models(name: str, body: bytes) -> None:
    assert all(card.id.strip() for card in DIALECTS[name].read_models(body))


@pytest.mark.parametrize("name", sorted(DIALECTS))
@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"error":' * 100_000, b'{"data":[' * 5_000, b"1" * 100_000])
def test_bodies_too_deep_or_too_long(name: str, body: bytes) -> None:
    engine = DIALECTS[name]
    assert engine.read_error(500, body).message == "the engine answered 500 with a body that is not JSON"
    assert engine.read_models(body) == ()
    assert engine.read_load(dict.fromkeys(engine.load_paths, body)) == LoadReport()
