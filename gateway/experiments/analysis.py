"""From observations to a report; pure."""

from collections.abc import Sequence
from math import isfinite

from scipy.special import ndtri

from gateway.experiments.always_valid import contrast, student
from gateway.experiments.comparing import compare
from gateway.experiments.doubts import doubts
from gateway.experiments.estimates import Estimate
from gateway.experiments.guardrails import breaches
from gateway.experiments.metrics import METRICS, PRIMARY, estimates
from gateway.experiments.observations import Observations
from gateway.experiments.promises import promises
from gateway.experiments.report import ArmReport, Comparison, Figure, Power, Report, SampleRatio
from gateway.experiments.sample import Sample, running_s, samples
from gateway.experiments.sample_ratio import sample_ratio
from gateway.experiments.separation import separate
from gateway.experiments.strata import strata, timed
from gateway.experiments.terms import Terms


def analyse(name: str, observations: Observations, terms: Terms) -> Report:
    """Everything that may be said of an experiment so far. Raises ValueError for a metric it cannot be judged by."""
    if terms.metric not in PRIMARY:
        raise ValueError(f"experiments are judged by one of {', '.join(PRIMARY)}, not by {terms.metric}")
    arms = samples(observations, terms)
    found = {arm.terms.name: estimates(arm) for arm in arms}
    reports = tuple(_arm_report(arm, found[arm.terms.name], terms) for arm in arms)
    control = found.get(terms.against, {})
    others = [name for name in found if name != terms.against] if control else []
    comparisons = tuple(
        compare(METRICS[metric], other, found[other][metric], control[metric], terms)
        for other in others
        for metric in PRIMARY
    )
    times = {arm.terms.name: timed(arm) for arm in arms}
    ratio = sample_ratio([arm.terms for arm in arms], [arm.units for arm in arms])
    return Report(
        name=name,
        unit=terms.unit,
        metric=terms.metric,
        alpha=terms.alpha,
        confidence=terms.confidence,
        running_s=running_s(observations, terms),
        arms=reports,
        comparisons=comparisons,
        sample_ratio=ratio,
        strata=strata(tuple(times.values())),
        separations=tuple(separate(times[other], times[terms.against], terms) for other in others),
        power=tuple(
            line
            for other in others
            for line in _promised(other, found[other][terms.metric], control[terms.metric], terms)
        ),
        breaches=breaches(arms, terms),
        warnings=tuple(doubts(observations, arms, reports, terms)),
        sentence=_headline(comparisons, ratio, terms),
    )


def _arm_report(arm: Sample, found: dict[str, Estimate], terms: Terms) -> ArmReport:
    rows, of = arm.rows, arm.observations
    return ArmReport(
        name=arm.terms.name,
        weight=arm.terms.weight,
        units=arm.units,
        requests=len(arm),
        crossed=int(of.crossed[rows].sum()),
        failed=int(of.failed[rows].sum()),
        refused=int(of.refused[rows].sum()),
        figures=tuple(figure(name, estimate, terms) for name, estimate in found.items()),
    )


def figure(name: str, estimate: Estimate, terms: Terms) -> Figure:
    """An estimate with its interval for one look; without where the units are too few for any."""
    behind = estimate.spread
    low: float | None = None
    high: float | None = None
    critical = student(float(ndtri(0.5 + terms.confidence / 2)), behind.degrees)
    if isfinite(critical) and isfinite(behind.error):
        low, high = (end if isfinite(end) else None for end in estimate.limits(critical))
    value = estimate.value if isfinite(estimate.value) else None
    measure = METRICS[name].measure
    return Figure(name, measure, value, low, high, behind.requests, behind.units, behind.effective_units)


def _promised(arm: str, of_arm: Estimate, of_control: Estimate, terms: Terms) -> tuple[Power, ...]:
    metric = METRICS[terms.metric]
    between = contrast(metric.scale, of_arm, of_control) if metric.scale is not None else None
    return tuple(promises(arm, between, metric, terms)) if between is not None else ()


def _headline(comparisons: Sequence[Comparison], ratio: SampleRatio, terms: Terms) -> str:
    """The verdicts in the primary metric; a failed sample-ratio check comes first."""
    said = [one.sentence for one in comparisons if one.metric == terms.metric]
    if not ratio.ok:
        said.insert(0, f"Not to be trusted: {ratio.sentence}")
    return " ".join(said) or "Not enough data: there are no two arms to compare."
