"""What one process of the gateway says of itself, and what several say together; reads clocks and /proc.

With one process this is all there is; with several, `whole.py` asks the others.
"""

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields

import msgspec

from gateway.routing.merging import Share, counts, merged
from gateway.routing.snapshot import Snapshot
from gateway.serving.events.intake import FeedStatus
from gateway.serving.experiments.analyst import Headline
from gateway.serving.gateway import Gateway
from gateway.serving.prefill.story import ChangeView, after_its_process, latest
from gateway.serving.process_figures import (
    CPU_SECONDS,
    MEMORY_BYTES,
    Family,
    counted_figures,
    figure,
    merged_figures,
    own_figures,
)
from gateway.serving.shadowing.tally import ShadowFigures, merged_shadows
from gateway.serving.sharing.status import SharingStatus, merged_status
from gateway.serving.tenant_figures import TenantView, merged_tenants, tenant_views
from gateway.serving.tokenise.counts import TokenCounts


class WorkerView(msgspec.Struct, frozen=True):
    """One process of the gateway. `state`: "up", "starting" (another one has just ended), or "silent" (it did not
    answer: its figures are older). `requests` have ended, `inflight` have not; `cpu_s` and `memory_bytes` are the
    system's word, None where it gives none. `restarts` counts its predecessors.
    """

    number: int
    pid: int
    state: str
    uptime_s: float = 0.0
    requests: int = 0
    inflight: int = 0
    cpu_s: float | None = None
    memory_bytes: float | None = None
    restarts: int = 0


class Report(msgspec.Struct, frozen=True):
    """What is shown and measured of one process, or of several together.

    `notices` are sentences, `warnings` sentences by replica. `usable` says for each model whether a replica is up.
    """

    share: Share
    notices: list[str]
    warnings: dict[str, list[str]]
    feeds: tuple[FeedStatus, ...]
    tokens: TokenCounts
    memo_bytes: int
    journal: dict[str, int]
    figures: tuple[Family, ...]
    usable: dict[str, bool]
    workers: tuple[WorkerView, ...]
    sharing: SharingStatus = SharingStatus()
    tenants: tuple[TenantView, ...] = ()
    changes: tuple[ChangeView, ...] = ()
    """Of prefill settings, as the processes that made them tell them."""
    shadows: tuple[ShadowFigures, ...] = ()
    observations: dict[str, int] = {}
    headlines: dict[str, Headline] = {}

    @property
    def snapshot(self) -> Snapshot:
        """What the routers know and have counted."""
        return self.share.shown()

    def counted(self) -> "Report":
        """What remains of it after its process has ended."""
        return msgspec.structs.replace(
            self,
            share=self.share.counted(),
            notices=[],
            warnings={},
            feeds=(),
            memo_bytes=0,
            figures=counted_figures(self.figures),
            usable={},
            workers=(),
            headlines={},
            sharing=self.sharing.counted(),
            tenants=tuple(one.counted() for one in self.tenants),
            changes=tuple(after_its_process(one) for one in self.changes),
            shadows=tuple(one.counted() for one in self.shadows),
        )


ENCODER = msgspec.msgpack.Encoder()
DECODER = msgspec.msgpack.Decoder(Report, dec_hook=lambda kind, plain: kind(plain))  # for a Counter


def own_report(gateway: Gateway) -> Report:
    """This process's."""
    share = gateway.router.share(gateway.clock())
    figures = own_figures()
    started_at = figure(figures, "process_start_time_seconds")
    worker = WorkerView(
        number=0 if gateway.siblings is None else gateway.siblings.number,
        pid=os.getpid(),
        state="up",
        uptime_s=time.time() - (started_at or gateway.started_at),
        requests=sum(sum(one.outcomes.values()) for one in share.snapshot.series),
        inflight=len(gateway.live_ids),
        cpu_s=figure(figures, CPU_SECONDS),
        memory_bytes=figure(figures, MEMORY_BYTES),
    )
    return Report(
        share=share,
        notices=gateway.notices(),
        warnings=gateway.warnings(share.snapshot),
        feeds=gateway.feeds.statuses(),
        tokens=gateway.tokenisers.counts,
        memo_bytes=gateway.tokenisers.memo_bytes,
        journal={} if gateway.journal is None else dict(gateway.journal.counts),
        figures=figures,
        usable=gateway.router.usable_models(),
        workers=(worker,),
        sharing=SharingStatus() if gateway.sharer is None else gateway.sharer.status,
        tenants=() if gateway.tenancy is None else tenant_views(gateway.tenancy),
        changes=gateway.changes(),
        observations=gateway.experiments.counts,
        headlines=gateway.experiments.headlines,
        shadows=gateway.shadows.figures(),
    )


def merged_reports(reports: Sequence[Report]) -> Report:
    """Of all of them together; the first is the one whose word counts for what all know alike."""
    first, *others = reports
    if not others:
        return first
    return Report(
        share=merged([one.share for one in reports]),
        notices=list(dict.fromkeys(notice for one in reports for notice in one.notices)),
        warnings=first.warnings,
        feeds=_feeds(reports),
        tokens=_tokens([one.tokens for one in reports]),
        memo_bytes=sum(one.memo_bytes for one in reports),
        journal=counts(one.journal for one in reports),
        figures=merged_figures([one.figures for one in reports]),
        usable={
            model: all(one.usable.get(model, True) for one in reports)
            for model in dict.fromkeys(model for one in reports for model in one.usable)
        },
        workers=tuple(sorted((row for one in reports for row in one.workers), key=lambda row: row.number)),
        sharing=merged_status([one.sharing for one in reports]),
        tenants=merged_tenants([one.tenants for one in reports]),
        changes=latest(view for one in reports for view in one.changes),
        observations=counts(one.observations for one in reports),
        headlines=_newest(one.headlines for one in reports),
        shadows=merged_shadows([one.shadows for one in reports]),
    )


def _newest(parts: Iterable[dict[str, Headline]]) -> dict[str, Headline]:
    newest: dict[str, Headline] = {}
    for name, headline in (pair for part in parts for pair in part.items()):
        if name not in newest or headline.at > newest[name].at:
            newest[name] = headline
    return newest


def _feeds(reports: Sequence[Report]) -> tuple[FeedStatus, ...]:
    """Every process hears all events, so they are not added up: what counts is who has heard most."""
    most: dict[tuple[str, int], FeedStatus] = {}
    for status in (one for report in reports for one in report.feeds):
        before = most.setdefault((status.replica, status.rank), status)
        if status.batches > before.batches:
            most[status.replica, status.rank] = status
    return tuple(most.values())


def _tokens(parts: Sequence[TokenCounts]) -> TokenCounts:
    total = TokenCounts()
    for field in fields(TokenCounts):
        for part in parts:
            setattr(total, field.name, getattr(total, field.name) + getattr(part, field.name))
    return total
