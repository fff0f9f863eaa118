"""What a comparison would be with more units of the same kind: how far its interval reaches, what it can find; pure."""

from dataclasses import dataclass, replace
from math import exp, inf, log, sqrt
from typing import Final

from scipy.special import chdtri, nctdtr

from gateway.experiments.always_valid import ENDLESS, EXPECTED, Contrast, boundary, student

_FAR: Final = 1e9
_MOST_TIMES: Final = 1e6
_CAUTION: Final = 0.75
"""How surely the true error is no larger than the one that power is promised for."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """Of a contrast; `times` is how many times its present units there are.

    `stretch` is how much further than its standard error says the interval reaches now: limits far out may lie further
    apart.
    """

    error: float
    degrees: float
    expected: float
    alpha: float
    stretch: float = 1.0

    def reach(self, times: float) -> float:
        """How far the always-valid interval goes to either side."""
        error = self.error / sqrt(times)
        critical = student(boundary(error, self.expected, self.alpha), self.degrees * times)
        return error * critical * self.stretch if critical < inf else inf

    def times_until(self, reach: float) -> float:
        """How many times the units make it go only so far; infinite where no number seems to."""

        from scipy.optimize import brentq  # a fifth of a second to import, which the guardrails have no use for

        def excess(logarithm: float) -> float:
            return log(min(self.reach(exp(logarithm)), _FAR) / reach)

        most = log(_MOST_TIMES)
        if not self.error < inf or excess(most) > 0:
            return inf
        return exp(float(brentq(excess, 0.0, most, xtol=1e-4))) if excess(0.0) > 0 else 1.0

    def power(self, difference: float, least: float, times: float) -> float:
        """The chance, at least, that a true difference is found by then.

        Found: the interval leaves out 0 and the change is seen as more than `least`. That is the chance at that one
        look; looks before it add a little. The error is taken for as large as it may well be: it was estimated, and an
        average promise would be too high.
        """
        if self.degrees < 1 or not self.error < inf:
            return 0.0
        likely = replace(self, error=self.error * sqrt(self.degrees / float(chdtri(self.degrees, _CAUTION))))
        error, needed = likely.error / sqrt(times), max(likely.reach(times), least)
        if not needed < inf:
            return 0.0
        return float(1.0 - nctdtr(self.degrees * times, min(abs(difference) / error, ENDLESS), needed / error))


def outlook(between: Contrast, alpha: float) -> Outlook:
    """As the contrast is now."""
    plain = Outlook(between.error, between.degrees, EXPECTED[between.scale], alpha)
    now = plain.reach(1.0)
    low, high = between.always_valid(alpha)
    if not (now < inf and high - low < inf):
        return plain
    return Outlook(plain.error, plain.degrees, plain.expected, alpha, max((high - low) / (2 * now), 1.0))
