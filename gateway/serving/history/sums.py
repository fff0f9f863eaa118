"""Sums of what happened at a replica in some time, and how they are taken from counters that only grow; pure."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from gateway.routing.facts import Outcome
from gateway.routing.histogram import SECONDS
from gateway.routing.savings import skipped_gpu_s
from gateway.routing.snapshot import SeriesView, Snapshot

FAILED: Final = (Outcome.ENGINE_FAILED, Outcome.TIMED_OUT)


class Place(NamedTuple):
    """Whose sums these are; both "" for requests that no replica took."""

    pool: str
    replica: str


class Sums(msgspec.Struct, frozen=True):
    """What happened in some time. Tokens are of requests whose engine said what was cached (`reported_requests`).

    `ttft` counts times to first token in the buckets of `histogram.SECONDS`, `ttft_s` is their sum.
    """

    requests: int = 0
    failed: int = 0
    refused: int = 0
    reported_requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    available_tokens: int = 0
    routed_tokens: int = 0
    delivered_tokens: int = 0
    index_loss_tokens: int = 0
    index_gain_tokens: int = 0
    skipped_gpu_s: float = 0.0
    ttft_s: float = 0.0
    ttft: tuple[int, ...] = (0,) * (len(SECONDS) + 1)


NUMBERS: Final = tuple(name for name in Sums.__struct_fields__ if name != "ttft")


def added(parts: Sequence[Sums]) -> Sums:
    """All of them together."""
    if len(parts) == 1:
        return parts[0]
    sums = {name: sum(getattr(part, name) for part in parts) for name in NUMBERS}
    return Sums(**sums, ttft=_columns(part.ttft for part in parts))


class Meter:
    """Turns counters into what was added since the last look. A counter that falls, as one worker's figures are
    missing for a moment, adds nothing until it has grown beyond where it was.
    """

    def __init__(self, snapshot: Snapshot) -> None:
        self._before = _counted(snapshot)

    def read(self, snapshot: Snapshot, gpus: Mapping[str, int]) -> dict[Place, Sums]:
        """What came since the last look, where anything did; `gpus` are those of one replica, by pool."""
        views = {replica.name: replica for replica in snapshot.replicas}
        came: dict[Place, Sums] = {}
        for place, now in _counted(snapshot).items():
            before = self._before.get(place, Sums())
            more = Sums(
                **{name: max(getattr(now, name) - getattr(before, name), 0) for name in NUMBERS},
                ttft=tuple(max(new - old, 0) for new, old in zip(now.ttft, before.ttft, strict=True)),
            )
            self._before[place] = added((before, more))
            view = views.get(place.replica)
            if view is not None:
                gpu_s = skipped_gpu_s(
                    view, gpus.get(place.pool, 1), more.reported_requests, more.prompt_tokens, more.delivered_tokens
                )
                more = msgspec.structs.replace(more, skipped_gpu_s=gpu_s)
            if more.requests or any(more.ttft):
                came[place] = more
        return came


def _counted(snapshot: Snapshot) -> dict[Place, Sums]:
    """All that was counted so far, of all models of a replica together."""
    parts: dict[Place, list[Sums]] = {}
    for series in snapshot.series:
        parts.setdefault(Place(series.pool, series.replica), []).append(_of_series(series))
    return {place: added(some) for place, some in parts.items()}


def _of_series(series: SeriesView) -> Sums:
    ttft = series.histograms["ttft_seconds"]
    return Sums(
        requests=sum(series.outcomes.values()),
        failed=sum(series.outcomes.get(outcome, 0) for outcome in FAILED),
        refused=series.outcomes.get(Outcome.REJECTED, 0),
        reported_requests=series.reported_requests,
        prompt_tokens=series.prompt_tokens - series.unreported_prompt_tokens,
        completion_tokens=series.completion_tokens,
        available_tokens=series.available_tokens,
        routed_tokens=series.routed_tokens,
        delivered_tokens=series.delivered_tokens,
        index_loss_tokens=series.index_loss_tokens,
        index_gain_tokens=series.index_gain_tokens,
        ttft_s=ttft.total,
        ttft=tuple(ttft.counts),
    )


def _columns(rows: Iterable[Sequence[int]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))
