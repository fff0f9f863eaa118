"""SGLang's `/metrics` page: the names of 0.5.23 that say something about load, cache and time; pure."""

from engines.simulated.metrics import MetricsPage
from engines.simulated.service import EngineService
from engines.simulated.settings import SimulatorSettings


def sglang_metrics(settings: SimulatorSettings, service: EngineService) -> bytes:
    """The page as of now: the scheduler's series and the tokenizer's, which have fewer labels."""
    ranks = {"moe_ep_rank": "0", "pp_rank": "0", "tp_rank": "0"}
    labels = {"engine_type": "unified", "model_name": settings.model}
    scheduler = MetricsPage({**labels, **ranks})
    _write_scheduler(scheduler, settings, service)
    tokenizer = MetricsPage(labels)
    _write_tokenizer(tokenizer, service)
    return scheduler.encode() + tokenizer.encode()


def _write_scheduler(page: MetricsPage, settings: SimulatorSettings, service: EngineService) -> None:
    model = service.model
    pool, counters, block = model.pool, model.counters, settings.block_tokens
    usage = pool.used_blocks / pool.capacity_blocks
    for name, value in (
        ("num_running_reqs", len(model.running)),
        ("num_queue_reqs", len(model.waiting)),
        ("num_used_tokens", model.used_tokens),
        ("token_usage", usage),
        ("full_token_usage", usage),
        ("swa_token_usage", 0.0),
        ("kv_available_tokens", pool.free_blocks * block),
        ("kv_evictable_tokens", pool.idle_blocks * block),
        ("kv_used_tokens", model.used_tokens),
        ("cache_hit_rate", counters.last_hit_rate),
        ("max_total_num_tokens", settings.capacity_tokens),
        ("page_size", block),
        ("num_pages", pool.capacity_blocks),
        ("context_len", settings.max_model_tokens),
    ):
        page.gauge(f"sglang:{name}", value, f"The {name.replace('_', ' ')}.")
    for mode, count in (
        ("prefill_compute", counters.prefilled_tokens),
        ("prefill_cache", counters.hit_tokens),
        ("decode", counters.generated_tokens),
    ):
        page.counter("sglang:realtime_tokens_total", count, "Tokens processed in real time.", mode=mode)
    page.histogram("sglang:queue_time_seconds", service.queue_s, "Histogram of queueing time in seconds.")


def _write_tokenizer(page: MetricsPage, service: EngineService) -> None:
    counters = service.model.counters
    page.counter("sglang:prompt_tokens_total", counters.prompt_tokens, "Number of prefill tokens processed.")
    page.counter("sglang:generation_tokens_total", counters.generated_tokens, "Number of generation tokens processed.")
    if counters.cached_tokens:  # the series appears with the first hit
        meaning = "Number of cached prompt tokens."
        page.counter("sglang:cached_tokens_total", counters.cached_tokens, meaning, cache_source="device")
    finished = sum(counters.finished_requests.values())
    page.counter("sglang:num_requests_total", finished, "Number of requests processed.")
    aborted = counters.finished_requests["abort"]
    page.counter("sglang:num_aborted_requests_total", aborted, "Number of requests aborted.")
    page.histogram("sglang:time_to_first_token_seconds", service.ttft_s, "Histogram of time to first token.")
    page.histogram("sglang:inter_token_latency_seconds", service.itl_s, "Histogram of inter-token latency.")
    page.histogram("sglang:e2e_request_latency_seconds", service.e2e_s, "Histogram of request latency.")
    page.gauge("simulated_clock_lag_seconds", service.lag_s, "How far the host is behind the simulated engine.")
