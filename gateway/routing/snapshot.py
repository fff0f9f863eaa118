"""The snapshot: one frozen view of all that the router knows, for dashboard, metrics and tests; pure."""

from dataclasses import dataclass
from math import ceil

from engines.reports import EngineDescription, LoadReport, PrefillSettings
from gateway.routing.fleet import Fleet, Replica
from gateway.routing.histogram import Histogram
from gateway.routing.index import BLOCK_ENTRY_BYTES, PrefixIndex
from gateway.routing.scoreboard import Key, Scoreboard, Series


@dataclass(frozen=True, slots=True)
class SeriesView:
    """A series with its labels. Percentiles (seconds) are of the recent requests; None without any.

    `hit_rate` is delivered over prompt tokens of the requests whose cached tokens were reported.
    """

    pool: str
    replica: str
    model: str
    outcomes: dict[str, int]
    retries: int
    prompt_tokens: int
    unreported_prompt_tokens: int
    completion_tokens: int
    available_tokens: int
    routed_tokens: int
    delivered_tokens: int
    hit_rate: float | None
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None
    histograms: dict[str, Histogram]


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica as of the snapshot's time."""

    name: str
    pool: str
    model: str
    url: str
    state: str
    reason: str
    models: tuple[str, ...]
    version: str | None
    inflight: int
    wait_ms: float
    index_blocks: int
    index_bytes: int
    index_fill: float
    curve_base_ms: float
    curve_ms_per_token: float
    report: LoadReport
    prefill_desired: PrefillSettings
    prefill_actual: PrefillSettings
    description: EngineDescription


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as of the snapshot's time."""

    name: str
    model: str | None
    bytes_per_token: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything, as of `at` (seconds on the router's clock)."""

    at: float
    policy: str
    pools: tuple[PoolView, ...]
    replicas: tuple[ReplicaView, ...]
    series: tuple[SeriesView, ...]


def take_snapshot(policy: str, fleet: Fleet, index: PrefixIndex, scoreboard: Scoreboard, now: float) -> Snapshot:
    """Copy what is shown, so that the view does not change under its reader."""
    return Snapshot(
        at=now,
        policy=policy,
        pools=tuple(
            PoolView(pool.spec.name, pool.spec.model, pool.token_ratio.bytes_per_token) for pool in fleet.pools.values()
        ),
        replicas=tuple(_replica_view(replica, index, now) for replica in fleet.replicas),
        series=tuple(_series_view(key, series) for key, series in scoreboard.series.items()),
    )


def _replica_view(replica: Replica, index: PrefixIndex, now: float) -> ReplicaView:
    return ReplicaView(
        name=replica.spec.name,
        pool=replica.pool.spec.name,
        model=replica.pool.spec.model or ",".join(sorted(replica.models)),
        url=replica.spec.url,
        state=replica.state,
        reason=replica.reason,
        models=tuple(sorted(replica.models)),
        version=replica.description.version,
        inflight=len(replica.bookings),
        wait_ms=replica.wait_ms(now),
        index_blocks=index.blocks(replica.slot),
        index_bytes=index.blocks(replica.slot) * BLOCK_ENTRY_BYTES,
        index_fill=index.fill(replica.slot),
        curve_base_ms=replica.curve.base_ms,
        curve_ms_per_token=replica.curve.ms_per_token,
        report=replica.report,
        prefill_desired=replica.pool.spec.prefill,
        prefill_actual=replica.description.prefill,
        description=replica.description,
    )


def _series_view(key: Key, series: Series) -> SeriesView:
    reported = series.prompt_tokens - series.unreported_prompt_tokens
    recent = sorted(series.recent_ttft_s)
    return SeriesView(
        pool=key.pool,
        replica=key.replica,
        model=key.model,
        outcomes={str(outcome): count for outcome, count in series.outcomes.items()},
        retries=series.retries,
        prompt_tokens=series.prompt_tokens,
        unreported_prompt_tokens=series.unreported_prompt_tokens,
        completion_tokens=series.completion_tokens,
        available_tokens=series.available_tokens,
        routed_tokens=series.routed_tokens,
        delivered_tokens=series.delivered_tokens,
        hit_rate=series.delivered_tokens / reported if reported else None,
        ttft_p50_s=quantile(recent, 0.5),
        ttft_p90_s=quantile(recent, 0.9),
        ttft_p99_s=quantile(recent, 0.99),
        histograms={
            "ttft_seconds": series.ttft.copy(),
            "itl_seconds": series.itl.copy(),
            "request_seconds": series.request.copy(),
            "route_seconds": series.route.copy(),
            "overhead_seconds": series.overhead.copy(),
            "prediction_error_tokens": series.prediction_error.copy(),
            "predicted_ttft_error_seconds": series.ttft_error.copy(),
        },
    )


def quantile(ordered: list[float], share: float) -> float | None:
    """The nearest-rank quantile of sorted values; None of nothing."""
    if not ordered:
        return None
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]
