"""The verdict on a changed replica: its real traffic before and after, and whether it got worse; pure."""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist, fmean
from typing import Final, NamedTuple

ENOUGH: Final = 12
"""Prefills on each side without which nothing is said."""
PLENTY: Final = 32
"""Prefills after which there is no need to wait for more."""
_EDGES: Final = (256, 1024, 4096, 16_384)
"""Uncached tokens at which prompts are of another class: only those of one class are compared with each other."""
_ENOUGH_OF_CLASS: Final = 3
_LIKELY: Final = NormalDist().inv_cdf(0.975)
_LEAST_MS: Final = 0.1


class Timed(NamedTuple):
    """One measured prefill, and what a curve that fits roughly predicts for it."""

    uncached_tokens: int
    ms: float
    predicted_ms: float

    @property
    def ratio(self) -> float:
        """The logarithm of the one over the other."""
        return log(max(self.ms, _LEAST_MS) / max(self.predicted_ms, _LEAST_MS))


@dataclass(frozen=True, slots=True)
class Figures:
    """What else was seen of a replica for some time. `itl_ms` is the mean of answers' own, weighted by their frames;
    `request_tokens` the mean prompt and answer together. None: nothing of the kind was seen, or the engine is silent.
    """

    itl_ms: float | None = None
    kv_capacity_tokens: int | None = None
    kv_peak: float | None = None
    preemptions: int | None = None
    request_tokens: float | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """A replica's prefills for some time, and `others`' meanwhile: what happened to those too is none of the change's
    doing.
    """

    prefills: tuple[Timed, ...]
    others: tuple[Timed, ...] = ()
    figures: Figures = Figures()


@dataclass(frozen=True, slots=True)
class Difference:
    """How much longer prefills of the same length take, as a share, with a 95 % interval; from so many of each side."""

    share: float
    low: float
    high: float
    before: int
    after: int

    @property
    def words(self) -> str:
        """For people."""
        return f"{self.share:+.1%} ({self.low:+.1%} to {self.high:+.1%}, {self.before} and {self.after} prefills)"


@dataclass(frozen=True, slots=True)
class Comparison:
    """One replica before and after. `long` are prompts of more than `long_tokens` uncached tokens. A difference is None
    where there was too little traffic; `worse` says why the change is to be taken back, "" where it is not.
    """

    replica: str
    long_tokens: int
    prefill: Difference | None
    long: Difference | None
    before: Figures
    after: Figures
    worse: str

    @property
    def sentence(self) -> str:
        """For people."""
        said = []
        if self.prefill is None:
            said.append("too little traffic to compare prefill times")
        else:
            said.append(f"prefill {self.prefill.words}")
        if self.long is not None:
            said.append(f"of more than {self.long_tokens:,} uncached tokens {self.long.words}")
        before, after = self.before, self.after
        if before.itl_ms is not None and after.itl_ms is not None:
            said.append(f"ITL {before.itl_ms:.1f} → {after.itl_ms:.1f} ms")
        if before.kv_capacity_tokens and after.kv_capacity_tokens:
            said.append(f"KV cache {before.kv_capacity_tokens:,} → {after.kv_capacity_tokens:,} tokens")
            if before.request_tokens:
                fits = [
                    tokens / before.request_tokens for tokens in (before.kv_capacity_tokens, after.kv_capacity_tokens)
                ]
                said.append(f"room for {fits[0]:.0f} → {fits[1]:.0f} requests of the usual size")
        return "; ".join(said)


def compare(replica: str, before: Window, after: Window, long_tokens: int, tolerance: float) -> Comparison:
    """It is worse where prefill, of all prompts or of long ones, is slower by more than `tolerance` (a share) and the
    interval leaves no doubt of that. Prompts of like length are compared, and weigh as much as their prefill takes.
    """
    every = _difference(before, after, 0)
    long = _difference(before, after, long_tokens)
    worse = ""
    for what, difference in (("prefill", every), (f"prefill of more than {long_tokens:,} tokens", long)):
        if difference is not None and difference.low > tolerance and not worse:
            worse = f"{what} takes longer than the {tolerance:.0%} that are tolerated: {difference.words}"
    return Comparison(replica, long_tokens, every, long, before.figures, after.figures, worse)


class _Shift(NamedTuple):
    """By how much logarithms of ratios have moved, the variance of that, and how many of each side it is from."""

    shift: float
    variance: float
    before: int
    after: int


def _difference(before: Window, after: Window, longer_than: int) -> Difference | None:
    """The replica's own shift less that of the others, as far as those had enough traffic to tell."""
    own = _shift(_longer(before.prefills, longer_than), _longer(after.prefills, longer_than))
    if own is None:
        return None
    common = _shift(_longer(before.others, longer_than), _longer(after.others, longer_than))
    shift, variance = own.shift, own.variance
    if common is not None:
        shift, variance = shift - common.shift, variance + common.variance
    doubt = _LIKELY * sqrt(variance)
    share, low, high = (exp(value) - 1.0 for value in (shift, shift - doubt, shift + doubt))
    return Difference(share, low, high, own.before, own.after)


def _longer(prefills: Sequence[Timed], tokens: int) -> list[Timed]:
    return [one for one in prefills if one.uncached_tokens > tokens]


def _shift(before: Sequence[Timed], after: Sequence[Timed]) -> _Shift | None:
    """Class by class; None where there is too little to compare."""
    classes = [
        (first, second)
        for first, second in zip(_classes(before), _classes(after), strict=True)
        if min(len(first), len(second)) >= _ENOUGH_OF_CLASS
    ]
    counts = [sum(len(side) for side in sides) for sides in zip(*classes, strict=True)]
    if not counts or min(counts) < ENOUGH:
        return None
    spreads = [_spread([pair[side] for pair in classes]) for side in (0, 1)]
    whole = shift = variance = 0.0
    for first, second in classes:
        weight = sum(one.predicted_ms for one in (*first, *second))
        whole += weight
        shift += weight * (fmean(one.ratio for one in second) - fmean(one.ratio for one in first))
        variance += weight**2 * (spreads[0] / len(first) + spreads[1] / len(second))
    return _Shift(shift / whole, variance / whole**2, *counts)


def _classes(prefills: Sequence[Timed]) -> list[list[Timed]]:
    classes: list[list[Timed]] = [[] for _ in range(len(_EDGES) + 1)]
    for one in prefills:
        classes[bisect_left(_EDGES, one.uncached_tokens)].append(one)
    return classes


def _spread(classes: Sequence[Sequence[Timed]]) -> float:
    """The variance within classes."""
    squares = 0.0
    for one in classes:
        middle = fmean(timed.ratio for timed in one)
        squares += sum((timed.ratio - middle) ** 2 for timed in one)
    return squares / (sum(len(one) for one in classes) - len(classes))
