"""A report as one HTML page that needs nothing else: verdict, plots, tables; reads its template, else pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from gateway.experiments.growth import looks
from gateway.experiments.metrics import METRICS
from gateway.experiments.observations import Observations
from gateway.experiments.plots import by_stratum, colour, effect, hit_rates, ttft_distribution
from gateway.experiments.report import Figure, Report, Scale
from gateway.experiments.sample import samples
from gateway.experiments.terms import Terms
from gateway.experiments.words import quantity, signed, span, tokens_and_cached

_LOOKS = 30


@dataclass(frozen=True, slots=True)
class _Plot:
    caption: str
    note: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class _Row:
    title: str
    cells: tuple[str, ...]


def page(report: Report, observations: Observations, terms: Terms) -> str:
    """The HTML of a report on these observations, which are looked at again for the plots."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    template = environment.from_string((files("gateway.experiments") / "page.html").read_text("utf-8"))
    return template.render(
        report=report,
        control=terms.against,
        running=_duration(report.running_s),
        plots=list(_plots(report, observations, terms)),
        figures=list(_rows(report)),
        title=lambda metric: METRICS[metric].title,
        swatch=lambda place: Markup('<span class="swatch" style="background:{}"></span>').format(colour(place)),
        change=_change,
        span=span,
        percent=lambda share: f"{share * 100:.3g} %",
        quantity=quantity,
        stratum=tokens_and_cached,
    )


def _plots(report: Report, observations: Observations, terms: Terms) -> Iterator[_Plot]:
    metric = METRICS[terms.metric]
    tie = (terms.tie_percent if metric.scale == "relative" else terms.tie_points) / 100
    grown = looks(observations, terms, _LOOKS)
    names = [arm.name for arm in report.arms]
    yield _Plot(
        f"{metric.title}: change against {terms.against}",
        "As observations came in, with the always-valid interval; the grey band counts as a tie.",
        Markup(effect(grown, names, (-tie, tie))),  # noqa: S704  our own drawing, without a name in it
    )
    yield _Plot(
        "Time to first token",
        "The share of requests that had their first token by then.",
        Markup(ttft_distribution(samples(observations, terms))),  # noqa: S704
    )
    yield _Plot("Hit rate", "Cached of all prompt tokens, by the engines' word.", Markup(hit_rates(report)))  # noqa: S704
    yield _Plot(
        "Time to first token of alike requests",
        "By prompt tokens and the part of them that was cached; the strata with the most requests.",
        Markup(by_stratum(report.strata)),  # noqa: S704
    )


def _rows(report: Report) -> Iterator[_Row]:
    """A row for each metric that any arm has."""
    found = [{one.metric: one for one in arm.figures} for arm in report.arms]
    for name, metric in METRICS.items():
        if any(name in figures for figures in found):
            yield _Row(metric.title, tuple(_cell(figures.get(name)) for figures in found))


def _cell(figure: Figure | None) -> str:
    if figure is None or figure.value is None:
        return "–"
    low, high = quantity(figure.low, figure.measure), quantity(figure.high, figure.measure)
    return f"{quantity(figure.value, figure.measure)} ({low} to {high})"


def _change(change: float | None, scale: Scale) -> str:
    return "–" if change is None else signed(change, scale)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} seconds"
