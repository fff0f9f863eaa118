"""The gateway's Prometheus metrics, made from the router's snapshot when they are asked for; does I/O.

Nothing is counted here: the scoreboard counts once, and this is one of its views.
"""

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from gateway.routing.facts import Cause
from gateway.routing.health import BREAKER_STATES, BreakerState
from gateway.routing.queue_view import QueueView
from gateway.routing.snapshot import ReplicaView, SeriesView, Snapshot, WaterfallView
from gateway.serving.events.intake import FeedStatus
from gateway.serving.process_figures import as_metrics
from gateway.serving.report import Report
from gateway.serving.shadowing.metrics import shadow_metrics
from gateway.serving.shadowing.tally import ShadowFigures
from gateway.serving.sharing.status import SharingStatus
from gateway.serving.tenant_figures import TenantView, tenant_metrics

LABELS = ("pool", "replica", "model")

HISTOGRAMS = {
    "ttft_seconds": "Time from accept to the first content byte (streams)",
    "itl_seconds": "Mean time between content frames of a request, weighted by their number",
    "request_seconds": "Time from accept to the end of the answer",
    "route_seconds": "Our own decision",
    "overhead_seconds": "All of our own work before the engine is sent a byte",
    "held_seconds": "Time for which the router held a request until its replica was free",
    "prediction_error_tokens": "Delivered minus predicted cached tokens",
    "predicted_ttft_error_seconds": "Measured minus predicted time to first token",
}


def registry(report: Report) -> CollectorRegistry:
    """A registry with our collectors and the processes' own."""
    made = CollectorRegistry()
    made.register(SnapshotCollector(report.snapshot))
    made.register(SourcesCollector(report))
    made.register(ProcessesCollector(report))
    made.register(SharingCollector(report.sharing))
    made.register(TenantsCollector(report.tenants))
    made.register(ShadowsCollector(report.shadows))
    PlatformCollector(registry=made)
    return made


class SnapshotCollector(Collector):
    """Turns a snapshot into metric families."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def describe(self) -> Iterable[Metric]:
        """Nothing up front: the families need a snapshot."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families, from one snapshot."""
        snapshot = self._snapshot
        yield from _counters(snapshot.series)
        yield from _histograms(snapshot.series)
        yield from _gauges(snapshot.replicas)
        held = GaugeMetricFamily("prefixgate_held_requests", "Requests held until their replica is free")
        held.add_metric((), snapshot.held)
        yield held
        yield from _queue(snapshot.queue)
        yield from _exposures(snapshot.exposures)
        yield from _tenants(snapshot.tenants)


def _exposures(exposures: dict[str, dict[str, int]]) -> Iterator[Metric]:
    text = "Requests that were let into an experiment, by arm"
    family = CounterMetricFamily("prefixgate_experiment_exposures", text, labels=("experiment", "arm"))
    for experiment, arms in exposures.items():
        for arm, count in arms.items():
            family.add_metric((experiment, arm), count)
    yield family


class TenantsCollector(Collector):
    """What tenants have used of their limits."""

    def __init__(self, tenants: tuple[TenantView, ...]) -> None:
        self._tenants = tenants

    def describe(self) -> Iterable[Metric]:
        """Nothing up front."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        return tenant_metrics(self._tenants)


class ShadowsCollector(Collector):
    """What came of copies."""

    def __init__(self, shadows: tuple[ShadowFigures, ...]) -> None:
        self._shadows = shadows

    def describe(self) -> Iterable[Metric]:
        """Nothing up front."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        return shadow_metrics(self._shadows)


class SourcesCollector(Collector):
    """What knowledge of caches is made of, event feeds and token ids; and what is written down of requests."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def describe(self) -> Iterable[Metric]:
        """Nothing up front."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        yield from self._feeds()
        yield from self._tokens()
        yield from self._journal()
        yield from self._observations()

    def _feeds(self) -> Iterator[Metric]:
        readings: dict[str, tuple[str, Callable[[FeedStatus], int]]] = {
            "cache_event_batches": ("Messages of KV events taken", lambda s: s.batches),
            "cache_events": ("KV events taken", lambda s: s.events),
            "cache_event_bytes": ("Bytes of those messages", lambda s: s.bytes),
            "cache_event_gaps": ("Times that messages were missing", lambda s: s.gaps),
            "cache_event_replays": ("Times that missed messages were asked for and came", lambda s: s.replays_done),
            "cache_event_losses": ("Times that all knowledge of the rank's cache was dropped", lambda s: s.losses),
            "cache_event_damaged": ("Messages and events that could not be read", lambda s: s.damaged),
        }
        for name, (documentation, read) in readings.items():
            family = CounterMetricFamily(f"prefixgate_{name}", documentation, labels=("replica", "rank"))
            for status in self._report.feeds:
                family.add_metric((status.replica, str(status.rank)), read(status))
            yield family

    def _tokens(self) -> Iterator[Metric]:
        counts = self._report.tokens
        totals = {
            "tokenised_prompts": ("Prompts whose exact token ids were told", counts.prompts),
            "tokenise_seconds": ("Time that requests waited for token ids", counts.seconds),
            "tokenise_known_bytes": ("Bytes of prompts that were tokenised before", counts.known_bytes),
            "tokenise_new_bytes": ("Bytes of prompts that had to be tokenised", counts.new_bytes),
            "tokenise_engine_calls": ("Calls of engines' own /tokenize", counts.engine_calls),
            "tokenise_failed_checks": ("Shortcuts to token ids that were wrong when checked", counts.failed_checks),
        }
        for name, (documentation, value) in totals.items():
            family = CounterMetricFamily(f"prefixgate_{name}", documentation)
            family.add_metric((), value)
            yield family
        fallbacks = CounterMetricFamily(
            "prefixgate_tokenise_fallbacks", "Prompts hashed as text: their token ids are uncertain", labels=("reason",)
        )
        for reason, count in counts.fallbacks.items():
            fallbacks.add_metric((str(reason),), count)
        yield fallbacks
        memo = GaugeMetricFamily("prefixgate_token_memo_bytes", "Estimated memory of remembered token ids")
        memo.add_metric((), self._report.memo_bytes)
        yield memo

    def _journal(self) -> Iterator[Metric]:
        lines = CounterMetricFamily(
            "prefixgate_journal_lines", "Lines of the journal, by what became of them", labels=("result",)
        )
        for result, count in self._report.journal.items():
            lines.add_metric((result,), count)
        yield lines

    def _observations(self) -> Iterator[Metric]:
        text = "Requests observed for an experiment, by what became of the observation"
        rows = CounterMetricFamily("prefixgate_experiment_observations", text, labels=("result",))
        for result, count in self._report.observations.items():
            rows.add_metric((result,), count)
        yield rows


class ProcessesCollector(Collector):
    """The gateway's processes: how many there are, and what the system says of all of them together."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def describe(self) -> Iterable[Metric]:
        """Nothing up front."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families."""
        rows = self._report.workers
        workers = GaugeMetricFamily("prefixgate_workers", "Processes that serve, by how they stand", labels=("state",))
        for state in ("up", "starting", "silent"):
            workers.add_metric((state,), sum(row.state == state for row in rows))
        restarts = CounterMetricFamily("prefixgate_worker_restarts", "Processes that were started for one that ended")
        restarts.add_metric((), sum(row.restarts for row in rows))
        yield from (workers, restarts)
        yield from as_metrics(self._report.figures)


class SharingCollector(Collector):
    """How gateways share what they learn."""

    def __init__(self, status: SharingStatus) -> None:
        self._status = status

    def describe(self) -> Iterable[Metric]:
        """Nothing up front."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """All families; without samples where nothing is shared."""
        status = self._status
        up = GaugeMetricFamily("prefixgate_sharing_up", "1 while what is learned is shared with other gateways")
        peers = GaugeMetricFamily("prefixgate_sharing_peers", "Other gateways and workers that are heard")
        lag = GaugeMetricFamily("prefixgate_sharing_lag_seconds", "How old what was heard last was by then")
        records = CounterMetricFamily(
            "prefixgate_sharing_records", "Records of requests that went between gateways", labels=("direction",)
        )
        if status.backend != "none":
            up.add_metric((), status.connected)
            peers.add_metric((), status.peers)
            if status.lag_s is not None:
                lag.add_metric((), status.lag_s)
            for direction in ("sent", "received", "dropped"):
                records.add_metric((direction,), getattr(status, direction))
        yield from (up, peers, lag, records)


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
    lost = CounterMetricFamily(
        "prefixgate_lost_cached_tokens",
        "Cached tokens given up: routing (held elsewhere), index (predicted and not delivered)",
        labels=(*LABELS, "reason"),
    )
    gained = CounterMetricFamily(
        "prefixgate_unpredicted_cached_tokens", "Tokens delivered from cache beyond the prediction", labels=LABELS
    )
    requests = CounterMetricFamily("prefixgate_requests", "Ended requests", labels=(*LABELS, "outcome"))
    retries = CounterMetricFamily(
        "prefixgate_retries", "Attempts given up while their request went on elsewhere", labels=(*LABELS, "reason")
    )
    continuations = CounterMetricFamily(
        "prefixgate_continuations",
        "Streams that died in the middle: whether they went on elsewhere, or why not",
        labels=(*LABELS, "outcome"),
    )
    for one in series:
        labels = (one.pool, one.replica, one.model)
        prompt.add_metric(labels, one.prompt_tokens)
        unreported.add_metric(labels, one.unreported_prompt_tokens)
        completion.add_metric(labels, one.completion_tokens)
        cached.add_metric((*labels, "available"), one.available_tokens)
        cached.add_metric((*labels, "routed"), one.routed_tokens)
        cached.add_metric((*labels, "delivered"), one.delivered_tokens)
        lost.add_metric((*labels, "routing"), one.routing_loss_tokens)
        lost.add_metric((*labels, "index"), one.index_loss_tokens)
        gained.add_metric(labels, one.index_gain_tokens)
        for cause in Cause if one.replica else ():
            retries.add_metric((*labels, cause), one.given_up.get(cause, 0))
        for continuation, count in one.broken_streams.items():
            continuations.add_metric((*labels, continuation), count)
        for outcome, count in one.outcomes.items():
            requests.add_metric((*labels, outcome), count)
    yield from (prompt, unreported, completion, cached, lost, gained, requests, retries, continuations)


def _histograms(series: tuple[SeriesView, ...]) -> Iterator[Metric]:
    for name, documentation in HISTOGRAMS.items():
        family = HistogramMetricFamily(f"prefixgate_{name}", documentation, labels=LABELS)
        for one in series:
            histogram = one.histograms[name]
            family.add_metric((one.pool, one.replica, one.model), histogram.buckets(), histogram.total)
        yield family


def _queue(queue: QueueView) -> Iterator[Metric]:
    """Who waits, who waited, and who was refused for it."""
    by = ("priority",)
    depth = GaugeMetricFamily("prefixgate_queue_depth", "Requests that wait for their turn", labels=by)
    tokens = GaugeMetricFamily("prefixgate_queue_waiting_tokens", "Prompt tokens of those", labels=by)
    tenants = GaugeMetricFamily("prefixgate_queue_tenants", "Tenants of those", labels=by)
    waits = HistogramMetricFamily("prefixgate_queue_wait_seconds", "How long who was sent had waited", labels=by)
    shed = CounterMetricFamily(
        "prefixgate_shed", "Requests refused for overload, by reason", labels=("reason", "priority")
    )
    drain = GaugeMetricFamily(
        "prefixgate_queue_drain_tokens_per_second", "Tokens sent per second while somebody waits", labels=("model",)
    )
    for one in queue.priorities:
        depth.add_metric((one.priority,), one.depth)
        tokens.add_metric((one.priority,), one.waiting_tokens)
        tenants.add_metric((one.priority,), one.tenants)
        waits.add_metric((one.priority,), one.waits.buckets(), one.waits.total)
        for reason, count in one.shed.items():
            shed.add_metric((reason, one.priority), count)
    for model, per_s in queue.drain.items():
        drain.add_metric((model,), per_s)
    yield from (depth, tokens, tenants, waits, shed, drain)


def _tenants(tenants: tuple[WaterfallView, ...]) -> Iterator[Metric]:
    """The largest tenants one by one, all others under ""."""
    prompt = CounterMetricFamily(
        "prefixgate_tenant_prompt_tokens", "Prompt tokens whose cached part was reported", labels=("tenant",)
    )
    cached = CounterMetricFamily(
        "prefixgate_tenant_cached_tokens", "Cached tokens, as cached_tokens_total", labels=("tenant", "kind")
    )
    for one in tenants:
        prompt.add_metric((one.name,), one.prompt_tokens)
        cached.add_metric((one.name, "available"), one.available_tokens)
        cached.add_metric((one.name, "routed"), one.routed_tokens)
        cached.add_metric((one.name, "delivered"), one.delivered_tokens)
    yield from (prompt, cached)


def _troubles(replicas: tuple[ReplicaView, ...]) -> Iterator[Metric]:
    """How often replicas were found broken, and how often busy."""
    opened = CounterMetricFamily(
        "prefixgate_breaker_opened", "Times that a replica's circuit breaker opened", labels=LABELS
    )
    overloaded = CounterMetricFamily(
        "prefixgate_replica_overloaded", "Requests that a replica refused as it was overloaded", labels=LABELS
    )
    for replica in replicas:
        opened.add_metric(_labels(replica), replica.breaker_opened)
        overloaded.add_metric(_labels(replica), replica.overloaded)
    yield opened
    yield overloaded


def _gauges(replicas: tuple[ReplicaView, ...]) -> Iterator[Metric]:
    readings: dict[str, tuple[str, Callable[[ReplicaView], float | None]]] = {
        "replica_up": ("1 when the replica answers", lambda r: float(r.state in ("up", "draining"))),
        "replica_draining": ("1 while the replica takes no new requests", lambda r: float(r.draining)),
        "breaker_state": (
            "Circuit breaker: 0 closed, 1 half-open, 2 open",
            lambda r: float(BREAKER_STATES.index(BreakerState(r.breaker))),
        ),
        "replica_inflight": ("Requests of ours at the replica", lambda r: r.inflight),
        "replica_waiting_tokens": (
            "Uncached tokens waiting in the engine, by its own word",
            lambda r: r.report.waiting_uncached_tokens,
        ),
        "replica_waiting_requests": ("Requests waiting in the engine", lambda r: r.report.waiting_requests),
        "replica_kv_usage": ("KV cache in use, 0 to 1", lambda r: r.report.kv_usage),
        "index_blocks": ("Blocks that the prefix index holds for the replica", lambda r: r.index_blocks),
        "index_stated_blocks": ("Those of them that the replica's own events state", lambda r: r.cache.stated_blocks),
        "index_bytes": ("Estimated memory of what is known of the replica's cache", lambda r: r.index_bytes),
        "cache_events_live": (
            "1 while the replica's events are complete, 0 while they are fenced or not heard",
            lambda r: float(r.cache.source == "events"),
        ),
        "cache_broken": (
            "1 while the replica's prefix cache seems broken, so that it is routed by load",
            lambda r: float(r.cache.broken is not None),
        ),
        "ttft_curve_base_ms": ("Learned: prefill of a prompt that is all cached", lambda r: r.curve_base_ms),
        "ttft_curve_ms_per_token": ("Learned: and for each uncached token", lambda r: r.curve_ms_per_token),
        "ttft_curve_ms_per_token2": ("Learned: and for its square", lambda r: r.curve_ms_per_token2),
        "ttft_curve_bias": ("Mean error of the curve's predictions, as a share of these", lambda r: r.curve_bias),
        "ttft_curve_mape": ("Mean absolute error of the same, as a share", lambda r: r.curve_mape),
        "ttft_curve_observations": ("Prefills that the curve was learned from", lambda r: r.curve_observations),
        "hit_quantum_tokens": ("Learned: hits come in multiples of so many tokens", lambda r: r.cache.quantum_tokens),
        "hit_minimum_tokens": ("Learned: shorter prefixes never hit", lambda r: r.cache.minimum_tokens),
    }
    for name, (documentation, read) in readings.items():
        family = GaugeMetricFamily(f"prefixgate_{name}", documentation, labels=LABELS)
        for replica in replicas:
            value = read(replica)
            if value is not None:
                family.add_metric(_labels(replica), value)
        yield family
    yield from _troubles(replicas)
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
