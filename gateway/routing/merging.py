"""One view of several processes: what each has counted becomes what one that served all would have counted; pure.

Counts are added up and ratios made anew from the sums. What all of them know alike (states, curves, beliefs, the index)
is the first one's word.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from heapq import merge as in_order
from typing import Final

from gateway.routing.health import BREAKER_STATES
from gateway.routing.histogram import summed
from gateway.routing.queue_view import PriorityView, QueueView
from gateway.routing.scoreboard import RECENT_TTFTS
from gateway.routing.snapshot import SHOWN, ReplicaView, SeriesView, Snapshot, WaterfallView, quantile

KEPT: Final = 200
"""Waterfalls of a kind that a process brings: so one that is large only in the sum is rarely missed."""

Ttfts = tuple[tuple[float, float], ...]
"""When first tokens came (seconds on the machine's clock), and their seconds from accept; the latest last."""

_SUMS_OF_SERIES: Final = tuple(field.name for field in fields(SeriesView) if field.type is int)
_SUMS_OF_WATERFALLS: Final = tuple(field.name for field in fields(WaterfallView) if field.type is int)


@dataclass(frozen=True, slots=True)
class Share:
    """What one process, or several together, bring: a snapshot with up to `KEPT` tenants and families, and the recent
    times to first token of each of its series, in their order.
    """

    snapshot: Snapshot
    ttfts: tuple[Ttfts, ...]

    def shown(self) -> Snapshot:
        """The snapshot as people and metrics get it."""
        snapshot = self.snapshot
        tenants, families = _largest(snapshot.tenants, SHOWN), _largest(snapshot.families, SHOWN)
        return replace(snapshot, tenants=tenants, families=families)

    def counted(self) -> "Share":
        """What remains of it after its process has ended: what it has counted."""
        queue = QueueView(
            tuple(replace(one, depth=0, waiting_tokens=0, tenants=0) for one in self.snapshot.queue.priorities)
        )
        return Share(replace(self.snapshot, held=0, queue=queue, pools=(), replicas=()), self.ttfts)


def merged(shares: Sequence[Share]) -> Share:
    """All of them together; the first is the one whose word counts for what all know alike."""
    first, *others = shares
    if not others:
        return first
    snapshots = [share.snapshot for share in shares]
    series, ttfts = _merged_series(shares)
    snapshot = replace(
        first.snapshot,
        held=sum(one.held for one in snapshots),
        queue=_queue([one.queue for one in snapshots]),
        replicas=tuple(_replica(replica, snapshots) for replica in _all_replicas(snapshots)),
        series=series,
        tenants=_largest((fall for one in snapshots for fall in one.tenants), KEPT),
        families=_largest((fall for one in snapshots for fall in one.families), KEPT),
        exposures={
            name: counts(one.exposures.get(name, {}) for one in snapshots)
            for name in dict.fromkeys(name for one in snapshots for name in one.exposures)
        },
    )
    return Share(snapshot, ttfts)


def _queue(queues: Sequence[QueueView]) -> QueueView:
    """Each process has a queue of its own."""
    drain: dict[str, float] = {}
    for queue in queues:
        for model, per_s in queue.drain.items():
            drain[model] = drain.get(model, 0.0) + per_s
    rows = zip(*(queue.priorities for queue in queues), strict=True)
    return QueueView(tuple(_priority(row) for row in rows), drain)


def _priority(rows: Sequence[PriorityView]) -> PriorityView:
    return PriorityView(
        rows[0].priority,
        sum(row.depth for row in rows),
        sum(row.waiting_tokens for row in rows),
        max(row.tenants for row in rows),  # of those who wait at several, nobody knows how many are the same
        counts(row.shed for row in rows),
        summed([row.waits for row in rows]),
    )


def counts(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Counts of the same name added up."""
    sums: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            sums[name] = sums.get(name, 0) + count
    return sums


def _all_replicas(snapshots: Sequence[Snapshot]) -> Iterable[ReplicaView]:
    """Each by the first one's word that knows it: one that was removed is gone when the last has let it go."""
    first: dict[str, ReplicaView] = {}
    for snapshot in snapshots:
        for replica in snapshot.replicas:
            first.setdefault(replica.name, replica)
    return first.values()


def _replica(replica: ReplicaView, snapshots: Sequence[Snapshot]) -> ReplicaView:
    """Requests, memory and health are each process's own; all the rest is known alike. Shown is the worst health."""
    same = [one for snapshot in snapshots for one in snapshot.replicas if one.name == replica.name]
    return replace(
        replica,
        breaker=max((one.breaker for one in same), key=BREAKER_STATES.index),
        breaker_opened=sum(one.breaker_opened for one in same),
        overloaded=sum(one.overloaded for one in same),
        inflight=sum(one.inflight for one in same),
        peers_inflight=max(replica.peers_inflight - sum(one.inflight for one in same) + replica.inflight, 0),
        index_bytes=sum(one.index_bytes for one in same),
    )


def _merged_series(shares: Sequence[Share]) -> tuple[tuple[SeriesView, ...], tuple[Ttfts, ...]]:
    together: dict[tuple[str, str, str], tuple[list[SeriesView], list[Ttfts]]] = {}
    for share in shares:
        for one, ttfts in zip(share.snapshot.series, share.ttfts, strict=True):
            views, times = together.setdefault((one.pool, one.replica, one.model), ([], []))
            views.append(one)
            times.append(ttfts)
    latest = [tuple(in_order(*times))[-RECENT_TTFTS:] for _, times in together.values()]
    merged = [_one_series(views, ttfts) for (views, _), ttfts in zip(together.values(), latest, strict=True)]
    return tuple(merged), tuple(latest)


def _one_series(views: Sequence[SeriesView], ttfts: Ttfts) -> SeriesView:
    sums = {name: sum(getattr(one, name) for one in views) for name in _SUMS_OF_SERIES}
    recent = sorted(ttft_s for _, ttft_s in ttfts)
    return replace(
        views[0],
        **sums,
        outcomes=counts(one.outcomes for one in views),
        given_up=counts(one.given_up for one in views),
        broken_streams=counts(one.broken_streams for one in views),
        hit_rate=_ratio(sums["delivered_tokens"], sums["prompt_tokens"] - sums["unreported_prompt_tokens"]),
        ttft_p50_s=quantile(recent, 0.5),
        ttft_p90_s=quantile(recent, 0.9),
        ttft_p99_s=quantile(recent, 0.99),
        histograms={name: summed([one.histograms[name] for one in views]) for name in views[0].histograms},
    )


def _largest(falls: Iterable[WaterfallView], count: int) -> tuple[WaterfallView, ...]:
    """Those of the same name together, those with most prompt tokens first, and all others under ""."""
    together: dict[str, list[WaterfallView]] = {}
    for fall in falls:
        together.setdefault(fall.name, []).append(fall)
    rest = together.pop("", [])
    ordered = sorted((_waterfall(name, parts) for name, parts in together.items()), key=lambda one: -one.prompt_tokens)
    rest += ordered[count:]
    return (*ordered[:count], *([_waterfall("", rest)] if rest else []))


def _waterfall(name: str, parts: Sequence[WaterfallView]) -> WaterfallView:
    sums = {field: sum(getattr(part, field) for part in parts) for field in _SUMS_OF_WATERFALLS}
    return WaterfallView(name=name, **sums, hit_rate=_ratio(sums["delivered_tokens"], sums["prompt_tokens"]))


def _ratio(part: int, whole: int) -> float | None:
    return part / whole if whole else None
