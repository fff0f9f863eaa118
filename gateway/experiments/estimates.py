"""Estimates that know their limits: means, shares and quantiles of requests that come in units; pure.

Each gives, for a critical value of Student's or the normal distribution, the limits that the true value lies between.
An open end is infinite, or 0 where there is nothing below.
"""

from dataclasses import dataclass, replace
from math import exp, inf, sqrt
from typing import Protocol

import numpy as np

from gateway.experiments.clusters import Floats, Places, Spread, spread


class Estimate(Protocol):
    """A number with its sampling error."""

    @property
    def value(self) -> float:
        """The estimate itself; NaN where there is none."""

    @property
    def spread(self) -> Spread:
        """What stands behind it."""

    def limits(self, critical: float) -> tuple[float, float]:
        """The values that lie `critical` standard errors away."""


@dataclass(frozen=True, slots=True)
class Positive:
    """A quantity above zero: its logarithm is taken to be normal. `spread.error` is relative."""

    value: float
    spread: Spread

    def limits(self, critical: float) -> tuple[float, float]:
        """Symmetric as factors."""
        reach = critical * self.spread.error
        if not self.value > 0 or not reach < 500:
            return 0.0, inf
        return self.value * exp(-reach), self.value * exp(reach)


@dataclass(frozen=True, slots=True)
class Share:
    """A share of a total, by Wilson's interval: `sample` independent draws would be as sure."""

    value: float
    spread: Spread
    sample: float

    def limits(self, critical: float) -> tuple[float, float]:
        """Within 0 and 1, also where the share is one of them."""
        if not self.sample > 0:
            return 0.0, 1.0
        more = critical**2 / self.sample
        middle = (self.value + more / 2) / (1 + more)
        reach = sqrt(more * (self.value * (1 - self.value) + more / 4)) / (1 + more)
        return max(middle - reach, 0.0), min(middle + reach, 1.0)


@dataclass(frozen=True, slots=True)
class Quantile:
    """A quantile of `values`, ascending, whose share up to and with each is `shares`.

    Woodruff's interval (1952): the quantile lies where the distribution function, whose error respects units, is as
    high as it should be give or take that error. It needs no density, and it holds where a distribution has gaps.
    """

    level: float
    values: Floats
    shares: Floats
    spread: Spread

    @property
    def value(self) -> float:
        """The least value with at least `level` of the requests at or below it."""
        return self._at(self.level)

    def limits(self, critical: float) -> tuple[float, float]:
        """Open above where the tail has too few requests."""
        reach = critical * self.spread.error
        low, high = self.level - reach, self.level + reach
        return (self._at(low) if low > 0 else 0.0), (self._at(high) if high < 1 else inf)

    def _at(self, share: float) -> float:
        if not len(self.values):
            return np.nan
        return float(self.values[min(int(np.searchsorted(self.shares, share)), len(self.values) - 1)])


def mean(values: Floats, unit: Places) -> Positive:
    """The mean of positive values, one a request."""
    if not len(values):
        return Positive(np.nan, spread(values, values, unit))
    middle = float(values.mean())
    if middle <= 0:
        return Positive(np.nan, spread(values, np.ones_like(values), unit))
    return Positive(middle, spread(values / middle - 1.0, np.ones_like(values), unit))


def total(values: Floats, unit: Places) -> Positive:
    """The sum of positive values over units that come at random."""
    sums = np.bincount(unit, values) if len(values) else np.zeros(0)
    whole = float(sums.sum())
    if whole <= 0:
        return Positive(np.nan, spread(values, values, unit))
    behind = spread(values, values, unit)
    error = sqrt(float(np.sum(sums**2))) / whole if behind.units > 1 else inf
    return Positive(whole, Spread(error, behind.requests, behind.units, behind.effective_units))


def share(parts: Floats, wholes: Floats, unit: Places) -> Share:
    """A ratio of sums, `parts` being parts of `wholes`."""
    whole = float(wholes.sum())
    if whole <= 0:
        return Share(np.nan, spread(parts[:0], wholes[:0], unit[:0]), 0.0)
    ratio = min(max(float(parts.sum()) / whole, 0.0), 1.0)
    behind = spread(parts - ratio * wholes, wholes, unit)
    variance = behind.error**2
    if variance > 0:
        return Share(ratio, behind, ratio * (1 - ratio) / variance)
    return Share(ratio, behind, behind.effective_units)  # all or none in every unit


def rate(events: Floats, unit: Places) -> Share:
    """How often something rare happens, one entry a request.

    What was not seen may still happen, and to a whole unit at once: the error is that of one more average unit to which
    it always happened, and the rate that it is weighed against has one more of each kind. So no event in 50 units
    says as much as none in 50 draws, whatever the number of requests.
    """
    if not len(events):
        return Share(np.nan, spread(events, events, unit), 0.0)
    seen = float(events.mean())
    behind = spread(events - seen, np.ones_like(events), unit)
    if behind.units < 2:
        return Share(seen, behind, behind.effective_units)
    unseen = 1.0 / behind.units
    variance = behind.error**2 + (max(seen, 1 - seen) * unseen) ** 2
    likely = (seen + unseen) / (1 + 2 * unseen)
    return Share(seen, behind, likely * (1 - likely) / variance)


def quantile(values: Floats, unit: Places, level: float) -> Quantile:
    """The `level` quantile of values, one a request, in any order."""
    return quantiles(values, unit, (level,))[0]


def chance(level: float, requests: int) -> float:
    """The error that independent requests would have; no more is known when too few are above the level."""
    return sqrt(level * (1 - level) / requests)


def quantiles(values: Floats, unit: Places, levels: tuple[float, ...]) -> tuple[Quantile, ...]:
    """Several of them, which sorts once."""
    ascending = np.sort(values)
    shares = np.arange(1, len(values) + 1) / max(len(values), 1)
    ones = np.ones_like(values)

    def one(level: float) -> Quantile:
        bare = Quantile(level, ascending, shares, spread(ones[:0], ones[:0], unit[:0]))
        if not len(values):
            return bare
        below = (values <= bare.value).astype(np.float64)
        behind = spread(below - below.mean(), ones, unit)
        return Quantile(level, ascending, shares, replace(behind, error=max(behind.error, chance(level, len(values)))))

    return tuple(one(level) for level in levels)


def weighted_median(values: Floats, unit: Places, weights: Floats, stratum: Places) -> Quantile:
    """The median when each request counts by its weight, and strata have the shares that the weights give them.

    How many requests of a stratum there were is then no matter of chance, so a residual is measured from its own
    stratum's part below the median (post-stratification). A unit draws that part to itself, the more the more of the
    stratum it holds, which CR2's divisor undoes; no unit may hold a whole stratum.
    """
    order = np.argsort(values)
    running = np.cumsum(weights[order])
    shares = running / running[-1] if len(running) else running
    bare = Quantile(0.5, values[order], shares, spread(values[:0], values[:0], unit[:0]))
    if not len(values):
        return bare
    below = (values <= bare.value).astype(np.float64)
    own = np.bincount(stratum, below) / np.maximum(np.bincount(stratum), 1)
    residuals = (below - own[stratum]) / np.sqrt(1.0 - held(unit, stratum))
    return Quantile(0.5, bare.values, shares, spread(weights * residuals, weights, unit))


def held(unit: Places, stratum: Places) -> Floats:
    """For each request, what part of its stratum's requests its unit holds."""
    pairs, counts = np.unique(stratum * (unit.max(initial=0) + 1) + unit, return_inverse=True, return_counts=True)[1:]
    parts: Floats = counts[pairs] / np.bincount(stratum)[stratum]
    return parts
