"""The gateway's Prometheus metrics, made from the router's snapshot when they are asked for; does I/O.

Nothing is counted here: the scoreboard counts once, and this is one of its views.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.routing.histogram import Histogram
from gateway.routing.snapshot import ReplicaView, SeriesView, Snapshot

LABELS = ("pool", "replica", "model")

HISTOGRAMS = {
    "ttft_seconds": "Time from accept to the first content byte (streams)",
    "itl_seconds": "Mean time between content frames of a request, weighted by their number",
    "request_seconds": "Time from accept to the end of the answer",
    "route_seconds": "Our own decision",
    "overhead_seconds": "All of our own work before the engine is sent a byte",
    "prediction_error_tokens": "Delivered minus predicted cached tokens",
    "predicted_ttft_error_seconds": "Measured minus predicted time to first token",
}


def registry(snapshot: Callable[[], Snapshot]) -> CollectorRegistry:
    """A registry with our collector and the process's own."""
    made = CollectorRegistry()
    made.register(SnapshotCollector(snapshot))
    ProcessCollector(registry=made)
    PlatformCollector(registry=made)
    GCCollector(registry=made)
    return made


class SnapshotCollector(Collector):
    """Turns a snapshot into metric families."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the families need a snapshot."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, from one snapshot."""
        snapshot = self._snapshot()
        yield from _counters(snapshot.series)
        yield from _histograms(snapshot.series)
        yield from _gauges(snapshot.replicas)


def _counters(series: tuple[SeriesView, ...]) -> Iterator[Metric]:
    prompt = CounterMetricFamily("prefixgate_prompt_tokens", "Prompt tokens, as engines counted them", labels=LABELS)
    unreported = CounterMetricFamily(
        "prefixgate_unreported_prompt_tokens", "Prompt tokens whose engine does not say what was cached", labels=LABELS
    )
    completion = CounterMetricFamily("prefixgate_completion_tokens", "Generated tokens", labels=LABELS)
    cached = CounterMetricFamily(
        "prefixgate_cached_tokens",
        "Cached prompt tokens: at the best replica, predicted at the chosen one, and as the engine reported",
        labels=(*LABELS, "kind"),
    )
    requests = CounterMetricFamily("prefixgate_requests", "Ended requests", labels=(*LABELS, "outcome"))
    retries = CounterMetricFamily("prefixgate_retries", "Attempts that failed before their first byte", labels=LABELS)
    for one in series:
        labels = (one.pool, one.replica, one.model)
        prompt.add_metric(labels, one.prompt_tokens)
        unreported.add_metric(labels, one.unreported_prompt_tokens)
        completion.add_metric(labels, one.completion_tokens)
        cached.add_metric((*labels, "available"), one.available_tokens)
        cached.add_metric((*labels, "routed"), one.routed_tokens)
        cached.add_metric((*labels, "delivered"), one.delivered_tokens)
        retries.add_metric(labels, one.retries)
        for outcome, count in one.outcomes.items():
            requests.add_metric((*labels, outcome), count)
    yield from (prompt, unreported, completion, cached, requests, retries)


def _histograms(series: tuple[SeriesView, ...]) -> Iterator[Metric]:
    for name, documentation in HISTOGRAMS.items():
        family = HistogramMetricFamily(f"prefixgate_{name}", documentation, labels=LABELS)
        for one in series:
            histogram = one.histograms[name]
            family.add_metric((one.pool, one.replica, one.model), _buckets(histogram), histogram.total)
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    cumulated = 0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        cumulated += count
        buckets.append((str(float(bound)), cumulated))
    buckets.append(("+Inf", cumulated + histogram.counts[-1]))
    return buckets


def _gauges(replicas: tuple[ReplicaView, ...]) -> Iterator[Metric]:
    readings: dict[str, tuple[str, Callable[[ReplicaView], float | None]]] = {
        "replica_up": ("1 when the replica answers", lambda r: float(r.state == "up")),
        "replica_inflight": ("Requests of ours at the replica", lambda r: r.inflight),
        "replica_waiting_tokens": (
            "Uncached tokens waiting in the engine, by its own word",
            lambda r: r.report.waiting_uncached_tokens,
        ),
        "replica_waiting_requests": ("Requests waiting in the engine", lambda r: r.report.waiting_requests),
        "replica_kv_usage": ("KV cache in use, 0 to 1", lambda r: r.report.kv_usage),
        "index_blocks": ("Blocks that the prefix index holds for the replica", lambda r: r.index_blocks),
        "index_bytes": ("Estimated memory of those blocks", lambda r: r.index_bytes),
    }
    for name, (documentation, read) in readings.items():
        family = GaugeMetricFamily(f"prefixgate_{name}", documentation, labels=LABELS)
        for replica in replicas:
            value = read(replica)
            if value is not None:
                family.add_metric(_labels(replica), value)
        yield family
    chunk = GaugeMetricFamily(
        "prefixgate_prefill_chunk_tokens", "Chunked-prefill size, as wished and as it runs", labels=(*LABELS, "kind")
    )
    for replica in replicas:
        for kind, settings in (("desired", replica.prefill_desired), ("actual", replica.prefill_actual)):
            if settings.chunk_tokens is not None:
                chunk.add_metric((*_labels(replica), kind), settings.chunk_tokens)
    yield chunk


def _labels(replica: ReplicaView) -> tuple[str, str, str]:
    return replica.pool, replica.name, replica.model
