"""An arm against the control in one metric: change, always-valid interval, verdict, units still needed; pure."""

from math import ceil, expm1, inf, isfinite, log1p
from typing import Final

import msgspec

from gateway.experiments.always_valid import Contrast, contrast
from gateway.experiments.estimates import Estimate
from gateway.experiments.metrics import Metric
from gateway.experiments.outlook import outlook
from gateway.experiments.report import Comparison, Scale, Verdict
from gateway.experiments.terms import Terms
from gateway.experiments.words import comparison_sentence

LEAST_UNITS: Final = 3.0
"""No verdict with fewer effective units in an arm: what such a sample says of its own error is worth nothing."""


def compare(metric: Metric, arm: str, of_arm: Estimate, of_control: Estimate, terms: Terms) -> Comparison:
    """The comparison of an arm with the control; `metric` has a scale."""
    scale = metric.scale
    if scale is None:
        raise ValueError(f"arms are not compared in {metric.name}")
    between = contrast(scale, of_arm, of_control)
    change, low, high, needed = None, -inf, inf, None
    verdict: Verdict = "unclear"
    if between is not None:
        change = shown(scale, between.change)
        low, high = comparable_interval(between, split_alpha(terms))
        verdict = _verdict(between.change, low, high, tie_band(scale, terms), metric.lower_is_better)
        needed = _needed(between, terms) if verdict == "unclear" else 0
    low, high = shown(scale, low), shown(scale, high)
    bare = Comparison(metric.name, scale, arm, terms.against, change, finite(low), finite(high), verdict, needed, "")
    return msgspec.structs.replace(
        bare, sentence=comparison_sentence(bare, metric.title, metric.lower_is_better, terms)
    )


def split_alpha(terms: Terms) -> float:
    """The rate of false verdicts for each arm but the control, so that all together have `alpha` (Bonferroni)."""
    return terms.alpha / max(len(terms.arms) - 1, 1)


def comparable_interval(between: Contrast, alpha: float) -> tuple[float, float]:
    """The always-valid interval; without ends where an arm has too few units for any."""
    fewest = min(between.arm.spread.effective_units, between.against.spread.effective_units)
    return between.always_valid(alpha) if fewest >= LEAST_UNITS else (-inf, inf)


def tie_band(scale: Scale, terms: Terms) -> tuple[float, float]:
    """The changes that count as none, on the working scale."""
    if scale == "points":
        return -terms.tie_points / 100, terms.tie_points / 100
    part = min(terms.tie_percent / 100, 0.99)
    return log1p(-part), log1p(part)


def shown(scale: Scale, change: float) -> float:
    """A change on the working scale as a report gives it."""
    return expm1(change) if scale == "relative" and change < inf else change


def finite(value: float) -> float | None:
    """None for what is open. A relative change of -1, all of it, is open too."""
    return value if isfinite(value) and value > -1 else None


def _verdict(change: float, low: float, high: float, tie: tuple[float, float], lower_is_better: bool) -> Verdict:
    """A change that counts as none makes no arm better or worse, however surely it is not 0."""
    if tie[0] <= low and high <= tie[1]:
        return "tie"
    if high < 0 and change < tie[0]:
        return "better" if lower_is_better else "worse"
    if low > 0 and change > tie[1]:
        return "worse" if lower_is_better else "better"
    return "unclear"


def _needed(between: Contrast, terms: Terms) -> int | None:
    """Further units of both arms until the interval, about the same change, leaves out 0 or fits the tie band."""
    low, high = tie_band(between.scale, terms)
    outside = between.change < low or between.change > high
    target = abs(between.change) if outside else min(high - between.change, between.change - low)
    times = outlook(between, split_alpha(terms)).times_until(target) if target > 0 else inf
    units = between.arm.spread.units + between.against.spread.units
    return max(ceil(units * (times - 1)), 1) if times < inf else None
