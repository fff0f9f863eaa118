"""How far two sets of times are apart, with an interval, and what that settles; pure, by scipy.

The estimate is Hodges and Lehmann's, the interval holds every shift that Mann and Whitney's exact test does not
reject. Both are of logarithms, so they are of ratios; neither minds an outlier or wants times to be normal.
"""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median


class Verdict(StrEnum):
    """What a comparison settles. `BETTER` and `WORSE` are of the first of the two."""

    BETTER = "better"
    WORSE = "worse"
    TIE = "tie"
    OPEN = "not settled"

    @property
    def turned(self) -> "Verdict":
        """The same, seen from the second."""
        return {Verdict.BETTER: Verdict.WORSE, Verdict.WORSE: Verdict.BETTER}.get(self, self)


@dataclass(frozen=True, slots=True)
class Ratio:
    """The second's times over the first's: 1.1 is 10 % slower. `low` and `high` hold it with the wished confidence.

    With too few samples for that confidence they are 0 and infinity.
    """

    estimate: float
    low: float
    high: float

    def times(self, factor: float) -> "Ratio":
        """The ratio of quantities that are so many times as far apart."""
        return Ratio(self.estimate * factor, self.low * factor, self.high * factor)


def ratio_of(first: Sequence[float], second: Sequence[float], confidence: float = 0.95) -> Ratio:
    """How many times the first's the second's times are; each is above 0 and there is at least one of each."""
    from scipy.stats import mannwhitneyu  # takes most of a second to import, and every command comes by here

    ours, theirs = ([math.log(time) for time in times] for times in (first, second))
    shifts = sorted(their - our for their in theirs for our in ours)
    count = len(shifts)
    edges = [-math.inf, *shifts, math.inf]

    def is_rejected(place: int) -> bool:
        """Whether the shifts between two neighbouring differences are: there the test has no ties."""
        if place in (0, count):
            shift = edges[1] - 1.0 if place == 0 else edges[count] + 1.0
        else:
            shift = (edges[place] + edges[place + 1]) / 2
        p_value: float = mannwhitneyu([their - shift for their in theirs], ours, method="exact").pvalue
        return p_value <= 1 - confidence

    # The p-value rises up to the middle and falls after it.
    middle = count // 2
    low = bisect.bisect_left(range(middle), True, key=lambda place: not is_rejected(place))
    high = bisect.bisect_left(range(middle, count + 1), True, key=is_rejected) + middle
    return Ratio(math.exp(median(shifts)), math.exp(edges[low]), _exp(edges[high]))


def verdict_of(ratio: Ratio, tie_margin: float) -> Verdict:
    """Better or worse where the whole interval is beyond the margin (0.02: 2 %), a tie where all of it is within."""
    slower, faster = 1 + tie_margin, 1 / (1 + tie_margin)
    if ratio.low > slower:
        return Verdict.BETTER
    if ratio.high < faster:
        return Verdict.WORSE
    if faster <= ratio.low and ratio.high <= slower:
        return Verdict.TIE
    return Verdict.OPEN


@dataclass(frozen=True, slots=True)
class Slope:
    """Milliseconds for each further token; `low` and `high` hold it with 95 % confidence."""

    estimate: float
    low: float
    high: float


def slope_of(tokens: Sequence[int], times_ms: Sequence[float]) -> Slope | None:
    """Theil and Sen's line, which outliers do not turn; None with fewer than two different lengths."""
    if len(set(tokens)) < 2:
        return None
    from scipy.stats import theilslopes

    found = theilslopes(times_ms, tokens, alpha=0.95)
    return Slope(float(found.slope), float(found.low_slope), float(found.high_slope))


def _exp(value: float) -> float:
    return math.inf if value == math.inf else math.exp(value)
