"""What engines report, in neutral words shared by every dialect; pure data."""

from dataclasses import dataclass

import msgspec


class Usage(msgspec.Struct, frozen=True, gc=False):
    """Token counts of one finished request, as the engine reported them.

    `cached_tokens` is None when the engine said nothing about its cache; that is not the same as 0.
    """

    prompt_tokens: int
    completion_tokens: int = 0
    cached_tokens: int | None = None


class RequestTiming(msgspec.Struct, frozen=True, gc=False):
    """What the engine says of one request's way to its first token, in milliseconds.

    `prefill_ms` is from when it was scheduled to its first token, `queue_ms` its wait before that; None if not said.
    """

    prefill_ms: float
    queue_ms: float | None = None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One reading of a replica's load. Every field is None when the engine does not report it.

    `kv_usage` is 0..1; `*_total` are the engine's own counters since it started, of tokens, of requests that ended,
    of calls that told it to drop its prefix cache (`cache_resets_total`), and of requests whose KV it took away while
    they ran (`preemptions_total`);
    `started_at` is seconds since the Unix epoch.
    """

    running_requests: int | None = None
    waiting_requests: int | None = None
    waiting_uncached_tokens: int | None = None
    kv_usage: float | None = None
    kv_capacity_tokens: int | None = None
    block_tokens: int | None = None
    prompt_tokens_total: int | None = None
    cached_tokens_total: int | None = None
    finished_requests_total: int | None = None
    cache_resets_total: int | None = None
    preemptions_total: int | None = None
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One model (or adapter) that a replica serves; `context_tokens` is its maximum context.

    `parent` is the model that an adapter adapts, None for a model of its own.
    """

    id: str
    context_tokens: int | None = None
    parent: str | None = None


@dataclass(frozen=True, slots=True)
class PrefillSettings:
    """Chunked-prefill settings in neutral words; None means the engine's default, or not known."""

    chunk_tokens: int | None = None
    long_prefill_threshold: int | None = None
    max_prefill_tokens: int | None = None
    mixed_chunk: bool | None = None


@dataclass(frozen=True, slots=True)
class EngineDescription:
    """What a replica says of its own set-up; None where it does not say.

    `reports_cached_tokens`: whether usage carries cached tokens (vLLM `--enable-prompt-tokens-details`,
    SGLang `--enable-cache-report`). `exposes_metrics`: whether `/metrics` carries the engine's own figures
    (off with vLLM's `--disable-log-stats`, on with SGLang's `--enable-metrics`). `publishes_events`: whether it
    says where it publishes KV-cache events, `events_tell_salts` whether those say which salt blocks were stored under.
    `max_running_requests` is the most that it runs at a time, over all ranks.
    """

    version: str | None = None
    prefill: PrefillSettings = PrefillSettings()
    prefix_caching: bool | None = None
    reports_cached_tokens: bool | None = None
    block_tokens: int | None = None
    kv_capacity_tokens: int | None = None
    exposes_metrics: bool | None = None
    publishes_events: bool | None = None
    events_tell_salts: bool = False
    max_running_requests: int | None = None


@dataclass(frozen=True, slots=True)
class EngineError:
    """An engine's refusal or failure, read from its status and body.

    `overloaded`: the engine is busy, another replica may take the request; `retryable`: nothing of the
    request's own is at fault, so another replica may succeed.
    """

    status: int
    message: str
    type: str
    param: str | None = None
    code: str | int | None = None
    overloaded: bool = False
    retryable: bool = False


@dataclass(frozen=True, slots=True)
class EngineCall:
    """One HTTP call to make on an engine: method, path, and a JSON body or none."""

    method: str
    path: str
    body: bytes = b""
