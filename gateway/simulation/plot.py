"""The picture of a comparison: how times to first token are spread, and hit rates; does I/O: writes a file."""

from collections.abc import Iterable, Sequence
from colorsys import hsv_to_rgb
from itertools import groupby
from pathlib import Path
from typing import Final

from gateway.simulation.contest import CONTESTANTS, Kind, Outcome

SUFFIXES: Final = (".png", ".svg")
_STYLES: Final = {Kind.OURS: ("-", 2.2), Kind.BASELINE: ("-", 1.0), Kind.BOUND: ("--", 1.4)}
_HUES: Final = 7
_COLOURS: Final = {
    name: hsv_to_rgb(place % _HUES / _HUES, 0.85 - 0.2 * (place // _HUES), 0.9 - 0.25 * (place // _HUES))
    for place, name in enumerate(CONTESTANTS)
}
"""Each policy has the same colour in every picture."""
_POINTS: Final = 400


def write_plot(path: Path, outcomes: Iterable[Outcome]) -> None:
    """A row of two panels for each load, in the order given. The same outcomes give the same SVG. Raises OSError."""
    from matplotlib import rc_context  # takes most of a second to import, and few ask for a picture
    from matplotlib.figure import Figure

    loads = [list(group) for _, group in groupby(outcomes, key=lambda one: (one.row.workload, one.row.load))]
    with rc_context({"svg.hashsalt": "prefixgate", "font.size": 9}):
        figure = Figure(figsize=(13, 5.2 * len(loads)), layout="tight")
        axes = figure.subplots(len(loads), 2, squeeze=False)
        for (curves, bars), group in zip(axes, loads, strict=True):
            row = group[0].row
            at = "" if row.load is None else f" at load {row.load:g}"
            colours = [_COLOURS[one.row.policy] for one in group]
            for one, colour in zip(group, colours, strict=True):
                style, width = _STYLES[CONTESTANTS[one.row.policy].kind]
                times, shares = _curve(one.ttfts_s)
                curves.plot(times, shares, style, linewidth=width, color=colour, label=one.row.policy)
            curves.set(xscale="log", xlabel="time to first token, s", ylabel="share of requests", ylim=(0, 1))
            curves.set_title(f"{row.workload}{at}")
            curves.grid(alpha=0.3)
            curves.legend(fontsize=7)
            bars.barh(
                [one.row.policy for one in group], [100 * (one.row.hit_rate or 0.0) for one in group], color=colours
            )
            bars.invert_yaxis()
            bars.set(xlabel="hit rate, % of prompt tokens")
            bars.grid(axis="x", alpha=0.3)
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _curve(ttfts_s: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points of the cumulative distribution, not more of them than can be seen."""
    count = len(ttfts_s)
    places = sorted({round(step * (count - 1) / _POINTS) for step in range(_POINTS + 1)})
    return [max(ttfts_s[place], 1e-3) for place in places], [(place + 1) / count for place in places]
