"""The tables of `prefixgate bench`; does I/O: prints."""

from collections.abc import Mapping
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from engines.simulated.published import PublishedRow
from gateway.bench.intervals import Verdict
from gateway.bench.plan import Rung, written
from gateway.bench.report import Comparison, LadderReport, Row
from gateway.bench.sweep_report import SweepReport

_WIDTH: Final = 180
_NOT_RUN: Final = "not run"
_LADDER: Final = "TTFT in ms (spread between quartiles), tok/s/GPU of tokens that were not cached"


def print_ladder(report: LadderReport, published: Mapping[str, PublishedRow], speed: float) -> None:
    """The table of the longest prompts, the whole ladder, lines, comparisons and warnings.

    `published` are rows to set measured ones against, by name, where engines are simulated at so many times the speed.
    """
    console = _console()
    _say_if_simulated(console, report)
    title = "Prefill, one request at a time: median, from the last byte sent to the first content received"
    _print(console, title, _headline_table(report))
    if published and report.headline_isl is not None:
        faster = "" if speed == 1 else f", at {speed:g} times its speed"
        _print(console, f"Against the published table (H200){faster}", _published_table(report, published, speed))
        console.print("The published tok/s/GPU of FP4 do not follow from their own TTFT and 24,576 tokens.\n")
    _print(console, _LADDER, _ladder_table(report))
    for line in report.lines:
        console.print(
            f"{line.target}: {line.ms_per_8k:+,.1f} ms for each further 8k tokens above 8k "
            f"[{line.low:,.1f} to {line.high:,.1f}]"
        )
    if report.comparisons:
        at = written(max(one.isl for one in report.comparisons))
        title = f"\nWho is better @{at}: above 1 the first is, [95 % interval]"
        _print(console, title, _comparison_table(report.comparisons))
    _print_warnings(console, report.warnings)


def print_sweep(report: SweepReport) -> None:
    """A row for each chunk size, the whole ladder, comparisons and warnings."""
    console = _console()
    _say_if_simulated(console, report.ladder)
    title = f"Chunk sizes of one replica: TTFT against that of {report.baseline or 'none'}, room for KV"
    _print(console, title, _sweep_table(report))
    if report.ladder.rungs:
        _print(console, _LADDER, _ladder_table(report.ladder))
    _print_warnings(console, report.ladder.warnings)


def _say_if_simulated(console: Console, report: LadderReport) -> None:
    simulated = sorted({row.simulated for row in report.rows if row.simulated})
    if simulated:
        console.print(f"SIMULATED engines ({' | '.join(simulated)}): no figure below is of hardware.", style="bold red")


def _sweep_table(report: SweepReport) -> Table:
    isl = report.ladder.headline_isl
    table = _new_table()
    at = "" if isl is None else f" @{written(isl)}"
    for column in ("chunk", f"TTFT{at}", "against", "verdict", "KV tokens", "at once", "reads back", "started in"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for one in report.chunks:
        found = None if isl is None else report.ladder.figures(one.name, Rung(isl))
        ratio, verdict = _against(report, one.name)
        ramp = "" if one.ramp_isl is None else f"{one.concurrency} × {written(one.ramp_isl)}"
        table.add_row(
            f"{one.chunk_tokens:,}",
            "" if found is None else f"{found.ttft_ms:,.1f} ms",
            ratio,
            verdict,
            "not said" if one.kv_capacity_tokens is None else f"{one.kv_capacity_tokens:,}",
            ramp,
            "not said" if one.chunk_actual is None else f"{one.chunk_actual:,}",
            f"{one.started_s:,.1f} s" if one.started_s else "",
            one.trouble or one.end,
        )
    return table


def _against(report: SweepReport, name: str) -> tuple[str, str]:
    """The size's TTFT against the baseline's in per cent, with its interval, and what that settles for the size."""
    for one in report.ladder.comparisons:
        ends = (one.ttft_low, one.ttft_high)
        if (one.first, one.second) == (report.baseline, name):
            return _change(one.ttft, *ends), one.ttft_verdict.turned.value
        if (one.first, one.second) == (name, report.baseline):
            low, high = (None if end is None else 1 / end for end in reversed(ends))
            return _change(1 / one.ttft, low, high), one.ttft_verdict.value
    return "", ""


def _change(ratio: float, low: float | None, high: float | None) -> str:
    bounds = "too few repeats" if low is None or high is None else f"{low - 1:+.1%} to {high - 1:+.1%}"
    return f"{ratio - 1:+.1%} [{bounds}]"


def _print_warnings(console: Console, warnings: list[str]) -> None:
    """A line each."""
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow")


def _headline_table(report: LadderReport) -> Table:
    """The layout of the published table: Config, Engine, TP, TTFT and tok/s/GPU of the longest prompts."""
    isl = report.headline_isl
    at = "" if isl is None else f" @{written(isl)}"
    table = _new_table()
    for column in ("Config", "Engine"):
        table.add_column(column)
    for column in ("TP", f"Prefill TTFT{at}", f"Prefill tok/s/GPU{at}", "quartiles", "engine's own prefill", "answers"):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        found = None if isl is None else report.figures(row.name, Rung(isl))
        name = row.config + (" (simulated)" if row.simulated else "")
        if row.planned or found is None:
            table.add_row(name, row.engine, str(row.gpus), _NOT_RUN if row.planned else "no figure", "", "", "", "")
            continue
        table.add_row(
            name,
            row.engine,
            str(row.gpus),
            f"{found.ttft_ms:,.1f} ms",
            f"{found.tokens_per_s_per_gpu:,.0f}",
            f"{found.q1_ms:,.1f} – {found.q3_ms:,.1f}",
            "not said" if found.prefill_ms is None else f"{found.prefill_ms:,.1f} ms",
            str(found.samples),
        )
    return table


def _published_table(report: LadderReport, published: Mapping[str, PublishedRow], speed: float) -> Table:
    assert report.headline_isl is not None  # noqa: S101 - the caller's condition
    table = _new_table()
    table.add_column("", no_wrap=True)
    for column in ("published TTFT", "measured", "published tok/s/GPU", "measured", "by its own TTFT"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, row in published.items():
        found = report.figures(name, Rung(report.headline_isl))
        if found is not None:
            by_ttft = found.isl / row.ttft_ms * 1000 / row.gpus * speed
            ttft, rate = row.ttft_ms / speed, row.tokens_per_s_per_gpu * speed
            table.add_row(
                name,
                f"{ttft:,.1f} ms",
                f"{found.ttft_ms / ttft - 1:+.1%}",
                f"{rate:,.0f}",
                f"{found.tokens_per_s_per_gpu / rate - 1:+.1%}",
                f"{by_ttft:,.0f}",
            )
    return table


def _ladder_table(report: LadderReport) -> Table:
    table = _new_table()
    table.add_column("prompt", no_wrap=True)
    shown = [row for row in report.rows if not row.planned]
    for row in shown:
        table.add_column(row.name, justify="right")
    for rung in sorted({one.rung for one in report.rungs}):
        table.add_row(rung.label, *(_cell(report, row, rung) for row in shown))
    return table


def _cell(report: LadderReport, row: Row, rung: Rung) -> str:
    found = report.figures(row.name, rung)
    if found is None:
        return ""
    return f"{found.ttft_ms:,.1f} ({found.q3_ms - found.q1_ms:,.1f}) {found.tokens_per_s_per_gpu:>8,.0f}"


def _comparison_table(comparisons: list[Comparison]) -> Table:
    table = _new_table()
    table.add_column("first")
    table.add_column("second")
    for column in ("second's TTFT ÷ first's", "TTFT", "first's tok/s/GPU ÷ second's", "per GPU"):
        table.add_column(column)
    for one in comparisons:
        table.add_row(
            one.first,
            one.second,
            _interval(one.ttft, one.ttft_low, one.ttft_high),
            _winner(one, one.ttft_verdict),
            _interval(one.per_gpu, one.per_gpu_low, one.per_gpu_high),
            _winner(one, one.per_gpu_verdict),
        )
    return table


def _interval(ratio: float, low: float | None, high: float | None) -> str:
    bounds = "too few repeats" if low is None or high is None else f"{low:.3f} to {high:.3f}"
    return f"{ratio:.3f} [{bounds}]"


def _winner(one: Comparison, verdict: Verdict) -> str:
    winners = {Verdict.BETTER: one.first, Verdict.WORSE: one.second}
    return f"{winners[verdict]} better" if verdict in winners else verdict.value


def _new_table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False)


def _print(console: Console, title: str, table: Table) -> None:
    """The title is a line of its own, since a table would break it to its own width."""
    console.print(title, style="italic", soft_wrap=True)
    console.print(table)


def _console() -> Console:
    """As wide as the terminal; a file takes any width."""
    console = Console(highlight=False, markup=False)
    return console if console.is_terminal else Console(width=_WIDTH, highlight=False, markup=False)
