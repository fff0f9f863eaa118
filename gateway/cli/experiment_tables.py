"""Experiments and their reports as tables; prints."""

from collections.abc import Sequence
from datetime import datetime

from rich import box
from rich.console import Console
from rich.table import Table

from gateway.experiments.report import Figure, Report
from gateway.experiments.words import quantity
from gateway.serving.experiments.routes import Detail
from gateway.serving.experiments.running import ArmView, ExperimentView

_LIKELY = 0.8
"""The power that one usually plans for."""


def print_list(experiments: Sequence[ExperimentView]) -> None:
    """One line for each experiment."""
    if not experiments:
        print("no experiments: see [[experiments]] in the configuration, or POST /api/experiments")
        return
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("experiment", "state", "unit", "arms (exposures)", "since", "last report"):
        table.add_column(column)
    for one in experiments:
        state = f"{one.state}: {one.why}" if one.why else one.state
        table.add_row(one.name, state, one.unit, _arms(one.arms), _when(one.counts_from), one.headline or "–")
    _console().print(table)


def print_detail(detail: Detail) -> None:
    """One experiment, with what has happened to it."""
    one, console = detail.experiment, _console()
    state = f"{one.state} ({one.why})" if one.why else one.state
    ramp = f", ramped up over {one.ramp_s:g} s" if one.ramp_s else ""
    console.print(f"{one.name}: {state}; unit {one.unit}, {one.traffic:.0%} of the eligible units{ramp}")
    console.print(f"counts since {_when(one.counts_from)}, after a warm-up of {detail.definition.warm_up_s:g} s")
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("arm", "weight", "exposures", ""):
        table.add_column(column, justify="right" if column in ("weight", "exposures") else "left")
    for arm in one.arms:
        note = f"stopped: {arm.stopped}" if arm.stopped else "control" if arm.name == one.control else ""
        table.add_row(arm.name, f"{arm.weight:g}", f"{arm.exposures:,}", note)
    console.print(table)
    for event in detail.events:
        what = f"{event.kind} {event.arm}".strip()
        console.print(f"{_when(event.at)}  {what}: {event.said}")
    for warning in detail.warnings:
        console.print(f"warning: {warning}", style="yellow")
    if one.headline:
        console.print(one.headline)


def print_report(report: Report) -> None:
    """Figures by arm with their intervals, then what may be said."""
    from gateway.experiments.metrics import METRICS  # numpy, which no other command needs

    console = _console()
    title = f"{report.name}: {report.confidence:.0%} intervals by {report.unit}, over {report.running_s:,.0f} s"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column("")
    for arm in report.arms:
        table.add_column(arm.name, justify="right")
    counts = ("units", "requests", "crossed", "failed", "refused")
    for count in counts:
        table.add_row(count, *(f"{getattr(arm, count):,}" for arm in report.arms))
    figures = {arm.name: {figure.metric: figure for figure in arm.figures} for arm in report.arms}
    for metric in METRICS.values():
        row = [figures[arm.name].get(metric.name) for arm in report.arms]
        if any(figure is not None and figure.value is not None for figure in row):
            table.add_row(metric.title, *(_figure(figure) for figure in row))
    console.print(table)
    for comparison in report.comparisons:
        if comparison.metric != report.metric and comparison.verdict in ("better", "worse"):
            console.print(f"  {comparison.sentence}")
    for separation in report.separations:
        console.print(f"  {separation.sentence}")
    likely = [power for power in report.power if power.probability >= _LIKELY]
    for power in likely[:1] or report.power[-1:]:
        console.print(f"  {power.sentence}")
    console.print(report.sample_ratio.sentence, style=None if report.sample_ratio.ok else "bold red")
    for breach in report.breaches:
        console.print(breach.sentence, style="bold red")
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow")
    console.print(report.sentence, style="bold")


def _figure(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return "–"
    value, low, high = (quantity(one, figure.measure) for one in (figure.value, figure.low, figure.high))
    return f"{value} ({low} to {high})"


def _arms(arms: Sequence[ArmView]) -> str:
    return ", ".join(f"{arm.name} ({arm.exposures:,}{', stopped' if arm.stopped else ''})" for arm in arms)


def _when(epoch: float) -> str:
    return datetime.fromtimestamp(epoch).astimezone().strftime("%Y-%m-%d %H:%M:%S") if epoch else "never"


def _console() -> Console:
    return Console(highlight=False, markup=False, soft_wrap=True)
