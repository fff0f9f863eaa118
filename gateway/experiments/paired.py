"""What pairs of measurements say of a ratio: its median with an interval, by scipy; pure."""

from collections.abc import Sequence
from math import log
from typing import Any, Final

import msgspec
import numpy as np
from scipy.stats import quantile_test

CONFIDENCE: Final = 0.95
FEWEST: Final = 10
"""Pairs from which anything is said."""


class PairedRatio(msgspec.Struct, frozen=True):
    """The median of second over first, and its distribution-free interval (by order statistics).

    Pairs are taken to be independent of each other.
    """

    pairs: int
    median: float
    low: float
    high: float

    @property
    def sentence(self) -> str:
        """For people."""
        interval = f"95 % interval {self.low:.3f} to {self.high:.3f}"
        if self.low <= 1 <= self.high:
            return f"no difference found: the ratio is {self.median:.3f} ({interval}, {self.pairs} pairs)"
        change = 100 * abs(self.median - 1)
        return f"{'slower' if self.median > 1 else 'faster'} by {change:.1f} % ({interval}, {self.pairs} pairs)"


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> PairedRatio | None:
    """Of positive numbers; None of too few pairs."""
    logs = np.array([log(b / a) for a, b in zip(first, second, strict=True) if a > 0 and b > 0])
    if len(logs) < FEWEST:
        return None
    interval: Any = quantile_test(logs, q=0.0, p=0.5).confidence_interval(CONFIDENCE)  # a pair; its stub says float
    low, median, high = np.exp([interval.low, np.median(logs), interval.high])
    return PairedRatio(len(logs), float(median), float(low), float(high))
