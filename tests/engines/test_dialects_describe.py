"""Descriptions of replicas, the warnings made of them, launch flags and request ids."""

import json
from pathlib import Path
from typing import Any

import pytest

from engines.cache_events import EventSource
from engines.dialect import Dialect
from engines.registry import DIALECTS, dialect
from engines.reports import EngineCall, EngineDescription, PrefillSettings
from engines.sglang import SglangDialect
from engines.vllm import VllmDialect

FIXTURES = Path(__file__).parents[1] / "fixtures"
VLLM, SGLANG = VllmDialect(), SglangDialect()
ALL_SET = PrefillSettings(chunk_tokens=16384, long_prefill_threshold=4096, max_prefill_tokens=32768, mixed_chunk=True)


def page(folder: str, name: str) -> bytes:
    return (FIXTURES / folder / name).read_bytes()


def vllm_server_info(**sections: dict[str, Any]) -> bytes:
    """Written by hand: the recorded servers did not run in development mode."""
    return json.dumps({"vllm_config": sections, "vllm_env": {}, "system_env": {}}).encode()


@pytest.mark.parametrize(
    ("folder", "version", "block_tokens", "capacity"),
    [("vllm-0.25.0", "0.25.0", 16, 304672), ("vllm-0.32.0", "0.32.0", 128, 524288)],
)
def test_recorded_vllm(folder: str, version: str, block_tokens: int, capacity: int) -> None:
    pages = {"/metrics": page(folder, "metrics.txt"), "/version": page(folder, "version.json")}
    description = VLLM.describe(pages)
    assert description == EngineDescription(
        version=version,
        prefix_caching=True,
        block_tokens=block_tokens,
        kv_capacity_tokens=capacity,
        exposes_metrics=True,
    )
    assert VLLM.warnings(description, PrefillSettings(chunk_tokens=8192)) == ()


def test_vllm_tells_its_chunk_in_development_mode() -> None:
    body = vllm_server_info(
        scheduler_config={"max_num_batched_tokens": 8192, "long_prefill_token_threshold": 0},
        cache_config={"enable_prefix_caching": False, "block_size": 256},
    )
    description = VLLM.describe({"/server_info?config_format=json": body})
    assert description == EngineDescription(
        prefill=PrefillSettings(chunk_tokens=8192, long_prefill_threshold=0),
        prefix_caching=False,
        block_tokens=256,
    )


def test_vllm_text_form_of_the_config_says_nothing() -> None:
    body = b'{"vllm_config": "max_num_batched_tokens=8192"}'
    assert VLLM.describe({"/server_info?config_format=json": body}) == EngineDescription()


def test_recorded_sglang() -> None:
    expected = EngineDescription(
        version="0.5.16",
        prefill=PrefillSettings(chunk_tokens=8192, max_prefill_tokens=16384, mixed_chunk=False),
        prefix_caching=True,
        reports_cached_tokens=True,
        block_tokens=1,
        kv_capacity_tokens=309900,
        exposes_metrics=True,
        publishes_events=True,
        max_running_requests=4096,
    )
    body = page("sglang-0.5.16", "server_info.completed.json")
    assert SGLANG.describe({"/server_info": body}) == expected
    assert SGLANG.describe({"/get_server_info": body}) == expected
    assert SGLANG.warnings(expected, PrefillSettings(chunk_tokens=8192, mixed_chunk=False)) == ()


@pytest.mark.parametrize(
    ("server", "chunk_tokens"),
    [
        ({"chunked_prefill_size": 8192}, 8192),
        # the engine divided the flag's 8192 by 4 and reports the quotient
        ({"chunked_prefill_size": 2048, "dp_size": 4, "enable_dp_attention": True}, 8192),
        ({"chunked_prefill_size": 8192, "dp_size": 4, "enable_dp_attention": False}, 8192),
        ({"chunked_prefill_size": -1, "max_prefill_tokens": 16384, "context_length": 32768}, 32768),
        ({"chunked_prefill_size": -1, "max_prefill_tokens": 16384}, 16384),
        ({"chunked_prefill_size": -1}, None),
        ({"chunked_prefill_size": 0}, None),
        ({"chunked_prefill_size": None}, None),
        ({"chunked_prefill_size": "8192"}, None),
    ],
)
def test_sglang_chunk_as_its_flag_spells_it(server: dict[str, Any], chunk_tokens: int | None) -> None:
    assert SGLANG.describe({"/server_info": json.dumps(server).encode()}).prefill.chunk_tokens == chunk_tokens


def test_sglang_capacity_is_that_of_all_ranks() -> None:
    server = {
        "internal_states": [{"memory_usage": {"token_capacity": 10}}, {}, {"memory_usage": {"token_capacity": 5}}]
    }
    assert SGLANG.describe({"/server_info": json.dumps(server).encode()}).kv_capacity_tokens == 15


@pytest.mark.parametrize("engine", [VLLM, SGLANG])
def test_no_page_no_knowledge(engine: Dialect) -> None:
    assert engine.describe({}) == EngineDescription()
    assert engine.warnings(EngineDescription(), PrefillSettings(chunk_tokens=1)) == ()


BARE = EngineDescription(prefix_caching=False, reports_cached_tokens=False, exposes_metrics=False)


def test_vllm_names_each_missing_flag() -> None:
    assert VLLM.warnings(BARE, PrefillSettings()) == (
        "/metrics has no load of the engine: restart without --disable-log-stats",
        "usage carries no cached tokens, so hit rates cannot be confirmed: restart with --enable-prompt-tokens-details",
        "prefix caching is off, so no prompt is ever reused: restart with --enable-prefix-caching",
    )
    assert VLLM.describe({"/metrics": b"process_cpu_seconds_total 1\n"}).exposes_metrics is False


def test_sglang_names_each_missing_flag() -> None:
    assert SGLANG.warnings(BARE, PrefillSettings()) == (
        "there is no /metrics, so no token counters: restart with --enable-metrics",
        "usage carries no cached tokens, so hit rates cannot be confirmed: restart with --enable-cache-report",
        "prefix caching is off, so no prompt is ever reused: restart without --disable-radix-cache",
    )


@pytest.mark.parametrize(
    ("engine", "actual", "wished", "sentence"),
    [
        (SGLANG, PrefillSettings(chunk_tokens=8192), PrefillSettings(chunk_tokens=16384),
         "chunk is 8192 but the config wishes 16384: restart with --chunked-prefill-size 16384"),
        (VLLM, PrefillSettings(chunk_tokens=8192), PrefillSettings(chunk_tokens=16384),
         "chunk is 8192 but the config wishes 16384: restart with --max-num-batched-tokens 16384"),
        (VLLM, PrefillSettings(long_prefill_threshold=0), PrefillSettings(long_prefill_threshold=4096),
         "long-prefill threshold is 0 but the config wishes 4096: restart with --long-prefill-token-threshold 4096"),
        (SGLANG, PrefillSettings(max_prefill_tokens=16384), PrefillSettings(max_prefill_tokens=8192),
         "max prefill tokens is 16384 but the config wishes 8192: restart with --max-prefill-tokens 8192"),
        (SGLANG, PrefillSettings(mixed_chunk=False), PrefillSettings(mixed_chunk=True),
         "mixed chunk is off but the config wishes on: restart with --enable-mixed-chunk"),
        (SGLANG, PrefillSettings(mixed_chunk=True), PrefillSettings(mixed_chunk=False),
         "mixed chunk is on but the config wishes off: restart without --enable-mixed-chunk"),
        (SGLANG, PrefillSettings(), PrefillSettings(long_prefill_threshold=4096),
         "sglang has no setting for long-prefill threshold: the config's 4096 is ignored"),
        (VLLM, PrefillSettings(), PrefillSettings(max_prefill_tokens=9),
         "vllm has no setting for max prefill tokens: the config's 9 is ignored"),
    ],
)  # fmt: skip
def test_drift_is_said_with_its_remedy(
    engine: Dialect, actual: PrefillSettings, wished: PrefillSettings, sentence: str
) -> None:
    assert engine.warnings(EngineDescription(prefill=actual), wished) == (sentence,)


def test_launch_flags() -> None:
    assert VLLM.launch_flags(ALL_SET) == ("--max-num-batched-tokens", "16384", "--long-prefill-token-threshold", "4096")
    assert SGLANG.launch_flags(ALL_SET) == (
        "--chunked-prefill-size", "16384", "--max-prefill-tokens", "32768", "--enable-mixed-chunk",
    )  # fmt: skip
    assert VLLM.launch_flags(PrefillSettings()) == SGLANG.launch_flags(PrefillSettings(mixed_chunk=False)) == ()


def test_measuring_flags() -> None:
    flags = VLLM.measuring_flags()
    assert flags[:3] == ("--enable-prompt-tokens-details", "--enable-per-request-metrics", "--kv-events-config")
    ports = {"publisher": "zmq", "endpoint": "tcp://*:5557", "replay_endpoint": "tcp://*:5558"}
    assert json.loads(flags[3]) == {"enable_kv_cache_events": True, **ports}
    flags = SGLANG.measuring_flags()
    assert flags[:3] == ("--enable-cache-report", "--enable-metrics", "--kv-events-config")
    assert json.loads(flags[3]) == ports


@pytest.mark.parametrize(
    ("answer", "flags"),
    [
        ({"usage": {"prompt_tokens": 9}}, ["--enable-prompt-tokens-details", "--enable-per-request-metrics"]),
        ({"usage": {"prompt_tokens_details": {"cached_tokens": 0}}}, ["--enable-per-request-metrics"]),
        ({"usage": {"prompt_tokens_details": None}, "metrics": {}}, ["--enable-prompt-tokens-details"]),
        ({"usage": {"prompt_tokens_details": {}}, "metrics": {}}, []),
        ({"usage": None}, []),
        ([], []),
    ],
)
def test_an_answer_tells_what_no_page_tells(answer: Any, flags: list[str]) -> None:
    body = json.dumps(answer).encode()
    sentences = VLLM.answer_warnings(body)
    assert len(sentences) == len(flags)
    assert all(sentence.endswith(flag) for sentence, flag in zip(sentences, flags, strict=True))
    assert SGLANG.answer_warnings(body) == ()


def vllm_sources(said: Any) -> tuple[EventSource, ...]:
    assert "/kv_event_sources" in VLLM.description_paths
    return VLLM.read_event_sources({"/kv_event_sources": json.dumps(said).encode()})


def test_vllm_event_sources() -> None:
    recorded = (
        b'{"0":{"enable_kv_cache_events":true,"publisher":"zmq","endpoint":"tcp://*:5557","replay_endpoint":null,'
        b'"buffer_steps":10000,"hwm":100000,"max_queue_size":100000,"topic":"kv"}}'
    )
    assert VLLM.read_event_sources({"/kv_event_sources": recorded}) == (EventSource(0, "tcp://*:5557", None, "kv"),)
    rank = {
        "enable_kv_cache_events": True,
        "publisher": None,
        "endpoint": "tcp://*:6000",
        "replay_endpoint": "tcp://*:7",
    }
    assert vllm_sources({"10": rank, "2": rank | {"topic": "t", "publisher": "zmq"}}) == (
        EventSource(2, "tcp://*:6000", "tcp://*:7", "t"),
        EventSource(10, "tcp://*:6000", "tcp://*:7", ""),
    )
    for change in (
        {"enable_kv_cache_events": False}, {"enable_kv_cache_events": 1}, {"publisher": "null"}, {"endpoint": None},
        {"endpoint": 5557}, {"endpoint": " "},
    ):  # fmt: skip
        assert vllm_sources({"0": rank | change}) == ()
    assert (
        vllm_sources({"": rank, "-1": rank, "one": rank, "1024": rank, "9" * 400: rank, "3": None, "4": [rank]}) == ()
    )
    assert vllm_sources({}) == vllm_sources([rank]) == VLLM.read_event_sources({}) == ()


def sglang_sources(path: str = "/server_info", **server: Any) -> tuple[EventSource, ...]:
    return SGLANG.read_event_sources({path: json.dumps(server).encode()})


def test_sglang_event_sources() -> None:
    server = json.loads(page("sglang-0.5.16", "server_info.completed.json"))
    one = (EventSource(0, "tcp://*:5657", None, "kv"),)
    assert sglang_sources(**server) == sglang_sources("/get_server_info", **server) == one
    events = {"publisher": "zmq", "endpoint_host": "10.0.0.1", "endpoint_port_base": 5557, "topic": "", "dp_size": 2}
    assert sglang_sources(kv_events=events | {"replay_endpoint_port_base": 5657}) == (
        EventSource(0, "tcp://10.0.0.1:5557", "tcp://10.0.0.1:5657", ""),
        EventSource(1, "tcp://10.0.0.1:5558", "tcp://10.0.0.1:5658", ""),
    )
    assert sglang_sources(kv_events={"endpoint_port_base": 1}) == (EventSource(0, "tcp://*:1"),)
    for host, written in (("::", "[::]"), ("[fe80::1]", "[fe80::1]"), (None, "*"), (7, "*")):
        assert sglang_sources(kv_events=events | {"endpoint_host": host})[0].endpoint == f"tcp://{written}:5557"
    for change in ({"publisher": "null"}, {"endpoint_port_base": 0}, {"endpoint_port_base": "5557"}):
        assert sglang_sources(kv_events=events | change) == ()
    assert sglang_sources(kv_events=None) == sglang_sources() == SGLANG.read_event_sources({}) == ()


def test_sglang_event_ports_end_where_ports_do() -> None:
    events = {"endpoint_port_base": 65534, "dp_size": 5, "replay_endpoint_port_base": 65535}
    assert sglang_sources(kv_events=events) == (
        EventSource(0, "tcp://*:65534", "tcp://*:65535"),
        EventSource(1, "tcp://*:65535", None),
    )
    assert len(sglang_sources(kv_events={"endpoint_port_base": 5557, "dp_size": 10**9})) == 1024
    assert len(sglang_sources(kv_events={"endpoint_port_base": 5557, "dp_size": 0})) == 1


def test_sglang_repeats_its_flag_where_it_has_no_block_of_events() -> None:
    server = json.loads(page("sglang-0.5.16", "server_info.completed.json"))
    del server["kv_events"]  # which no one recorded of 0.5.16: the flag is what it is known to say
    assert sglang_sources(**server) == (EventSource(0, "tcp://*:5657", None, "kv"),)
    config = {"publisher": "zmq", "endpoint": "tcp://[::]:6000", "replay_endpoint": "tcp://*:7000"}
    assert sglang_sources(kv_events_config=json.dumps(config), dp_size=2) == (
        EventSource(0, "tcp://[::]:6000", "tcp://[::]:7000"),
        EventSource(1, "tcp://[::]:6001", "tcp://[::]:7001"),
    )
    assert sglang_sources(kv_events_config='{"publisher": "zmq"}') == (EventSource(0, "tcp://*:5557"),)
    ipc = '{"publisher": "zmq", "endpoint": "ipc://x"}'
    flags: list[Any] = ["{}", "", "zmq", '{"publisher": "null"}', ipc, None, {}]
    assert [sglang_sources(kv_events_config=flag) for flag in flags] == [()] * len(flags)


def test_request_ids_and_aborts() -> None:
    assert VLLM.request_id_header("r1") == ("X-Request-Id", "r1")
    assert VLLM.request_id_field("r1") is None
    assert VLLM.abort_call("r1") is None
    assert SGLANG.request_id_header("r1") is None
    assert SGLANG.request_id_field("r1") == ("rid", "r1")
    assert SGLANG.abort_call("r1") == EngineCall("POST", "/abort_request", b'{"rid": "r1"}')
    odd = SGLANG.abort_call('"\ud800\n')
    assert odd is not None
    assert json.loads(odd.body) == {"rid": '"\ud800\n'}


@pytest.mark.parametrize("name", ["vllm", "sglang"])
def test_registry_knows_each_dialect_by_its_name(name: str) -> None:
    found = dialect(name)
    assert found is DIALECTS[name]
    assert found.name == name
    assert all(path.startswith("/") for path in (found.health_path, found.models_path, *found.load_paths))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vlm", "unknown engine 'vlm': did you mean 'vllm'?"),
        ("SGLang", "unknown engine 'SGLang': did you mean 'sglang'?"),
        ("tensorrt", "unknown engine 'tensorrt': known: sglang, vllm"),
    ],
)
def test_registry_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(ValueError, match="unknown engine") as caught:
        dialect(name)
    assert str(caught.value) == message


def test_a_health_check_must_not_generate_tokens() -> None:
    assert SGLANG.health_path not in {"/health", "/health_generate"}
    assert VLLM.health_path == "/health"
