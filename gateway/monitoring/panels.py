"""Panels of the Grafana dashboards: what is drawn, from which queries, in which unit; pure data."""

from dataclasses import dataclass, field
from typing import Final

from gateway.monitoring.catalogue import unknown_names

_SELECTED: Final = 'pool=~"$pool",replica=~"$replica",model=~"$model"'


@dataclass(frozen=True, slots=True)
class Query:
    """A PromQL expression and the name of its lines (Grafana's `{{label}}` form)."""

    expression: str
    legend: str

    def __post_init__(self) -> None:
        unknown = unknown_names(self.expression)
        if unknown:
            raise ValueError(f"a panel asks for metrics that do not exist: {', '.join(unknown)}")


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel. `unit` is Grafana's word; `kind` its panel type; `line` a fixed reference value; `width` of 24."""

    title: str
    unit: str
    queries: tuple[Query, ...]
    about: str = ""
    kind: str = "timeseries"
    width: int = 12
    stacked: bool = False
    line: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...] = field(default_factory=tuple)


def _rate(name: str, by: str = "", more: str = "") -> str:
    """The growth per second of a counter of the chosen replicas, summed."""
    grouped = f" by ({by})" if by else ""
    return f"sum{grouped}(rate({name}{{{_SELECTED}{more}}}[$__rate_interval]))"


def _cached(kind: str, by: str = "") -> str:
    """The share of prompt tokens that was cached, of those whose engine says so."""
    reported = (
        f"({_rate('prefixgate_prompt_tokens_total', by)} - {_rate('prefixgate_unreported_prompt_tokens_total', by)})"
    )
    more = f',kind="{kind}"'
    return f"{_rate('prefixgate_cached_tokens_total', by, more)} / {reported}"


def _quantile(name: str, share: float, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({share}, {_rate(name + '_bucket', grouped)})"


def _quantiles(name: str) -> tuple[Query, ...]:
    return tuple(Query(_quantile(name, share), f"p{share * 100:g}") for share in (0.5, 0.9, 0.99))


def _gauge(name: str, legend: str = "{{replica}}") -> tuple[Query, ...]:
    return (Query(f"{name}{{{_SELECTED}}}", legend),)


def rows() -> tuple[Row, ...]:
    """The dashboard from top to bottom."""
    made = (_cache, _speed, _traffic, _replicas, _predictions, _queue, _tenants, _comparisons, _gateway)
    return tuple(row() for row in made)


def _cache() -> Row:
    kinds = tuple(Query(_cached(kind), kind) for kind in ("available", "routed", "delivered"))
    lost = tuple(
        Query(_rate("prefixgate_lost_cached_tokens_total", "", f',reason="{reason}"'), reason)
        for reason in ("routing", "index")
    )
    skipped = _rate("prefixgate_cached_tokens_total", "pool", ',kind="delivered"')
    return Row(
        "Prefix cache",
        (
            Panel(
                "Hit rate: available → routed → delivered",
                "percentunit",
                kinds,
                "Available: cached at the best replica. Routed: predicted at the chosen one. Delivered: the engine's "
                "word. The line is the 55 % of the published measurement.",
                line=0.55,
            ),
            Panel("Delivered hit rate by pool", "percentunit", (Query(_cached("delivered", "pool"), "{{pool}}"),)),
            Panel("Prefill skipped", "short", (Query(skipped, "{{pool}}"),), "Prompt tokens per second.", stacked=True),
            Panel("Cached tokens lost", "short", lost, "Routing: given up for a shorter wait. Index: not delivered."),
        ),
    )


def _speed() -> Row:
    by_pool = (Query(_quantile("prefixgate_ttft_seconds", 0.5, "pool"), "{{pool}}"),)
    return Row(
        "Speed",
        (
            Panel("Time to first token", "s", _quantiles("prefixgate_ttft_seconds")),
            Panel("Median time to first token by pool", "s", by_pool),
            Panel("Time between tokens", "s", _quantiles("prefixgate_itl_seconds")),
            Panel("Whole requests", "s", _quantiles("prefixgate_request_seconds")),
        ),
    )


def _traffic() -> Row:
    outcomes = Query(_rate("prefixgate_requests_total", "outcome"), "{{outcome}}")
    retries = Query(_rate("prefixgate_retries_total", "reason"), "{{reason}}")
    broken = Query(_rate("prefixgate_continuations_total", "outcome"), "{{outcome}}")
    tokens = (
        Query(_rate("prefixgate_prompt_tokens_total"), "prompt"),
        Query(_rate("prefixgate_completion_tokens_total"), "generated"),
    )
    return Row(
        "Traffic",
        (
            Panel("Requests by outcome", "reqps", (outcomes,), stacked=True),
            Panel("Tokens per second", "short", tokens),
            Panel("Attempts tried again, by reason", "reqps", (retries,)),
            Panel("Streams that broke, by what came of them", "reqps", (broken,)),
        ),
    )


def _replicas() -> Row:
    return Row(
        "Replicas",
        (
            Panel("Up", "short", _gauge("prefixgate_replica_up"), kind="state-timeline"),
            Panel("Circuit breaker (0 closed, 2 open)", "short", _gauge("prefixgate_breaker_state")),
            Panel("Requests in flight", "short", _gauge("prefixgate_replica_inflight")),
            Panel("KV cache in use", "percentunit", _gauge("prefixgate_replica_kv_usage")),
            Panel("Waiting in the engine", "short", _gauge("prefixgate_replica_waiting_requests")),
            Panel(
                "Prefill chunk, desired and actual",
                "short",
                _gauge("prefixgate_prefill_chunk_tokens", "{{replica}} {{kind}}"),
            ),
        ),
    )


def _predictions() -> Row:
    tokens = Query(_quantile("prefixgate_prediction_error_tokens", 0.5), "median")
    return Row(
        "Predictions",
        (
            Panel("Delivered minus predicted cached tokens", "short", (tokens,)),
            Panel("Prefill predicted off by", "percentunit", _gauge("prefixgate_ttft_curve_mape")),
            Panel("Measured minus predicted first token", "s", _quantiles("prefixgate_predicted_ttft_error_seconds")),
            Panel("Blocks in the prefix index", "short", _gauge("prefixgate_index_blocks")),
        ),
    )


def _queue() -> Row:
    waits = (
        "histogram_quantile(0.99, sum by (le, priority) (rate(prefixgate_queue_wait_seconds_bucket[$__rate_interval])))"
    )
    shed = "sum by (reason, priority) (rate(prefixgate_shed_total[$__rate_interval]))"
    return Row(
        "Queue",
        (
            Panel("Waiting", "short", (Query("prefixgate_queue_depth", "{{priority}}"),), width=8),
            Panel("Waited, p99", "s", (Query(waits, "{{priority}}"),), width=8),
            Panel("Refused for overload", "reqps", (Query(shed, "{{priority}}: {{reason}}"),), width=8),
        ),
    )


def _tenants() -> Row:
    prompt = "sum by (tenant) (rate(prefixgate_tenant_prompt_tokens_total[$__rate_interval]))"
    cached = 'sum by (tenant) (rate(prefixgate_tenant_cached_tokens_total{kind="delivered"}[$__rate_interval]))'
    return Row(
        "Tenants",
        (
            Panel("Prompt tokens", "short", (Query(prompt, "{{tenant}}"),), stacked=True),
            Panel("Hit rate", "percentunit", (Query(f"{cached} / {prompt}", "{{tenant}}"),)),
        ),
    )


def _comparisons() -> Row:
    exposed = "sum by (experiment, arm) (rate(prefixgate_experiment_exposures_total[$__rate_interval]))"
    copies = "sum by (shadow, outcome) (rate(prefixgate_shadow_requests_total[$__rate_interval]))"
    ttft = (
        "histogram_quantile(0.5, sum by (le, shadow) (rate(prefixgate_shadow_ttft_seconds_bucket[$__rate_interval])))"
    )
    return Row(
        "Experiments and shadows",
        (
            Panel(
                "Requests by arm",
                "reqps",
                (Query(exposed, "{{experiment}}: {{arm}}"),),
                "What may be said of them: prefixgate experiment report.",
                width=8,
            ),
            Panel("Copies by outcome", "reqps", (Query(copies, "{{shadow}}: {{outcome}}"),), width=8),
            Panel("Median first token of copies", "s", (Query(ttft, "{{shadow}}"),), width=8),
        ),
    )


def _gateway() -> Row:
    return Row(
        "Gateway",
        (
            Panel("Our own work before an engine is asked", "s", _quantiles("prefixgate_overhead_seconds"), width=8),
            Panel("Processes", "short", (Query("prefixgate_workers", "{{state}}"),), width=8),
            Panel("Shared with other gateways", "short", (Query("prefixgate_sharing_peers", "peers"),), width=8),
        ),
    )
