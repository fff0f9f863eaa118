"""The tables of `prefixgate simulate`; does I/O: prints."""

from collections.abc import Sequence
from itertools import groupby
from string import ascii_uppercase
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from gateway.simulation.contest import CONTESTANTS, OURS, Contestant, Kind
from gateway.simulation.matrix import ratios, summaries
from gateway.simulation.results import Row

_WIDTH: Final = 180
_OUR_READING: Final = (
    "Published policies are our reading of their definitions, sources in `prefixgate simulate --policy list`; pooled "
    "bounds give all engines one cache."
)


def print_contestants(*, as_json: bool) -> None:
    """Every policy that can be named, what it is, and whose."""
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(list(CONTESTANTS.values())), indent=2).decode())
        return
    table = _table("Policies that can be compared; baselines are our reading of what was published")
    for column in ("policy", "kind", "source"):
        table.add_column(column, no_wrap=column != "source", overflow="fold")
    for one in CONTESTANTS.values():
        table.add_row(one.name, one.kind, one.source)
    _console().print(table)


def print_rows(rows: Sequence[Row]) -> None:
    """A section for each load: rows of the lowest mean first, and each mean over the best baseline's."""
    table = _table(f"{rows[0].workload}: simulated in virtual time; TTFT from arrival to first token")
    table.add_column("policy", no_wrap=True)
    for column in ("load", "hit rate", "mean ms", "p50 ms", "p90 ms", "p99 ms", "÷ best baseline", "broken"):
        table.add_column(column, justify="right", no_wrap=True)
    for _, group in groupby(rows, key=lambda row: (_is_recorded(row), row.load)):
        section = list(group)
        baselines = [row for row in section if _kind(row) is Kind.BASELINE and row.ttft_mean_ms]
        best = min(baselines, key=lambda row: row.ttft_mean_ms or 0.0, default=None)
        for row in section:
            table.add_row(*_cells(row, best), style="bold" if row.policy == OURS else None)
        table.add_section()
    console = _console()
    console.print(table)
    if any(_kind(row) is not Kind.OURS and not _is_recorded(row) for row in rows):
        console.print(f"* best baseline. {_OUR_READING}", highlight=False)


def _cells(row: Row, best: Row | None) -> list[str]:
    mark = ""
    if best is row:
        mark = " *"
    elif _kind(row) is Kind.BOUND:
        mark = " (bound)"
    over = "" if best is None or not best.ttft_mean_ms or row.ttft_mean_ms is None else (
        f"{row.ttft_mean_ms / best.ttft_mean_ms:.2f}"
    )  # fmt: skip
    times = (row.ttft_mean_ms, row.ttft_p50_ms, row.ttft_p90_ms, row.ttft_p99_ms)
    return [
        row.policy + mark,
        "" if row.load is None else f"{row.load:.3g}",
        "" if row.hit_rate is None else f"{row.hit_rate:.1%}",
        *("" if time is None else f"{time:,.0f}" for time in times),
        over,
        str(row.broken) if row.broken else "",
    ]


def print_matrix(rows: Sequence[Row]) -> None:
    """A line for each workload, then each baseline's mean over ours by workload."""
    lines = summaries(rows)
    letters = [_letter(place) for place in range(len(lines))]
    console = _console()
    table = _table(
        f"`{OURS}` against the best baseline of each workload; ratios are ours over theirs, below 1 ours is faster"
    )
    table.add_column("")
    table.add_column("workload", no_wrap=True)
    table.add_column("load", justify="right")
    table.add_column("best baseline", no_wrap=True)
    for column in ("its mean ms", "our mean ms", "mean", "p90", "hit rate", "pooled bound"):
        table.add_column(column, justify="right")
    table.add_column("worst baseline, over ours", no_wrap=True)
    for letter, one in zip(letters, lines, strict=True):
        table.add_row(
            letter,
            one.workload,
            "" if one.load is None else f"{one.load:g}",
            one.best,
            f"{one.best_mean_ms:,.0f}",
            f"{one.ours_mean_ms:,.0f}",
            f"{one.mean_ratio:.2f}",
            f"{one.p90_ratio:.2f}",
            f"{one.hit_ratio:.2f}",
            "" if one.bound_ratio is None else f"{one.bound_ratio:.2f}",
            f"{one.worst} {one.worst_ratio:.1f}×",
        )
    console.print(table)
    console.print(f"p90 and hit rate are against the baseline that is best at that. {_OUR_READING}\n", highlight=False)
    console.print(_ratio_table(rows, letters))


def _ratio_table(rows: Sequence[Row], letters: Sequence[str]) -> Table:
    table = _table("Each baseline's mean TTFT over ours, by workload as lettered above: above 1 ours is faster")
    table.add_column("baseline", no_wrap=True)
    for letter in (*letters, "worst"):
        table.add_column(letter, justify="right")
    for name, figures in ratios(rows).items():
        table.add_row(name, *(_short(figure) for figure in figures), _short(max(figures)))
    return table


def _letter(place: int) -> str:
    turns, place = divmod(place, len(ascii_uppercase))
    return ascii_uppercase[place] * (turns + 1)


def _short(ratio: float) -> str:
    return f"{ratio:.2f}" if ratio < 10 else f"{ratio:,.0f}"


def _kind(row: Row) -> Kind | None:
    known: Contestant | None = CONTESTANTS.get(row.policy)
    return None if known is None else known.kind


def _is_recorded(row: Row) -> bool:
    return row.policy not in CONTESTANTS


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)


def _console() -> Console:
    """As wide as the terminal; a file takes any width."""
    console = Console()
    return console if console.is_terminal else Console(width=_WIDTH)
