"""The tables of `prefixgate probe`: scores, and the answers that differ side by side; pure."""

from rich import box
from rich.markup import escape
from rich.table import Table

from gateway.probe.comparison import Comparison
from gateway.probe.pairing import Pair, Side

_SHOWN = 300
"""Characters of an answer: its end, where the number is."""


def scores_table(comparison: Comparison) -> Table:
    """A row for each target."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("target", "right", "accuracy", "95 % interval", "cut off", "unanswered", "tokens", "seconds"):
        table.add_column(column, justify="left" if column == "target" else "right")
    for one in comparison.scores:
        table.add_row(
            escape(one.target),
            f"{one.right}/{comparison.compared}",
            f"{one.accuracy:.1%}",
            f"{one.low:.1%} to {one.high:.1%}",
            str(one.cut),
            str(one.unanswered),
            f"{one.mean_tokens:.0f}",
            f"{one.mean_seconds:.2f}",
        )
    return table


def differing_table(comparison: Comparison) -> Table:
    """The questions whose answers differ in anything, those with different numbers first."""
    table = Table(box=box.SIMPLE_HEAD, show_lines=True)
    table.add_column("question", max_width=24)
    for score in comparison.scores:
        table.add_column(escape(score.target), ratio=1)
    table.add_column("first difference", max_width=28)
    differing = [one for one in comparison.pairs if one.divergence is not None]
    for one in sorted(differing, key=lambda pair: pair.same_answer):
        table.add_row(f"{escape(one.id)}\n= {one.answer}", _side(one.left), _side(one.right), _where(one))
    return table


def _side(side: Side) -> str:
    colour = "green" if side.right else "red"
    text = side.text if len(side.text) <= _SHOWN else "…" + side.text[-_SHOWN:]
    return f"[{colour}]{escape(side.number)}[/]\n[dim]{escape(text)}[/]"


def _where(pair: Pair) -> str:
    parts = pair.divergence
    if parts is None:
        return ""
    return escape(f"{parts.unit} {parts.at}: {parts.left!r} and {parts.right!r}")
