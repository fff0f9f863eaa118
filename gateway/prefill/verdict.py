"""The verdict on a changed replica: its real traffic before and after, and whether it got worse; pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import NormalDist, fmean, variance
from typing import Final

from gateway.routing.curves import Prefill

ENOUGH: Final = 12
"""Prefills on each side without which nothing is said."""
PLENTY: Final = 32
"""Prefills after which there is no need to wait for more."""
_LIKELY: Final = NormalDist().inv_cdf(0.975)
_LEAST_MS: Final = 0.1


@dataclass(frozen=True, slots=True)
class Window:
    """What was seen of a replica for some time. `itl_ms` is the mean of answers' own, weighted by their frames;
    `request_tokens` the mean prompt and answer together. None: nothing of the kind was seen, or the engine is silent.
    """

    prefills: tuple[Prefill, ...]
    itl_ms: float | None = None
    kv_capacity_tokens: int | None = None
    kv_peak: float | None = None
    preemptions: int | None = None
    request_tokens: float | None = None

    @property
    def concurrency(self) -> float | None:
        """How many requests of the usual size have room in the KV cache at a time."""
        if not self.kv_capacity_tokens or not self.request_tokens:
            return None
        return self.kv_capacity_tokens / self.request_tokens


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
    before: Window
    after: Window
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
        if before.concurrency is not None and after.kv_capacity_tokens and before.request_tokens:
            fits = after.kv_capacity_tokens / before.request_tokens
            said.append(f"room for {before.concurrency:.0f} → {fits:.0f} requests of the usual size")
        return "; ".join(said)


def compare(
    replica: str,
    before: Window,
    after: Window,
    predict_ms: Callable[[float], float],
    long_tokens: int,
    tolerance: float,
) -> Comparison:
    """Prefills are compared length for length, each as a ratio to `predict_ms` of its uncached tokens (any curve that
    fits roughly). It is worse where prefill, of all prompts or of long ones, is slower by more than `tolerance` (a
    share) and the interval leaves no doubt of that.
    """
    every = _difference(before.prefills, after.prefills, predict_ms)
    long = _difference(_longer(before.prefills, long_tokens), _longer(after.prefills, long_tokens), predict_ms)
    worse = ""
    for what, difference in (("prefill", every), (f"prefill of more than {long_tokens:,} tokens", long)):
        if difference is not None and difference.low > tolerance and not worse:
            worse = f"{what} takes longer than the {tolerance:.0%} that are tolerated: {difference.words}"
    return Comparison(replica, long_tokens, every, long, before, after, worse)


def _longer(prefills: Sequence[Prefill], tokens: int) -> list[Prefill]:
    return [one for one in prefills if one.uncached_tokens > tokens]


def _difference(
    before: Sequence[Prefill], after: Sequence[Prefill], predict_ms: Callable[[float], float]
) -> Difference | None:
    """Of the mean logarithms of the ratios: ten times too long weighs as much as ten times too short."""
    if min(len(before), len(after)) < ENOUGH:
        return None
    first, second = (
        [log(max(one.ms, _LEAST_MS) / max(predict_ms(one.uncached_tokens), _LEAST_MS)) for one in side]
        for side in (before, after)
    )
    shift = fmean(second) - fmean(first)
    doubt = _LIKELY * sqrt(variance(first) / len(first) + variance(second) / len(second))
    share, low, high = (exp(value) - 1.0 for value in (shift, shift - doubt, shift + doubt))
    return Difference(share, low, high, len(first), len(second))
