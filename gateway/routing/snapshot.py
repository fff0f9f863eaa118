"""The snapshot: one frozen view of all that the router knows, for dashboard, metrics and tests; pure."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from math import ceil
from typing import Final, TypeVar

from engines.reports import EngineDescription, LoadReport, PrefillSettings
from gateway.routing.detector import BrokenCache
from gateway.routing.fleet import Fleet
from gateway.routing.histogram import Histogram
from gateway.routing.index import GUESS_ENTRY_BYTES, PrefixIndex
from gateway.routing.ledger import LEDGER_ENTRY_BYTES
from gateway.routing.queue_view import QueueView
from gateway.routing.recent import RecentView
from gateway.routing.replica import Pool, Replica
from gateway.routing.scoreboard import Key, Scoreboard, Series
from gateway.routing.waterfall import Waterfall, Waterfalls

SHOWN: Final = 50
"""Tenants and prefix families shown one by one: those with most prompt tokens."""

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class SeriesView:
    """A series with its labels. Percentiles (seconds) are of the recent requests; None without any.

    `hit_rate` is delivered over prompt tokens of the requests whose cached tokens were reported: `reported_requests`.
    """

    pool: str
    replica: str
    model: str
    outcomes: dict[str, int]
    retries: int
    given_up: dict[str, int]
    broken_streams: dict[str, int]
    prompt_tokens: int
    unreported_prompt_tokens: int
    reported_requests: int
    completion_tokens: int
    available_tokens: int
    routed_tokens: int
    delivered_tokens: int
    routing_loss_tokens: int
    index_loss_tokens: int
    index_gain_tokens: int
    hit_rate: float | None
    ttft_p50_s: float | None
    ttft_p90_s: float | None
    ttft_p99_s: float | None
    histograms: dict[str, Histogram]


@dataclass(frozen=True, slots=True)
class WaterfallView:
    """Cached tokens of one tenant or prefix family, from available to delivered; `name` "" for all others."""

    name: str
    requests: int
    prompt_tokens: int
    available_tokens: int
    routed_tokens: int
    delivered_tokens: int
    routing_loss_tokens: int
    index_loss_tokens: int
    index_gain_tokens: int
    hit_rate: float | None


@dataclass(frozen=True, slots=True)
class CacheBeliefView:
    """How sure we are of what a replica holds.

    `source` is "events" (its own word), "fenced" (events may be missing: nothing is believed), or "guess" (our
    routing, corrected by its answers), with the reason where there is one. The curves are pairs of believed and
    delivered tokens. `orphans` are stored blocks in events that nobody knows the beginning of.
    """

    source: str
    reason: str
    counted_in: str
    stated_blocks: int
    confirmed_curve: tuple[tuple[float, float], ...]
    inferred_curve: tuple[tuple[float, float], ...]
    promised_curve: tuple[tuple[float, float], ...]
    calibrated_on: int
    quantum_tokens: int
    minimum_tokens: int
    capacity_share: float
    orphans: int
    broken: BrokenCache | None


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """A replica as of the snapshot's time.

    The curve is the one that its prefills are predicted by: its own, or what it borrows until that has seen enough.
    `curve_bias` and `curve_mape` are shares (see `PrefillCurve`), None before the first observation.
    """

    name: str
    pool: str
    model: str
    url: str
    state: str
    reason: str
    draining: bool
    breaker: str
    """closed, open or half-open."""
    breaker_opened: int
    overloaded: int
    """How often its breaker opened, and how often it said that it is overloaded."""
    models: tuple[str, ...]
    version: str | None
    inflight: int
    peers_inflight: int
    """Of other gateways and workers, as they tell."""
    wait_ms: float
    index_blocks: int
    index_bytes: int
    index_fill: float
    cache: CacheBeliefView
    curve_base_ms: float
    curve_ms_per_token: float
    curve_ms_per_token2: float
    curve_bias: float | None
    curve_mape: float | None
    curve_observations: int
    recent: RecentView
    report: LoadReport
    prefill_desired: PrefillSettings
    prefill_actual: PrefillSettings
    description: EngineDescription


@dataclass(frozen=True, slots=True)
class ChunkCurve:
    """The prefill curve of a pool's replicas with one chunk size."""

    chunk_tokens: int
    base_ms: float
    ms_per_token: float
    ms_per_token2: float
    observations: int

    def predict_ms(self, uncached_tokens: float) -> float:
        """Milliseconds from the start of prefill to the first token."""
        return self.base_ms + uncached_tokens * (self.ms_per_token + uncached_tokens * self.ms_per_token2)


@dataclass(frozen=True, slots=True)
class PoolView:
    """A pool as of the snapshot's time. `token_doubts`: sentences on prompts whose token ids are not the engine's.

    `curves` are of the chunk sizes that its replicas run or ran, the smallest first.
    """

    name: str
    model: str | None
    bytes_per_token: float
    encoding: str
    token_doubts: tuple[str, ...]
    curves: tuple[ChunkCurve, ...]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything, as of `at` (seconds on the router's clock). `held` requests wait for their replica.

    `exposures` counts requests that were let into experiments, by experiment and arm.
    """

    at: float
    policy: str
    held: int
    queue: QueueView
    pools: tuple[PoolView, ...]
    replicas: tuple[ReplicaView, ...]
    series: tuple[SeriesView, ...]
    tenants: tuple[WaterfallView, ...]
    families: tuple[WaterfallView, ...]
    exposures: dict[str, dict[str, int]] = field(default_factory=dict)


def take_snapshot(
    policy: str,
    held: int,
    queue: QueueView,
    fleet: Fleet,
    index: PrefixIndex,
    scoreboard: Scoreboard,
    now: float,
    shown: int = SHOWN,
) -> Snapshot:
    """Copy what is shown, so that the view does not change under its reader; so many tenants and families."""
    return Snapshot(
        at=now,
        policy=policy,
        held=held,
        queue=queue,
        pools=tuple(
            PoolView(
                name=pool.spec.name,
                model=pool.spec.model,
                bytes_per_token=pool.token_ratio.bytes_per_token,
                encoding=pool.spec.encoding,
                token_doubts=tuple(pool.token_trust.sentences),
                curves=_chunk_curves(pool),
            )
            for pool in fleet.pools.values()
        ),
        replicas=tuple(_replica_view(replica, index, now) for replica in fleet.replicas),
        series=tuple(_series_view(key, series) for key, series in scoreboard.series.items()),
        tenants=_waterfalls(scoreboard.tenants, str, shown),
        families=_waterfalls(scoreboard.families, _family_name, shown),
        exposures=_exposures(scoreboard),
    )


def _chunk_curves(pool: Pool) -> tuple[ChunkCurve, ...]:
    return tuple(
        ChunkCurve(chunk, curve.base_ms, curve.ms_per_token, curve.ms_per_token2, curve.observations)
        for chunk, curve in sorted(pool.by_chunk.items())
    )


def _exposures(scoreboard: Scoreboard) -> dict[str, dict[str, int]]:
    counted: dict[str, dict[str, int]] = {}
    for (experiment, arm), count in scoreboard.exposures.items():
        counted.setdefault(experiment, {})[arm] = count
    return counted


def _waterfalls(of: Waterfalls[K], name: Callable[[K], str], count: int) -> tuple[WaterfallView, ...]:
    """The largest, and all others together."""
    shown = [_waterfall_view(name(key), fall) for key, fall in of.largest(count)]
    rest = of.rest(count)
    return (*shown, _waterfall_view("", rest)) if rest.requests else tuple(shown)


def _family_name(family: int | None) -> str:
    return "short" if family is None else f"{family:016x}"


def _waterfall_view(name: str, fall: Waterfall) -> WaterfallView:
    return WaterfallView(
        name=name,
        requests=fall.requests,
        prompt_tokens=fall.prompt_tokens,
        available_tokens=fall.available,
        routed_tokens=fall.routed,
        delivered_tokens=fall.delivered,
        routing_loss_tokens=fall.routing_loss,
        index_loss_tokens=fall.index_loss,
        index_gain_tokens=fall.index_gain,
        hit_rate=fall.hit_rate,
    )


def _index_bytes(replica: Replica, index: PrefixIndex) -> int:
    """Estimated memory of what is known of the replica's cache."""
    guesses = index.blocks(replica.slot) - index.stated_blocks(replica.slot)
    return guesses * GUESS_ENTRY_BYTES + replica.cache.ledger.blocks * LEDGER_ENTRY_BYTES


def _cache_view(replica: Replica, index: PrefixIndex) -> CacheBeliefView:
    view = replica.cache
    learned = view.calibration
    source = "fenced" if view.fences else "events" if view.covered else "guess"
    return CacheBeliefView(
        source=source,
        reason="; ".join(sorted(set(view.fences.values()))) or view.lost_reason,
        counted_in="text" if replica.form is None else f"blocks of {replica.form.block} tokens",
        stated_blocks=index.stated_blocks(replica.slot),
        confirmed_curve=learned.confirmed.points,
        inferred_curve=learned.inferred.points,
        promised_curve=learned.promised.points,
        calibrated_on=learned.observations,
        quantum_tokens=learned.quantum,
        minimum_tokens=learned.minimum,
        capacity_share=view.capacity_share,
        orphans=view.ledger.orphans,
        broken=view.watch.broken,
    )


def _replica_view(replica: Replica, index: PrefixIndex, now: float) -> ReplicaView:
    curve = replica.curve
    ours = replica.own_bookings
    return ReplicaView(
        name=replica.spec.name,
        pool=replica.pool.spec.name,
        model=replica.pool.spec.model or ",".join(sorted(replica.models)),
        url=replica.spec.url,
        state=replica.shown_state,
        reason=replica.shown_reason,
        draining=replica.draining,
        breaker=replica.health.state(now),
        breaker_opened=replica.health.opened,
        overloaded=replica.health.overloaded,
        models=tuple(sorted(replica.models)),
        version=replica.description.version,
        inflight=ours,  # those of peers are theirs to show
        peers_inflight=len(replica.bookings) - ours,
        wait_ms=replica.wait_ms(now),
        index_blocks=index.blocks(replica.slot),
        index_bytes=_index_bytes(replica, index),
        index_fill=index.fill(replica.slot),
        cache=_cache_view(replica, index),
        curve_base_ms=curve.base_ms,
        curve_ms_per_token=curve.ms_per_token,
        curve_ms_per_token2=curve.ms_per_token2,
        curve_bias=curve.bias,
        curve_mape=curve.mape,
        curve_observations=curve.observations,
        recent=replica.recent.view(replica.description.prefill.chunk_tokens, now),
        report=replica.report,
        prefill_desired=replica.pool.spec.prefill,
        prefill_actual=replica.description.prefill,
        description=replica.description,
    )


def _series_view(key: Key, series: Series) -> SeriesView:
    fall = series.waterfall
    recent = sorted(ttft_s for _, ttft_s in series.recent_ttfts)
    return SeriesView(
        pool=key.pool,
        replica=key.replica,
        model=key.model,
        outcomes={str(outcome): count for outcome, count in series.outcomes.items()},
        retries=series.retries,
        given_up={str(cause): count for cause, count in series.given_up.items()},
        broken_streams=dict(series.broken_streams),
        prompt_tokens=series.prompt_tokens,
        unreported_prompt_tokens=series.unreported_prompt_tokens,
        reported_requests=fall.requests,
        completion_tokens=series.completion_tokens,
        available_tokens=fall.available,
        routed_tokens=fall.routed,
        delivered_tokens=fall.delivered,
        routing_loss_tokens=fall.routing_loss,
        index_loss_tokens=fall.index_loss,
        index_gain_tokens=fall.index_gain,
        hit_rate=fall.hit_rate,
        ttft_p50_s=quantile(recent, 0.5),
        ttft_p90_s=quantile(recent, 0.9),
        ttft_p99_s=quantile(recent, 0.99),
        histograms={
            "ttft_seconds": series.ttft.copy(),
            "itl_seconds": series.itl.copy(),
            "request_seconds": series.request.copy(),
            "route_seconds": series.route.copy(),
            "overhead_seconds": series.overhead.copy(),
            "held_seconds": series.held.copy(),
            "prediction_error_tokens": series.prediction_error.copy(),
            "predicted_ttft_error_seconds": series.ttft_error.copy(),
        },
    )


def quantile(ordered: list[float], share: float) -> float | None:
    """The nearest-rank quantile of sorted values; None of nothing."""
    if not ordered:
        return None
    return ordered[max(ceil(share * len(ordered)) - 1, 0)]
