"""The plots of an experiment as inline SVG, of the page's own ink and without any name in them; pure."""

import io
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from gateway.experiments.growth import Look
from gateway.experiments.report import Report, Stratum
from gateway.experiments.sample import Sample
from gateway.experiments.words import tokens_and_cached

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS: Final = ("#3b82d6", "#e07b39", "#3fa36b", "#b05fc4", "#c9a227", "#d65a6f", "#5aa9b8", "#8a8f3c")
"""One for each arm, in the report's order; seen on white and on black. Further arms begin again."""
_INK: Final = "#010203"
"""Stands for the page's own colour of text until the SVG is done."""
_POINTS: Final = 300
_MOST_STRATA: Final = 14


def colour(place: int) -> str:
    """That of an arm."""
    return COLOURS[place % len(COLOURS)]


def ttft_distribution(samples: Sequence[Sample]) -> str:
    """The share of an arm's requests with at most that TTFT."""
    times = [np.sort(sample.known(sample.observations.ttft_s)[0]) for sample in samples]
    if not any(len(one) for one in times):
        return ""

    def draw(axes: "Axes") -> None:
        for place, one in enumerate(times):
            if len(one):
                at = np.unique(np.linspace(0, len(one) - 1, _POINTS).astype(int))
                axes.step(np.maximum(one[at], 1e-4), (at + 1) / len(one), where="post", color=colour(place))
        axes.set(xscale="log", xlabel="time to first token, s", ylabel="share of requests", ylim=(0, 1))

    return _svg("distribution", 3.4, draw)


def effect(looks: Sequence[Look], arms: Sequence[str], tie: tuple[float, float]) -> str:
    """Each arm's change against the control with its always-valid interval, as observations came in."""
    lines = {
        place: [(look.at_s, one) for look in looks for one in look.comparisons if one.arm == name]
        for place, name in enumerate(arms)
    }
    known = {
        place: [
            (at, one.change, one.low, one.high)
            for at, one in line
            if one.change is not None and one.low is not None and one.high is not None
        ]
        for place, line in lines.items()
    }
    if not any(known.values()):
        return ""
    unit = 3600.0 if looks[-1].at_s >= 7200 else 60.0

    def draw(axes: "Axes") -> None:
        axes.axhspan(100 * tie[0], 100 * tie[1], color=_INK, alpha=0.1, linewidth=0)
        axes.axhline(0, color=_INK, linewidth=0.8)
        bottom, top = (200 * end for end in tie)
        for place, line in known.items():
            if line:
                at, change, low, high = np.array(line).T * np.array([[1 / unit], [100], [100], [100]])
                axes.fill_between(at, low, high, color=colour(place), alpha=0.25, linewidth=0)
                axes.plot(at, change, color=colour(place))
                bottom = min(bottom, change[-1] - 3 * (change[-1] - low[-1]))
                top = max(top, change[-1] + 3 * (high[-1] - change[-1]))
        axes.set(xlabel="hours" if unit == 3600 else "minutes", ylabel="change, % or points", ylim=(bottom, top))

    return _svg("effect", 3.4, draw)


def hit_rates(report: Report) -> str:
    """Each arm's hit rate with its interval."""
    rates = [next((one for one in arm.figures if one.metric == "hit_rate"), None) for arm in report.arms]
    if not any(one is not None and one.value is not None for one in rates):
        return ""

    def draw(axes: "Axes") -> None:
        for place, one in enumerate(rates):
            if one is None or one.value is None:
                continue
            axes.barh(place, 100 * one.value, color=colour(place), height=0.6)
            if one.low is not None and one.high is not None:
                axes.plot([100 * one.low, 100 * one.high], [place, place], color=_INK, linewidth=2)
        axes.set(xlabel="hit rate, % of prompt tokens", xlim=(0, 100), ylim=(len(rates) - 0.5, -0.5), yticks=[])

    return _svg("hit-rate", 0.9 + 0.35 * len(rates), draw)


def by_stratum(strata: Sequence[Stratum]) -> str:
    """Each arm's TTFT p50 in the strata with the most requests."""
    most = sorted(strata, key=lambda one: -one.share)[:_MOST_STRATA]
    drawn = [one for one in strata if one in most and any(arm.ttft_p50_s is not None for arm in one.arms)]
    if not drawn:
        return ""

    def draw(axes: "Axes") -> None:
        for line, stratum in enumerate(drawn):
            for place, arm in enumerate(stratum.arms):
                if arm.ttft_p50_s is not None:
                    axes.plot(max(arm.ttft_p50_s, 1e-4), line, "o", color=colour(place), markersize=6, alpha=0.85)
        axes.set(xscale="log", xlabel="TTFT p50, s", ylim=(len(drawn) - 0.5, -0.5))
        axes.set_yticks(range(len(drawn)), [tokens_and_cached(one.prompt_tokens, one.cached_fraction) for one in drawn])

    return _svg("strata", 1.0 + 0.26 * len(drawn), draw)


def _svg(name: str, height: float, draw: "Callable[[Axes], None]") -> str:
    """The same plot gives the same text. `name` keeps its identifiers apart from those of other plots on the page."""
    from matplotlib import rc_context  # takes most of a second to import, and only a page needs it
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(
        {
            "text.color": _INK,
            "axes.labelcolor": _INK,
            "axes.edgecolor": _INK,
            "xtick.color": _INK,
            "ytick.color": _INK,
            "svg.fonttype": "none",
            "svg.hashsalt": name,
            "font.size": 9,
        }
    ):
        figure = Figure(figsize=(7.2, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.grid(alpha=0.25, color=_INK)
        axes.spines[["top", "right"]].set_visible(False)
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
