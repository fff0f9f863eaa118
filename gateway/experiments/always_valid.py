"""Intervals that hold however often one looks; pure.

The estimates of an experiment, looked at as it grows, move like a Brownian motion whose clock is the information
1 / error². Robbins' mixture of the likelihood ratio over changes that are normal with deviation `expected` exceeds
1 / alpha with a chance of at most alpha, ever (Ville's inequality). The interval is that of the changes it has not
exceeded: Johari, Pekelis & Walsh, arXiv 1512.04922 (mSPRT); for any variable with an estimated variance Waudby-Smith,
Arbour, Sinha, Kennedy & Ramdas, arXiv 2103.06476, theorem 2.2, whose rho² t is `expected`² / error² here.
"""

from dataclasses import dataclass
from math import exp, hypot, inf, isfinite, log, log1p, sqrt
from typing import Final

from scipy.special import log_ndtr, stdtrit

from gateway.experiments.estimates import Estimate
from gateway.experiments.report import Scale

EXPECTED: Final[dict[Scale, float]] = {"relative": 0.15, "points": 0.08}
"""The deviation of the mixture, set beforehand: for changes about this size the interval is narrowest."""
_USUAL: Final = 1.96
_LEAST_ERROR: Final = 1e-6
ENDLESS: Final = 30.0
"""So many standard errors are as good as infinitely many."""


def boundary(error: float, expected: float, alpha: float) -> float:
    """How many standard errors the estimate may ever be away from the truth, now that this is its standard error."""
    if not error < inf:
        return inf
    ratio = (max(error, _LEAST_ERROR) / expected) ** 2
    return sqrt((1 + ratio) * (2 * log(1 / alpha) + log1p(1 / ratio)))


def student(critical: float, degrees: float) -> float:
    """The value of Student's distribution that is as rare as this one of the normal; infinite below one degree."""
    if degrees < 1 or not critical < ENDLESS:
        return inf
    return -float(stdtrit(degrees, exp(float(log_ndtr(-critical)))))


@dataclass(frozen=True, slots=True)
class Contrast:
    """An arm's estimate against the control's: logarithms of factors on the relative scale, else differences."""

    scale: Scale
    change: float
    error: float
    degrees: float
    arm: Estimate
    against: Estimate

    def interval(self, critical: float) -> tuple[float, float]:
        """The changes at most `critical` standard errors away, by MOVER (Zou & Donner 2008).

        The limits of each estimate are joined, each on its own side, so that they need not be symmetric.
        """
        if not critical < inf:
            return -inf, inf
        arm, against = _placed(self.scale, self.arm, critical), _placed(self.scale, self.against, critical)
        low = self.change - hypot(arm.value - arm.low, against.high - against.value)
        high = self.change + hypot(arm.high - arm.value, against.value - against.low)
        return low, high

    def always_valid(self, alpha: float) -> tuple[float, float]:
        """The interval that excludes the true change at any look at all with a chance of at most `alpha`."""
        return self.interval(student(boundary(self.error, EXPECTED[self.scale], alpha), self.degrees))


@dataclass(frozen=True, slots=True)
class _Placed:
    value: float
    low: float
    high: float


def _placed(scale: Scale, estimate: Estimate, critical: float) -> _Placed:
    low, high = estimate.limits(critical)
    if scale == "points":
        return _Placed(estimate.value, low, high)
    return _Placed(_log(estimate.value), _log(low), _log(high))


def _log(value: float) -> float:
    return log(value) if value > 0 else -inf


def contrast(scale: Scale, arm: Estimate, against: Estimate) -> Contrast | None:
    """None where either has no value, or none that can be compared."""
    if scale == "relative" and not (arm.value > 0 and against.value > 0):
        return None
    if not (isfinite(arm.value) and isfinite(against.value)):
        return None
    errors = []
    for one in (arm, against):
        placed = _placed(scale, one, _USUAL)
        errors.append(max((placed.high - placed.low) / (2 * _USUAL), _LEAST_ERROR))
    error = hypot(*errors)
    change = _placed(scale, arm, 0.0).value - _placed(scale, against, 0.0).value
    return Contrast(scale, change, error, _welch(errors, (arm, against)), arm, against)


def _welch(errors: list[float], estimates: tuple[Estimate, Estimate]) -> float:
    """Degrees of freedom of the difference, by Welch and Satterthwaite; 0 where an arm has too few units."""
    degrees = [one.spread.degrees for one in estimates]
    if min(degrees) <= 0 or not max(errors) < inf:
        return 0.0
    largest = max(errors)
    parts = [(error / largest) ** 2 for error in errors]
    return sum(parts) ** 2 / sum(part**2 / free for part, free in zip(parts, degrees, strict=True))
