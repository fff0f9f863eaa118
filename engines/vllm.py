"""The dialect of vLLM (read from 0.25 to 0.33, with the metric names of older ones as fall-backs); pure."""

from engines.advice import advise_on_prefill
from engines.bodies import (
    Json,
    read_count,
    read_digits,
    read_flag,
    read_fraction,
    read_json,
    read_model_cards,
    read_object,
    read_page,
    read_text,
)
from engines.cache_events import EventBatch, EventSource
from engines.dialect import Continued, Pages, TokeniseFields
from engines.error_bodies import read_engine_error
from engines.kv_events import read_event_batch
from engines.launch.command import LaunchCommand, flag_words, written
from engines.launch.events_config import events_config
from engines.launch.launcher import EVENT_PORTS, EventPorts, LaunchSpec
from engines.metrics_page import Sample, peak, read_samples, total
from engines.reports import (
    EngineCall,
    EngineDescription,
    EngineError,
    LoadReport,
    ModelCard,
    PrefillSettings,
)

_METRICS = "/metrics"
_VERSION = "/version"
_SERVER_INFO = "/server_info?config_format=json"  # only with VLLM_SERVER_DEV_MODE=1
_EVENT_SOURCES = "/kv_event_sources"  # not in 0.25
_MOST_RANKS = 1024

_NO_CACHED_TOKENS = (
    "usage carries no cached tokens, so hit rates cannot be confirmed: restart with --enable-prompt-tokens-details"
)
_NO_TIMES = "answers do not say how long prefill took without the queue: restart with --enable-per-request-metrics"

_RUNNING = "vllm:num_requests_running"
_WAITING = "vllm:num_requests_waiting"
_KV_USAGE = ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc")
_PREEMPTIONS = "vllm:num_preemptions_total"
_CACHE_CONFIG = "vllm:cache_config_info"
_STARTED = "process_start_time_seconds"
_FINISHED = "vllm:request_success_total"
_REQUESTS = "http_requests_total"
_CACHE_RESETS = frozenset(("/reset_prefix_cache", "/sleep", "/release_kv_cache_memory"))
# (all tokens, cached tokens): each pair is of one kind, so that its ratio is right; the first complete one
# counts. Prompt tokens come first because lookups leave out requests that skip the prefix cache.
_TOKEN_COUNTERS = (
    ("vllm:prompt_tokens_total", "vllm:prompt_tokens_cached_total"),
    ("vllm:prefix_cache_queries_total", "vllm:prefix_cache_hits_total"),
    ("vllm:gpu_prefix_cache_queries_total", "vllm:gpu_prefix_cache_hits_total"),
)
_LOAD_NAMES = frozenset(
    (
        _RUNNING, _WAITING, *_KV_USAGE, _CACHE_CONFIG, _STARTED, _FINISHED, _REQUESTS, _PREEMPTIONS,
        *(name for pair in _TOKEN_COUNTERS for name in pair),
    )
)  # fmt: skip
_DESCRIPTION_NAMES = frozenset((_RUNNING, _CACHE_CONFIG))


class VllmDialect:
    """vLLM's OpenAI server."""

    name = "vllm"
    health_path = "/health"  # 200 when the engine core lives, 503 when it is dead; generates nothing
    models_path = "/v1/models"
    tokenise_takes: TokeniseFields = "template"
    tells_continuation = True
    load_paths: tuple[str, ...] = (_METRICS,)
    description_paths: tuple[str, ...] = (_METRICS, _VERSION, _SERVER_INFO, _EVENT_SOURCES)

    def read_models(self, body: bytes) -> tuple[ModelCard, ...]:
        """The models and LoRA adapters of `/v1/models`."""
        return read_model_cards(body)

    def read_load(self, pages: Pages) -> LoadReport:
        """The load from `/metrics`; counts are summed over data-parallel ranks (label `engine`).

        `kv_usage` is that of the fullest rank: it is the first to queue or preempt.
        """
        samples = read_samples(pages.get(_METRICS, b""), _LOAD_NAMES)
        prompt_tokens, cached_tokens = _read_token_counters(samples)
        return LoadReport(
            running_requests=read_count(total(samples, _RUNNING)),
            waiting_requests=read_count(total(samples, _WAITING)),
            kv_usage=read_fraction(peak(samples, *_KV_USAGE)),
            kv_capacity_tokens=_read_capacity(samples),
            block_tokens=_read_block_tokens(samples),
            prompt_tokens_total=prompt_tokens,
            cached_tokens_total=cached_tokens,
            finished_requests_total=read_count(total(samples, _FINISHED)),
            cache_resets_total=_read_cache_resets(samples),
            preemptions_total=read_count(total(samples, _PREEMPTIONS)),
            started_at=peak(samples, _STARTED),
        )

    def describe(self, pages: Pages) -> EngineDescription:
        """The set-up: cache from `/metrics`, version from `/version`, chunk only from `/server_info` (dev mode).

        No page tells whether usage carries cached tokens, so `reports_cached_tokens` is None: the first usage of
        the replica tells.
        """
        page = pages.get(_METRICS)
        samples = read_samples(page or b"", _DESCRIPTION_NAMES)
        config = read_object(read_page(pages, _SERVER_INFO).get("vllm_config"))
        cache = read_object(config.get("cache_config"))
        prefix_caching = _read_prefix_caching(samples)
        return EngineDescription(
            version=read_text(read_page(pages, _VERSION).get("version")),
            prefill=_read_prefill(read_object(config.get("scheduler_config"))),
            prefix_caching=read_flag(cache.get("enable_prefix_caching")) if prefix_caching is None else prefix_caching,
            block_tokens=_read_block_tokens(samples) or read_count(cache.get("block_size")) or None,
            kv_capacity_tokens=_read_capacity(samples),
            exposes_metrics=None if page is None else bool(samples),
            publishes_events=bool(self.read_event_sources(pages)) if _EVENT_SOURCES in pages else None,
            events_tell_salts=_EVENT_SOURCES in pages,  # with the first block of a prompt
            max_running_requests=_read_max_running(config, len(_cache_configs(samples))),
        )

    def read_event_sources(self, pages: Pages) -> tuple[EventSource, ...]:
        """The ranks of `/kv_event_sources`; each has the ports that are its own."""
        sources = {}
        for name, value in read_page(pages, _EVENT_SOURCES).items():
            rank, said = read_digits(name), read_object(value)
            publishes = said.get("enable_kv_cache_events") is True and said.get("publisher") in (None, "zmq")
            endpoint = read_text(said.get("endpoint"))
            if publishes and endpoint is not None and rank is not None and rank < _MOST_RANKS:
                replay_endpoint, topic = read_text(said.get("replay_endpoint")), read_text(said.get("topic"))
                sources[rank] = EventSource(rank, endpoint, replay_endpoint, topic or "")
        return tuple(sources[rank] for rank in sorted(sources))

    def read_events(self, payload: bytes) -> EventBatch | None:
        """One message of events; those of sliding-window and other groups that do not decide on hits are left out."""
        return read_event_batch(payload)

    def read_error(self, status: int, body: bytes) -> EngineError:
        """An error response or error frame in neutral words."""
        return read_engine_error(status, body)

    def request_id_header(self, request_id: str) -> tuple[str, str] | None:
        """`X-Request-Id`; the response's id becomes `chatcmpl-` or `cmpl-` and this."""
        return ("X-Request-Id", request_id)

    def request_id_field(self, request_id: str) -> tuple[str, str] | None:  # noqa: ARG002 - the interface
        """None: the header does it."""
        return None

    def continue_chat(self, content: str, reasoning: str) -> Continued | None:
        """A final message that is gone on with, as far as the model's template lets it.

        `deepseek_v4` and `deepseek_v32` tokenizer modes take the flags and ignore them (vLLM issue 46256).
        """
        message = {"role": "assistant", "content": content, **({"reasoning": reasoning} if reasoning else {})}
        return message, {"continue_final_message": True, "add_generation_prompt": False}

    def salt_field(self, path: str, salt: str) -> tuple[str, str] | None:
        """`cache_salt`; what `/v1/messages` is sent beside Anthropic's own fields is not read."""
        return None if path == "/v1/messages" else ("cache_salt", salt)

    def abort_call(self, request_id: str) -> EngineCall | None:  # noqa: ARG002 - the interface
        """None: vLLM aborts at once when the connection closes."""
        return None

    def launch_flags(self, settings: PrefillSettings) -> tuple[str, ...]:
        """Flags for the chunk and the long-prefill threshold; the other settings do not exist in vLLM."""
        return flag_words(
            {
                "--max-num-batched-tokens": settings.chunk_tokens,
                "--long-prefill-token-threshold": settings.long_prefill_threshold,
            }
        )

    def measuring_flags(self, event_ports: EventPorts | None = EVENT_PORTS, topic: str = "") -> tuple[str, ...]:
        """Cached tokens in usage, queue and prefill times in the last frame, and KV events."""
        return flag_words(
            {
                "--enable-prompt-tokens-details": True,
                "--enable-per-request-metrics": True,
                "--kv-events-config": events_config(event_ports, topic, enable_kv_cache_events=True),
            }
        )

    def launch_command(self, spec: LaunchSpec) -> LaunchCommand:
        """`vllm serve MODEL …`. Dev mode stays off: its calls, which need no key, would let anyone stop the engine."""
        flags = {
            "--served-model-name": spec.served_name,
            "--host": spec.host,
            "--port": spec.port,
            "--tensor-parallel-size": spec.tensor_parallel,
            "--disable-custom-all-reduce": spec.confidential,
        }
        words = (
            *flag_words(flags),
            *self.launch_flags(spec.prefill),
            *self.measuring_flags(spec.event_ports, spec.event_topic),
        )
        return written(spec, ("vllm", "serve"), (spec.model,), words, {})

    def warnings(self, description: EngineDescription, wished: PrefillSettings) -> tuple[str, ...]:
        """One sentence for each flag that is missing or differs from the wish."""
        sentences = []
        if description.exposes_metrics is False:
            sentences.append("/metrics has no load of the engine: restart without --disable-log-stats")
        if description.reports_cached_tokens is False:
            sentences.append(_NO_CACHED_TOKENS)
        if description.prefix_caching is False:
            sentences.append("prefix caching is off, so no prompt is ever reused: restart with --enable-prefix-caching")
        return (*sentences, *advise_on_prefill(self.name, description.prefill, wished, self.launch_flags))

    def answer_warnings(self, answer: bytes) -> tuple[str, ...]:
        """No page tells of these two flags."""
        body = read_object(read_json(answer))
        usage = read_object(body.get("usage"))
        if not usage:
            return ()
        sentences = () if usage.get("prompt_tokens_details") is not None else (_NO_CACHED_TOKENS,)
        return sentences if body.get("metrics") is not None else (*sentences, _NO_TIMES)


def _read_token_counters(samples: list[Sample]) -> tuple[int | None, int | None]:
    for all_name, cached_name in _TOKEN_COUNTERS:
        all_tokens = read_count(total(samples, all_name))
        cached_tokens = read_count(total(samples, cached_name))
        if all_tokens is not None and cached_tokens is not None:
            return all_tokens, cached_tokens
    return read_count(total(samples, _TOKEN_COUNTERS[0][0])), None


def _read_cache_resets(samples: list[Sample]) -> int | None:
    """How often a call dropped the prefix cache. A call's counter appears with its first one: no counter, no call."""
    if not any(sample.name == _REQUESTS or sample.name.startswith("vllm:") for sample in samples):
        return None
    return read_count(sum(read_count(sample.value) or 0 for sample in samples if _is_cache_reset(sample)))


def _is_cache_reset(sample: Sample) -> bool:
    labels = sample.labels
    is_reset = labels.get("handler") in _CACHE_RESETS and labels.get("method") == "POST"
    return sample.name == _REQUESTS and is_reset and labels.get("status", "").startswith("2")


def _cache_configs(samples: list[Sample]) -> list[dict[str, str]]:
    """The labels of `cache_config_info`, one dict a rank."""
    return [sample.labels for sample in samples if sample.name == _CACHE_CONFIG]


def _read_capacity(samples: list[Sample]) -> int | None:
    """KV tokens of all ranks: `kv_cache_size_tokens`, which older versions do not say, else blocks × block size."""
    capacities = []
    for labels in _cache_configs(samples):
        tokens = read_digits(labels.get("kv_cache_size_tokens"))
        blocks, block_tokens = (read_digits(labels.get(name)) for name in ("num_gpu_blocks", "block_size"))
        if tokens is None and blocks is not None and block_tokens is not None:
            tokens = blocks * block_tokens
        if tokens is not None:
            capacities.append(tokens)
    return read_count(sum(capacities)) if capacities else None


def _read_max_running(config: Json, ranks: int) -> int | None:
    """`max_num_seqs` is each data-parallel rank's."""
    most = read_count(read_object(config.get("scheduler_config")).get("max_num_seqs"))
    return most * max(ranks, 1) if most else None


def _read_block_tokens(samples: list[Sample]) -> int | None:
    sizes = (read_digits(labels.get("block_size")) for labels in _cache_configs(samples))
    return next((size for size in sizes if size), None)


def _read_prefix_caching(samples: list[Sample]) -> bool | None:
    words = {"True": True, "False": False}
    said = (words.get(labels.get("enable_prefix_caching", "")) for labels in _cache_configs(samples))
    return next((word for word in said if word is not None), None)


def _read_prefill(scheduler: Json) -> PrefillSettings:
    # With chunked prefill off vLLM wants a budget of at least the longest prompt, so the budget still is the chunk.
    return PrefillSettings(
        chunk_tokens=read_count(scheduler.get("max_num_batched_tokens")),
        long_prefill_threshold=read_count(scheduler.get("long_prefill_token_threshold")),
    )
