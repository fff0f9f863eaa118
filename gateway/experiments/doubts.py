"""What a reader should know before believing a report: warnings; pure."""

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from gateway.experiments.observations import Observations
from gateway.experiments.report import ArmReport
from gateway.experiments.sample import Sample
from gateway.experiments.terms import Terms, UnitKind
from gateway.experiments.words import units

FEW_UNITS: Final = 20.0
"""Effective units of an arm below which its intervals are warned of; `make bench-experiments` shows their coverage."""
_LARGE: Final = 0.2
_SMALLER_UNIT: Final[dict[UnitKind, str]] = {
    "tenant": "by prefix family or session",
    "prefix-family": "by session",
    "session": "by request",
}


def doubts(
    observations: Observations, arms: Sequence[Sample], reports: Sequence[ArmReport], terms: Terms
) -> Iterator[str]:
    """The warnings, the gravest first."""
    yield from _strangers(observations, terms)
    if terms.unit == "request":
        yield (
            "Each request is assigned on its own: every arm computes and keeps every prefix, so a cache holds half as"
            " much, and hit rates are lower than either arm would have alone. Randomise by prefix family."
        )
    for arm, report in zip(arms, reports, strict=True):
        yield from _of_arm(arm, report, terms)
    moved = sum(arm.units for arm in arms) - len(np.unique(observations.unit[_declared(observations, terms)]))
    if moved:
        yield f"{units(moved).capitalize()} changed arms, as weights were changed: each counts in every arm it was in."


def _declared(observations: Observations, terms: Terms) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    names = {arm.name for arm in terms.arms}
    known = [place for place, name in enumerate(observations.arms) if name in names]
    return np.isin(observations.arm, known)


def _strangers(observations: Observations, terms: Terms) -> Iterator[str]:
    left_out = int(np.count_nonzero(~_declared(observations, terms)))
    if left_out:
        yield f"{left_out:,} requests of arms that the experiment no longer has are left out."


def _of_arm(arm: Sample, report: ArmReport, terms: Terms) -> Iterator[str]:
    if not len(arm):
        yield f"{report.name} has had no requests."
        return
    largest = int(np.bincount(arm.unit).max()) / len(arm)
    if largest >= _LARGE and terms.unit in _SMALLER_UNIT:
        yield (
            f"The largest unit holds {largest:.0%} of the requests of {report.name}: randomise"
            f" {_SMALLER_UNIT[terms.unit]}."
        )
    primary = next((figure for figure in report.figures if figure.metric == terms.metric), None)
    if primary is not None and 0 < primary.effective_units < FEW_UNITS:
        yield (
            f"The {units(primary.units)} of {report.name} tell as much of their own spread as"
            f" {primary.effective_units:.1f} equal ones would: its intervals are wide, and less sure than they say."
        )
    if report.crossed:
        yield (
            f"{report.crossed:,} requests of {report.name} ({report.crossed / len(arm):.1%}) were answered outside of"
            " it: they count as its errors and failovers, and are left out of its times, tokens and hit rate."
        )
