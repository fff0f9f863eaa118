"""Load reports: every figure of the recorded pages, then ranks, older names and missing pages."""

import dataclasses
import json
from pathlib import Path

import pytest

from engines.dialect import Dialect
from engines.reports import LoadReport, ModelCard
from engines.sglang import SglangDialect
from engines.vllm import VllmDialect

FIXTURES = Path(__file__).parents[1] / "fixtures"
VLLM, SGLANG = VllmDialect(), SglangDialect()


def page(folder: str, name: str) -> bytes:
    return (FIXTURES / folder / name).read_bytes()


def test_vllm_0_25_page() -> None:
    assert VLLM.read_load({"/metrics": page("vllm-0.25.0", "metrics.txt")}) == LoadReport(
        running_requests=0,
        waiting_requests=0,
        kv_usage=0.0,
        kv_capacity_tokens=304672,
        block_tokens=16,
        prompt_tokens_total=409461,
        cached_tokens_total=100352,
        finished_requests_total=34,
        cache_resets_total=0,
        preemptions_total=0,
        started_at=1795484324.53,
    )


def test_vllm_0_32_page() -> None:
    assert VLLM.read_load({"/metrics": page("vllm-0.32.0", "metrics.txt")}) == LoadReport(
        running_requests=0,
        waiting_requests=0,
        kv_usage=0.0,
        kv_capacity_tokens=524288,
        block_tokens=128,
        prompt_tokens_total=14469,
        cached_tokens_total=5376,
        finished_requests_total=10,
        cache_resets_total=0,
        preemptions_total=0,
        started_at=1795480113.6,
    )


def test_sglang_pages() -> None:
    pages = {
        "/v1/loads": page("sglang-0.5.16", "v1_loads.json"),
        "/get_load": page("sglang-0.5.16", "get_load.json"),
        "/metrics": page("sglang-0.5.16", "metrics.txt"),
    }
    full = LoadReport(
        running_requests=0,
        waiting_requests=0,
        waiting_uncached_tokens=0,
        kv_usage=0.0,
        kv_capacity_tokens=309900,
        block_tokens=1,
        prompt_tokens_total=409395,
        cached_tokens_total=100751,
        finished_requests_total=35,
        cache_resets_total=0,
    )
    assert SGLANG.read_load(pages) == full
    del pages["/v1/loads"], pages["/get_load"]
    assert SGLANG.read_load(pages) == dataclasses.replace(full, waiting_uncached_tokens=None)


def test_sglang_without_metrics_has_no_token_counters() -> None:
    report = SGLANG.read_load({"/v1/loads": page("sglang-0.5.16", "v1_loads.json")})
    assert report.kv_capacity_tokens == 309900
    assert report.waiting_uncached_tokens == 0
    assert (report.prompt_tokens_total, report.cached_tokens_total, report.block_tokens) == (None, None, None)


def test_sglang_recorded_get_load_alone() -> None:
    report = SGLANG.read_load({"/get_load": page("sglang-0.5.16", "get_load.json")})
    assert report == LoadReport(running_requests=0, waiting_requests=0)


@pytest.mark.parametrize("dialect", [VLLM, SGLANG])
def test_no_page_no_knowledge(dialect: Dialect) -> None:
    assert dialect.read_load({}) == LoadReport()


def test_vllm_ranks_are_summed_and_the_fullest_counts() -> None:
    report = VLLM.read_load(
        {
            "/metrics": b"""
vllm:num_requests_running{engine="0"} 3
vllm:num_requests_running{engine="1"} 4
vllm:num_requests_waiting{engine="0"} 1
vllm:num_requests_waiting{engine="1"} 9
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 50
vllm:kv_cache_usage_perc{engine="0"} 0.25
vllm:kv_cache_usage_perc{engine="1"} 0.75
vllm:prompt_tokens_total{engine="0"} 100
vllm:prompt_tokens_total{engine="1"} 200
vllm:prompt_tokens_cached_total{engine="0"} 10
vllm:prompt_tokens_cached_total{engine="1"} 20
vllm:cache_config_info{engine="0",block_size="256",kv_cache_size_tokens="1000",num_gpu_blocks="9"} 1
vllm:cache_config_info{engine="1",block_size="256",kv_cache_size_tokens="None",num_gpu_blocks="2"} 1
"""
        }
    )
    assert report == LoadReport(
        running_requests=7,
        waiting_requests=10,
        kv_usage=0.75,
        kv_capacity_tokens=1000 + 512,
        block_tokens=256,
        prompt_tokens_total=300,
        cached_tokens_total=30,
        cache_resets_total=0,
    )


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (b"vllm:gpu_prefix_cache_queries_total 8\nvllm:gpu_prefix_cache_hits_total 4", (8, 4)),
        (b"vllm:prefix_cache_queries_total 7\nvllm:prefix_cache_hits_total 3", (7, 3)),
        # never the prompt tokens of one pair over the cached tokens of another
        (b"vllm:prompt_tokens_total 9\nvllm:prefix_cache_queries_total 7\nvllm:prefix_cache_hits_total 3", (7, 3)),
        (b"vllm:prompt_tokens_total 9", (9, None)),
        (b"vllm:prompt_tokens_total NaN\nvllm:prompt_tokens_cached_total -1", (None, None)),
    ],
)
def test_vllm_token_counters_stay_in_pairs(lines: bytes, expected: tuple[int | None, int | None]) -> None:
    report = VLLM.read_load({"/metrics": lines})
    assert (report.prompt_tokens_total, report.cached_tokens_total) == expected


def test_vllm_older_kv_usage_is_a_fall_back() -> None:
    assert VLLM.read_load({"/metrics": b"vllm:gpu_cache_usage_perc 0.5"}).kv_usage == 0.5
    both = b"vllm:gpu_cache_usage_perc 0.5\nvllm:kv_cache_usage_perc 0.25"
    assert VLLM.read_load({"/metrics": both}).kv_usage == 0.25


@pytest.mark.parametrize("tokens", ["None", "-5", "1e3", "9" * 5000, "٣"])
def test_vllm_unreadable_capacity_is_unknown(tokens: str) -> None:
    line = f'vllm:cache_config_info{{kv_cache_size_tokens="{tokens}",num_gpu_blocks="{tokens}",block_size="16"}} 1'
    assert VLLM.read_load({"/metrics": line.encode()}).kv_capacity_tokens is None


def test_sglang_ranks_are_summed_and_the_fullest_counts() -> None:
    ranks = [
        {"dp_rank": 0, "num_running_reqs": 4, "num_waiting_reqs": 1, "num_waiting_uncached_tokens": 23000,
         "max_total_num_tokens": 600000, "token_usage": 0.15},
        {"dp_rank": 1, "num_running_reqs": 5, "num_waiting_reqs": 0, "num_waiting_uncached_tokens": 0,
         "max_total_num_tokens": 500000, "token_usage": 0.35},
    ]  # fmt: skip
    report = SGLANG.read_load({"/v1/loads": json.dumps({"version": "0.5.23", "loads": ranks}).encode()})
    assert report == LoadReport(
        running_requests=9,
        waiting_requests=1,
        waiting_uncached_tokens=23000,
        kv_usage=0.35,
        kv_capacity_tokens=1_100_000,
    )


def test_sglang_older_get_load_counts_the_waiting_among_all() -> None:
    ranks = [{"num_reqs": 7, "num_waiting_reqs": 2}, {"num_reqs": 3}]
    report = SGLANG.read_load({"/get_load": json.dumps(ranks).encode()})
    assert (report.running_requests, report.waiting_requests) == (8, 2)


def test_sglang_metrics_repeat_a_gauge_on_each_tensor_parallel_rank() -> None:
    lines = "".join(
        f'sglang:num_running_reqs{{dp_rank="{dp}",tp_rank="{tp}"}} {running}\n'
        for dp, running in ((0, 3), (1, 4))
        for tp in range(2)
    )
    assert SGLANG.read_load({"/metrics": lines.encode()}).running_requests == 7


def test_sglang_cached_tokens_sum_over_their_sources() -> None:
    # A request is counted under its tiers, or under "total" when they are unknown: never under both.
    lines = b"""
sglang:prompt_tokens_total{is_streaming="true"} 600
sglang:prompt_tokens_total{is_streaming="false"} 400
sglang:cached_tokens_total{cache_source="device"} 100
sglang:cached_tokens_total{cache_source="host"} 20
sglang:cached_tokens_total{cache_source="total"} 3
"""
    report = SGLANG.read_load({"/metrics": lines})
    assert (report.prompt_tokens_total, report.cached_tokens_total) == (1000, 123)


def test_sglang_has_no_cached_counter_before_its_first_hit() -> None:
    report = SGLANG.read_load({"/metrics": b"sglang:prompt_tokens_total 5"})
    assert (report.prompt_tokens_total, report.cached_tokens_total) == (5, 0)


@pytest.mark.parametrize(
    ("lines", "resets"),
    [
        (b"", None),
        (b"process_start_time_seconds 5", None),
        (b"vllm:num_requests_running 0", 0),  # the counter appears with the first call
        (b'http_requests_total{handler="/v1/models",method="GET",status="2xx"} 7', 0),
        (b'http_requests_total{handler="/reset_prefix_cache",method="POST",status="2xx"} 2\n'
         b'http_requests_total{handler="/reset_prefix_cache",method="POST",status="4xx"} 10\n'
         b'http_requests_total{handler="/reset_prefix_cache",method="GET",status="2xx"} 20\n'
         b'http_requests_total{handler="/sleep",method="POST",status="2xx"} 3\n'
         b'http_requests_total{handler="/release_kv_cache_memory",method="POST",status="200"} 4\n'
         b'http_requests_created{handler="/sleep",method="POST",status="2xx"} 1.7e9\n'
         b'http_requests_total{handler="/wake_up",method="POST",status="2xx"} 30', 9),
        (b'http_requests_total{handler="/sleep",method="POST",status="2xx"} NaN', 0),
    ],
)  # fmt: skip
def test_vllm_cache_resets(lines: bytes, resets: int | None) -> None:
    assert VLLM.read_load({"/metrics": lines}).cache_resets_total == resets


REQUESTED, ANSWERED = b"sglang:http_requests_total", b"sglang:http_responses_total"


@pytest.mark.parametrize(
    ("lines", "resets"),
    [
        (b"", None),
        (b"sglang:num_running_reqs 0", 0),
        (REQUESTED + b'{endpoint="/v1/models",method="GET"} 2', 0),
        (REQUESTED + b'{endpoint="/flush_cache",method="GET"} 2\n'
         + REQUESTED + b'{endpoint="/flush_cache",method="POST"} 3\n'
         + REQUESTED + b'{endpoint="/release_memory_occupation",method="POST"} 4', 9),
        # what was refused dropped nothing
        (REQUESTED + b'{endpoint="/flush_cache",method="POST"} 9\n'
         + ANSWERED + b'{endpoint="/flush_cache",method="POST",status_code="200"} 2\n'
         + ANSWERED + b'{endpoint="/flush_cache",method="POST",status_code="400"} 7', 2),
    ],
)  # fmt: skip
def test_sglang_cache_resets(lines: bytes, resets: int | None) -> None:
    assert SGLANG.read_load({"/metrics": lines}).cache_resets_total == resets


@pytest.mark.parametrize(
    ("dialect", "folder", "context_tokens"),
    [(VLLM, "vllm-0.25.0", 32768), (VLLM, "vllm-0.32.0", 16384), (SGLANG, "sglang-0.5.16", 32768)],
)
def test_recorded_models(dialect: Dialect, folder: str, context_tokens: int) -> None:
    assert dialect.read_models(page(folder, "models.json")) == (ModelCard("tiny", context_tokens),)


def test_models_without_an_id_are_left_out() -> None:
    body = b'{"data": [{"id": "base", "max_model_len": null}, {"id": 4}, {"id": " "}, 7, {"id": "lora"}]}'
    assert VLLM.read_models(body) == (ModelCard("base"), ModelCard("lora"))
    assert SGLANG.read_models(b'{"detail": "Not Found"}') == ()


@pytest.mark.parametrize("dialect", [VLLM, SGLANG])
def test_an_adapter_names_its_model(dialect: Dialect) -> None:
    body = b'{"data": [{"id": "base", "parent": null}, {"id": "lora", "parent": "base"}, {"id": "odd", "parent": 5}]}'
    assert dialect.read_models(body) == (ModelCard("base"), ModelCard("lora", parent="base"), ModelCard("odd"))
