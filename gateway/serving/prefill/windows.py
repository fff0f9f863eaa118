"""Windows of a replica's real traffic: what was measured of it before a change, and after; does I/O."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from gateway.prefill.verdict import PLENTY, Figures, Timed, Window
from gateway.routing.recent import TimedPrefill
from gateway.routing.snapshot import ReplicaView, SeriesView
from gateway.serving.gateway import Gateway
from gateway.serving.report import Report
from gateway.serving.whole import whole_report

LOOK_S: Final = 0.5


class Sums:
    """What all processes have counted of a replica so far."""

    def __init__(self, report: Report, replica: str) -> None:
        series = [one for one in report.snapshot.series if one.replica == replica]
        self._itl_s = sum(one.histograms["itl_seconds"].total for one in series)
        self._gaps = sum(sum(one.histograms["itl_seconds"].counts) for one in series)
        self._tokens = sum(one.prompt_tokens + one.completion_tokens for one in series)
        self._requests = sum(_completed(one) for one in series)
        view = view_of(report, replica)
        self.preemptions = None if view is None else view.report.preemptions_total

    def itl_ms(self, since: "Sums | None" = None) -> float | None:
        """The mean time between the frames of an answer; None without any."""
        gaps, itl_s = self._gaps, self._itl_s
        if since is not None:
            gaps, itl_s = gaps - since._gaps, itl_s - since._itl_s
        return 1000 * itl_s / gaps if gaps > 0 else None

    def request_tokens(self) -> float | None:
        """The mean size of a request, prompt and answer."""
        return self._tokens / self._requests if self._requests else None


class Watched:
    """A replica's windows before and after a change. Prefills are held against the curves from when this was made."""

    def __init__(self, gateway: Gateway, report: Report, view: ReplicaView) -> None:
        self.name = view.name
        self._gateway = gateway
        self._curves = {one.name: one for one in report.snapshot.replicas if one.pool == view.pool}
        sums, recent = Sums(report, view.name), view.recent
        self.before = Window(
            self._timed(0.0, [view.name]),
            self._timed(0.0, self._others),
            Figures(sums.itl_ms(), _capacity(view), recent.kv_peak, recent.preemptions, sums.request_tokens()),
        )

    @property
    def _others(self) -> list[str]:
        return [name for name in self._curves if name != self.name]

    async def after(self, long_tokens: int, wants_long: int, most_s: float, is_over: Callable[[], bool]) -> Window:
        """Of what is measured from now on, until that is plenty, `most_s` seconds are past, or `is_over` says so.

        `wants_long`: so many prefills must be of more than `long_tokens`.
        """
        gateway = self._gateway
        began, since = gateway.clock(), Sums(await whole_report(gateway), self.name)
        peak: float | None = None
        while True:
            prefills = self._timed(began, [self.name])
            view = next((one for one in gateway.snapshot().replicas if one.name == self.name), None)
            if view is not None and view.report.kv_usage is not None:
                peak = max(peak or 0.0, view.report.kv_usage)
            long = sum(one.uncached_tokens > long_tokens for one in prefills)
            plenty = len(prefills) >= PLENTY and long >= wants_long
            if plenty or view is None or is_over() or gateway.clock() - began >= most_s:
                break
            await asyncio.sleep(LOOK_S)
        sums = Sums(await whole_report(gateway), self.name)
        preempted = None
        if sums.preemptions is not None and since.preemptions is not None:
            preempted = max(sums.preemptions - since.preemptions, 0)
        capacity = None if view is None else _capacity(view)
        figures = Figures(sums.itl_ms(since), capacity, peak, preempted)
        return Window(prefills, self._timed(began, self._others), figures)

    def _timed(self, since: float, replicas: Iterable[str]) -> tuple[Timed, ...]:
        return tuple(
            Timed(one.uncached_tokens, one.ms, _predicted_ms(self._curves[name], one))
            for name in replicas
            for one in self._gateway.router.prefills(name)
            if one.at >= since
        )


def view_of(report: Report, replica: str) -> ReplicaView | None:
    """The replica as all processes together see it."""
    return next((one for one in report.snapshot.replicas if one.name == replica), None)


def _completed(series: SeriesView) -> int:
    return series.outcomes.get("completed", 0)


def _capacity(view: ReplicaView) -> int | None:
    return view.report.kv_capacity_tokens or view.description.kv_capacity_tokens


def _predicted_ms(view: ReplicaView, one: TimedPrefill) -> float:
    tokens = one.uncached_tokens
    return view.curve_base_ms + tokens * (view.curve_ms_per_token + tokens * view.curve_ms_per_token2)
