"""The dialect of SGLang (read from 0.5.16 to 0.5.23, with the paths of older ones as fall-backs); pure."""

import dataclasses
import json
import re
from collections.abc import Iterable
from hashlib import sha256

from engines.advice import advise_on_prefill
from engines.bodies import (
    Json,
    read_count,
    read_digits,
    read_flag,
    read_fraction,
    read_json,
    read_model_cards,
    read_number,
    read_object,
    read_objects,
    read_page,
    read_text,
)
from engines.cache_events import BlockKey, EventBatch, EventSource
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

_LOADS = "/v1/loads"
_OLD_LOAD = "/get_load"  # gone in 0.5.23
_METRICS = "/metrics"  # only with --enable-metrics
_SERVER_INFO = "/server_info"
_OLD_SERVER_INFO = "/get_server_info"
_MOST_RANKS = 1024
_ENDPOINT = re.compile(r"tcp://(.+):([0-9]{1,5})")

_PROMPT = "sglang:prompt_tokens_total"
_CACHED = "sglang:cached_tokens_total"
_RUNNING = "sglang:num_running_reqs"
_WAITING = "sglang:num_queue_reqs"
_CAPACITY = "sglang:max_total_num_tokens"
_KV_USAGE = "sglang:token_usage"
_PAGE = "sglang:page_size"
_RETRACTED = "sglang:num_retracted_requests_total"
_REQUESTS = "sglang:http_requests_total"
_RESPONSES = "sglang:http_responses_total"
_CACHE_RESETS = frozenset(("/flush_cache", "/release_memory_occupation"))
_FINISHED = "sglang:num_requests_total"
_LOAD_NAMES = frozenset(
    (_PROMPT, _CACHED, _FINISHED, _RUNNING, _WAITING, _CAPACITY, _KV_USAGE, _PAGE, _REQUESTS, _RESPONSES, _RETRACTED)
)


class SglangDialect:
    """SGLang's HTTP server."""

    name = "sglang"
    # /health generates a token by default and takes a second; 0.5.16 has no /ready, older ones no /model_info, and
    # /get_model_info is deprecated. /v1/models is in every version and answered from memory. It does not ask the
    # scheduler, but one that dies takes the server with it, and one that stalls shows in the load.
    health_path = "/v1/models"
    models_path = "/v1/models"
    tokenise_takes: TokeniseFields = "chat"
    tells_continuation = False
    load_paths: tuple[str, ...] = (_LOADS, _OLD_LOAD, _METRICS)
    description_paths: tuple[str, ...] = (_SERVER_INFO, _OLD_SERVER_INFO)

    def read_models(self, body: bytes) -> tuple[ModelCard, ...]:
        """The models and LoRA adapters of `/v1/models`."""
        return read_model_cards(body)

    def read_load(self, pages: Pages) -> LoadReport:
        """The load, each field from the first page that says it: `/v1/loads`, `/get_load`, `/metrics`.

        Counts are summed over data-parallel ranks; `kv_usage` is that of the fullest rank: it is the first to queue
        or retract. Only `/metrics` has the token counters. No page has the start time (the metrics are those of
        several processes): a restart shows as counters that went back.
        """
        loads = read_page(pages, _LOADS)
        return _first_known(
            _read_ranks(read_objects(loads.get("loads"))),
            _read_ranks(read_objects(read_json(pages.get(_OLD_LOAD, b"")))),
            _read_metrics(read_samples(pages.get(_METRICS, b""), _LOAD_NAMES)),
        )

    def describe(self, pages: Pages) -> EngineDescription:
        """The set-up from `/server_info`, or from `/get_server_info` where that is all there is."""
        server = _read_server(pages)
        radix_cache_off = read_flag(server.get("disable_radix_cache"))
        return EngineDescription(
            version=read_text(server.get("version")),
            prefill=_read_prefill(server),
            prefix_caching=None if radix_cache_off is None else not radix_cache_off,
            reports_cached_tokens=read_flag(server.get("enable_cache_report")),
            block_tokens=read_count(server.get("page_size")) or None,
            kv_capacity_tokens=_read_capacity(server),
            exposes_metrics=read_flag(server.get("enable_metrics")),
            publishes_events=bool(self.read_event_sources(pages)) if server else None,
            max_running_requests=_read_max_running(server),
        )

    def read_event_sources(self, pages: Pages) -> tuple[EventSource, ...]:
        """One source a data-parallel rank, on consecutive ports, from the server's `kv_events`.

        Where there is no such block, the launch flag that the server repeats says the same.
        """
        server = _read_server(pages)
        events = read_object(server.get("kv_events")) or _read_events_flag(server)
        if events.get("publisher") not in (None, "zmq"):
            return ()
        host, topic = read_text(events.get("endpoint_host")) or "*", read_text(events.get("topic")) or ""
        first, first_replay = (read_count(events.get(f"{kind}_port_base")) for kind in ("endpoint", "replay_endpoint"))
        ranks = min(read_count(events.get("dp_size")) or 1, _MOST_RANKS)
        endpoints = ((rank, _write_endpoint(host, first, rank)) for rank in range(ranks))
        return tuple(
            EventSource(rank, endpoint, _write_endpoint(host, first_replay, rank), topic)
            for rank, endpoint in endpoints
            if endpoint is not None
        )

    def read_events(self, payload: bytes) -> EventBatch | None:
        """One message of events; prompts whose first block is not hashed from its tokens alone have a hidden salt."""
        return read_event_batch(payload, _is_plain_root)

    def read_error(self, status: int, body: bytes) -> EngineError:
        """An error response or error frame in neutral words; an overload of a stream is a frame with code 503."""
        return read_engine_error(status, body)

    def request_id_header(self, request_id: str) -> tuple[str, str] | None:  # noqa: ARG002 - the interface
        """None: SGLang ignores `X-Request-Id`."""
        return None

    def request_id_field(self, request_id: str) -> tuple[str, str] | None:
        """`rid`, which is also the response's id. A duplicate of a live one is refused with 400."""
        return ("rid", request_id)

    def continue_chat(self, content: str, reasoning: str) -> Continued | None:
        """A final message that is gone on with: its content alone follows the generation prompt, as it is."""
        if reasoning:
            return None
        return {"role": "assistant", "content": content}, {"continue_final_message": True}

    def salt_field(self, path: str, salt: str) -> tuple[str, str] | None:
        """`cache_salt`; what `/v1/messages` is sent beside Anthropic's own fields is not read."""
        return None if path == "/v1/messages" else ("cache_salt", salt)

    def abort_call(self, request_id: str) -> EngineCall | None:
        """`POST /abort_request`: a closed connection is noticed only after 2 to 4 s.

        SGLang aborts every request whose `rid` *starts with* this one, so ids must not be prefixes of each other.
        """
        return EngineCall("POST", "/abort_request", json.dumps({"rid": request_id}).encode())

    def launch_flags(self, settings: PrefillSettings) -> tuple[str, ...]:
        """Flags for the chunk, the prefill batch and mixed chunks; SGLang has no long-prefill threshold."""
        return flag_words(
            {
                "--chunked-prefill-size": settings.chunk_tokens,
                "--max-prefill-tokens": settings.max_prefill_tokens,
                "--enable-mixed-chunk": settings.mixed_chunk,
            }
        )

    def measuring_flags(self, event_ports: EventPorts | None = EVENT_PORTS, topic: str = "") -> tuple[str, ...]:
        """Cached tokens in usage, `/metrics` and KV events: all are off by default."""
        return flag_words(
            {
                "--enable-cache-report": True,
                "--enable-metrics": True,
                "--kv-events-config": events_config(event_ports, topic),
            }
        )

    def launch_command(self, spec: LaunchSpec) -> LaunchCommand:
        """`python3 -m sglang.launch_server --model-path MODEL …`; `/health` is made cheap, by default it generates."""
        flags = {
            "--served-model-name": spec.served_name,
            "--host": spec.host,
            "--port": spec.port,
            "--tp-size": spec.tensor_parallel,
            "--disable-custom-all-reduce": spec.confidential,
        }
        words = (
            *flag_words(flags),
            *self.launch_flags(spec.prefill),
            *self.measuring_flags(spec.event_ports, spec.event_topic),
        )
        program, model = ("python3", "-m", "sglang.launch_server"), ("--model-path", spec.model)
        return written(spec, program, model, words, {"SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION": "0"})

    def warnings(self, description: EngineDescription, wished: PrefillSettings) -> tuple[str, ...]:
        """One sentence for each flag that is missing or differs from the wish."""
        sentences = []
        if description.exposes_metrics is False:
            sentences.append("there is no /metrics, so no token counters: restart with --enable-metrics")
        if description.reports_cached_tokens is False:
            sentences.append(
                "usage carries no cached tokens, so hit rates cannot be confirmed: restart with --enable-cache-report"
            )
        if description.prefix_caching is False:
            sentences.append(
                "prefix caching is off, so no prompt is ever reused: restart without --disable-radix-cache"
            )
        return (*sentences, *advise_on_prefill(self.name, description.prefill, wished, self.launch_flags))

    def answer_warnings(self, answer: bytes) -> tuple[str, ...]:  # noqa: ARG002 - the interface
        """None: `/server_info` tells all."""
        return ()


def _read_server(pages: Pages) -> Json:
    return read_page(pages, _SERVER_INFO) or read_page(pages, _OLD_SERVER_INFO)


def _read_events_flag(server: Json) -> Json:
    """`--kv-events-config` in the words of the `kv_events` block."""
    config = read_object(read_json((read_text(server.get("kv_events_config")) or "").encode(errors="replace")))
    endpoint = _ENDPOINT.fullmatch(read_text(config.get("endpoint")) or "tcp://*:5557")
    if config.get("publisher") != "zmq" or endpoint is None:
        return {}
    replay_endpoint = _ENDPOINT.fullmatch(read_text(config.get("replay_endpoint")) or "")
    return {
        "endpoint_host": endpoint[1],
        "endpoint_port_base": read_digits(endpoint[2]),
        "replay_endpoint_port_base": replay_endpoint and read_digits(replay_endpoint[2]),
        "topic": config.get("topic"),
        "dp_size": server.get("dp_size"),
    }


def _write_endpoint(host: str, first_port: int | None, rank: int) -> str | None:
    if not first_port or first_port + rank > 65535:
        return None
    return f"tcp://{f'[{host}]' if ':' in host and host[0] != '[' else host}:{first_port + rank}"


def _is_plain_root(block: BlockKey, content: bytes) -> bool:
    """The hash is the start of a SHA-256 over parent and tokens, without a seed. A salt takes the parent's place."""
    return isinstance(block, int) and block % 2**64 == int.from_bytes(sha256(content).digest()[:8], "big")


def _first_known(*reports: LoadReport) -> LoadReport:
    """Field by field, the first report that knows it."""
    rows = [dataclasses.astuple(report) for report in reports]
    return LoadReport(
        *(next((value for value in column if value is not None), None) for column in zip(*rows, strict=True))
    )


def _read_ranks(ranks: list[Json]) -> LoadReport:
    """The entries of `/v1/loads` and of the older `/get_load`, one a data-parallel rank."""
    usages = [usage for rank in ranks if (usage := read_fraction(rank.get("token_usage"))) is not None]
    return LoadReport(
        running_requests=_sum(_read_running(rank) for rank in ranks),
        waiting_requests=_sum(read_count(rank.get("num_waiting_reqs")) for rank in ranks),
        waiting_uncached_tokens=_sum(read_count(rank.get("num_waiting_uncached_tokens")) for rank in ranks),
        kv_usage=max(usages, default=None),
        kv_capacity_tokens=_sum(read_count(rank.get("max_total_num_tokens")) for rank in ranks),
    )


def _read_running(rank: Json) -> int | None:
    running = read_count(rank.get("num_running_reqs"))
    every, waiting = read_count(rank.get("num_reqs")), read_count(rank.get("num_waiting_reqs"))
    if running is None and every is not None:
        return max(every - (waiting or 0), 0)  # the older `num_reqs` counts the waiting ones too
    return running


def _read_metrics(samples: list[Sample]) -> LoadReport:
    prompt_tokens = read_count(total(samples, _PROMPT))
    cached_tokens = read_count(total(samples, _CACHED))
    if prompt_tokens is not None and cached_tokens is None:
        cached_tokens = 0  # the counter appears with the first hit
    return LoadReport(
        running_requests=_sum_of_ranks(samples, _RUNNING),
        waiting_requests=_sum_of_ranks(samples, _WAITING),
        kv_usage=read_fraction(peak(samples, _KV_USAGE)),
        kv_capacity_tokens=_sum_of_ranks(samples, _CAPACITY),
        block_tokens=read_count(peak(samples, _PAGE)) or None,
        finished_requests_total=read_count(total(samples, _FINISHED)),
        prompt_tokens_total=prompt_tokens,
        # Each request is counted under the tiers that served it, or under `total` when those are not known,
        # never under both: so the sum over all sources is right.
        cached_tokens_total=cached_tokens,
        cache_resets_total=_read_cache_resets(samples),
        preemptions_total=read_count(total(samples, _RETRACTED)),
    )


def _read_cache_resets(samples: list[Sample]) -> int | None:
    """How often a call dropped the prefix cache. A call's counter appears with its first one: no counter, no call.

    Responses tell when it was refused (400 while a request runs); what counts only requests cannot.
    """
    if not samples:
        return None
    counter = _RESPONSES if any(sample.name == _RESPONSES for sample in samples) else _REQUESTS
    calls = (sample for sample in samples if sample.name == counter and sample.labels.get("endpoint") in _CACHE_RESETS)
    return read_count(
        sum(read_count(call.value) or 0 for call in calls if call.labels.get("status_code", "2").startswith("2"))
    )


def _sum(counts: Iterable[int | None]) -> int | None:
    """The sum of those that are known, or None when none is."""
    known = [count for count in counts if count is not None]
    return read_count(sum(known)) if known else None


def _sum_of_ranks(samples: list[Sample], name: str) -> int | None:
    """A gauge summed over data-parallel ranks; tensor-parallel ranks repeat the same figure."""
    ranks: dict[str, int] = {}
    for sample in samples:
        value = read_count(sample.value)
        if sample.name == name and value is not None:
            rank = sample.labels.get("dp_rank", "")
            ranks[rank] = max(value, ranks.get(rank, 0))
    return _sum(ranks.values())


def _read_capacity(server: Json) -> int | None:
    """KV tokens of all ranks, each of which has one entry in `internal_states`."""
    states = read_objects(server.get("internal_states"))
    return _sum(read_count(read_object(state.get("memory_usage")).get("token_capacity")) for state in states)


def _read_max_running(server: Json) -> int | None:
    """Of all ranks, each of which says its own."""
    states = read_objects(server.get("internal_states"))
    return _sum(read_count(state.get("effective_max_running_requests_per_dp")) for state in states) or None


def _read_prefill(server: Json) -> PrefillSettings:
    """The settings as the flags would spell them, so that they compare with a wish.

    Under data-parallel attention the engine divides the flag's chunk by the ranks and reports the quotient.
    With chunking off (-1) a prompt is prefilled whole: the chunk is then the bound of a prefill batch.
    """
    chunk_tokens: int | None = read_count(server.get("chunked_prefill_size"))
    max_prefill_tokens = read_count(server.get("max_prefill_tokens"))
    ranks = read_count(server.get("dp_size")) or 1
    if read_number(server.get("chunked_prefill_size")) == -1 and max_prefill_tokens is not None:
        chunk_tokens = max(max_prefill_tokens, read_count(server.get("context_length")) or 0)
    elif chunk_tokens is not None and read_flag(server.get("enable_dp_attention")):
        chunk_tokens = read_count(chunk_tokens * ranks)
    return PrefillSettings(
        chunk_tokens=chunk_tokens or None,
        max_prefill_tokens=max_prefill_tokens,
        mixed_chunk=read_flag(server.get("enable_mixed_chunk")),
    )
