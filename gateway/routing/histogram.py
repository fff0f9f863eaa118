"""A histogram of counts per bucket, and the bucket bounds of each metric; pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final

SECONDS: Final = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.2,
    0.4,
    0.6,
    0.8,
    1,
    1.25,
    1.5,
    1.75,
    2,
    2.5,
    3,
    4,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
)
"""Upper bounds, seconds: fine at 0.5 to 2 s, where a 24k-token prefill on two H200 lies."""
ITL_SECONDS: Final = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2)
OWN_SECONDS: Final = (0.00002, 0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.2, 1)
ERROR_TOKENS: Final = (-65536, -16384, -4096, -1024, -256, -64, 0, 64, 256, 1024, 4096, 16384, 65536)
ERROR_SECONDS: Final = (
    -10,
    -5,
    -2,
    -1,
    -0.5,
    -0.2,
    -0.1,
    -0.05,
    -0.02,
    0,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
)


@dataclass(slots=True)
class Histogram:
    """`counts[i]` observations fell at or under `bounds[i]` and over the bound before; the last had no bound."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times

    def buckets(self) -> list[tuple[str, float]]:
        """As Prometheus wants them: counts at or under each bound, as its text says it."""
        cumulated = list(accumulate(self.counts))
        return [*zip((str(float(bound)) for bound in self.bounds), cumulated, strict=False), ("+Inf", cumulated[-1])]

    def copy(self) -> "Histogram":
        """An independent copy."""
        return Histogram(self.bounds, self.counts.copy(), self.total)


def summed(parts: Sequence[Histogram]) -> Histogram:
    """One histogram of all their observations; they have the same bounds."""
    counts = [sum(column) for column in zip(*(part.counts for part in parts), strict=True)]
    return Histogram(parts[0].bounds, counts, sum(part.total for part in parts))


def bucket_quantile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float | None:
    """The quantile of a histogram of values above 0, each bucket's taken as spread evenly; None of nothing.

    Values above the last bound count as that.
    """
    wanted = share * sum(counts)
    if wanted <= 0:
        return None
    below, low = 0, 0.0
    for count, high in zip(counts, bounds, strict=False):
        if below + count >= wanted and count:
            return low + (high - low) * (wanted - below) / count
        below += count
        low = high
    return bounds[-1]
