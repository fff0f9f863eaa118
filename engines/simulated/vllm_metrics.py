"""vLLM's `/metrics` page: the names of 0.33 that say something about load, cache and time; pure."""

from engines.simulated.metrics import MetricsPage
from engines.simulated.service import EngineService
from engines.simulated.settings import SimulatorSettings


def vllm_metrics(settings: SimulatorSettings, service: EngineService) -> bytes:
    """The page as of now."""
    process = MetricsPage({})
    process.gauge("process_start_time_seconds", service.started_at, "Start time of the process since unix epoch.")
    process.gauge("simulated_clock_lag_seconds", service.lag_s, "How far the host is behind the simulated engine.")
    page = MetricsPage({"engine": "0", "model_name": settings.model})
    _write_load(page, service)
    _write_tokens(page, service)
    _write_requests(page, service)
    _write_cache_config(page, settings)
    admission = MetricsPage({"model_name": settings.model})  # counted before there is an engine to name
    refused = service.model.counters.refused_requests
    meaning = "Number of requests rejected at admission."
    admission.counter("vllm:admission_rejections_total", refused, meaning, reason="max_num_queued_reqs")
    return process.encode() + page.encode() + admission.encode()


def _write_load(page: MetricsPage, service: EngineService) -> None:
    model = service.model
    page.gauge("vllm:num_requests_running", len(model.running), "Number of requests in model execution batches.")
    page.gauge("vllm:num_requests_waiting", len(model.waiting), "Number of requests waiting to be processed.")
    for reason, waiting in (("capacity", len(model.waiting)), ("deferred", 0)):
        name = "vllm:num_requests_waiting_by_reason"
        page.gauge(name, waiting, "Number of waiting requests by reason.", reason=reason)
    usage = model.pool.used_blocks / model.pool.capacity_blocks
    page.gauge("vllm:kv_cache_usage_perc", usage, "KV-cache usage. 1 means 100 percent usage.")


def _write_tokens(page: MetricsPage, service: EngineService) -> None:
    counters = service.model.counters
    computed = counters.prompt_tokens - counters.cached_tokens
    page.counter("vllm:prefix_cache_queries_total", counters.queried_tokens, "Prefix cache queries, in tokens.")
    page.counter("vllm:prefix_cache_hits_total", counters.hit_tokens, "Prefix cache hits, in tokens.")
    page.counter("vllm:num_preemptions_total", 0, "Cumulative number of preemptions.")
    page.counter("vllm:prompt_tokens_total", counters.prompt_tokens, "Number of prefill tokens processed.")
    for source, count in (
        ("local_compute", computed),
        ("local_cache_hit", counters.cached_tokens),
        ("external_kv_transfer", 0),
    ):
        page.counter("vllm:prompt_tokens_by_source_total", count, "Prompt tokens by source.", source=source)
    page.counter("vllm:prompt_tokens_cached_total", counters.cached_tokens, "Number of cached prompt tokens.")
    page.counter("vllm:generation_tokens_total", counters.generated_tokens, "Number of generation tokens processed.")


def _write_requests(page: MetricsPage, service: EngineService) -> None:
    counters = service.model.counters
    for reason in ("stop", "length", "abort", "error", "repetition"):
        finished = counters.finished_requests[reason]
        meaning = "Count of successfully processed requests."
        page.counter("vllm:request_success_total", finished, meaning, finished_reason=reason)
    for name, histogram in (
        ("time_to_first_token_seconds", service.ttft_s),
        ("inter_token_latency_seconds", service.itl_s),
        ("request_queue_time_seconds", service.queue_s),
        ("request_prefill_time_seconds", service.prefill_s),
        ("e2e_request_latency_seconds", service.e2e_s),
    ):
        page.histogram(f"vllm:{name}", histogram, f"Histogram of {name.replace('_', ' ')}.")


def _write_cache_config(page: MetricsPage, settings: SimulatorSettings) -> None:
    page.gauge(
        "vllm:cache_config_info",
        1,
        "Information of the LLMEngine CacheConfig",
        block_size=str(settings.block_tokens),
        cache_dtype="fp8",
        enable_prefix_caching="True",
        gpu_memory_utilization="0.92",
        kv_cache_size_tokens=str(settings.capacity_tokens),
        num_gpu_blocks=str(settings.capacity_tokens // settings.block_tokens),
        prefix_caching_hash_algo="sha256",
    )
