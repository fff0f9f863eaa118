"""What came of a shadow's copies: counts, times, and a bounded sample of pairs; pure.

A pair is a request and its copy: the same prompt, so that what differs between the two pools is not what was asked.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from random import Random
from statistics import median
from typing import Final

import msgspec

from engines.reports import Usage
from gateway.routing.histogram import SECONDS, Histogram, summed
from gateway.serving.shadowing.timing import Timing
from gateway.wire.answer_text import parting

MOST_PAIRS: Final = 1000
"""Kept of each shadow, in each process: a uniform sample of all."""
PARTED_AT: Final = (0.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10000.0)
"""Characters."""


class Fate(StrEnum):
    """What became of a copy, or why there was none."""

    MIRRORED = "mirrored"
    """It was sent; that ends as one of the next three."""
    COMPLETED = "completed"
    FAILED = "failed"
    ABANDONED = "abandoned"
    """Its request ended without an answer, or the gateway did."""
    DROPPED_FULL = "dropped_full"
    """Too many waited already, or it waited too long."""
    DROPPED_BUSY = "dropped_busy"
    """The pool had enough to do, or no replica to spare."""
    DROPPED_UNSERVED = "dropped_unserved"
    """The pool does not serve the model, or not to this tenant."""


class Pair(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One request and its copy: seconds to the first token, and tokens by the engines' word (None: not told)."""

    own_ttft_s: float
    copy_ttft_s: float
    prompt_tokens: int | None
    own_cached: int | None
    copy_cached: int | None


class ShadowFigures(msgspec.Struct, frozen=True):
    """A shadow as it stands. `paired` counts all pairs, `pairs` are a sample of them.

    Of texts: how many were the `same`, how many `differed`, and at which character (`parted`).
    """

    name: str
    to: str
    share: float
    compare: str
    counts: dict[str, int]
    waiting: int
    inflight: int
    ttft: Histogram
    paired: int
    pairs: tuple[Pair, ...]
    same: int
    differed: int
    parted: Histogram
    own_itl_s: float
    copy_itl_s: float
    itl_pairs: int
    """Sums over the pairs that have both."""
    own_completion_tokens: int
    copy_completion_tokens: int

    def counted(self) -> "ShadowFigures":
        """What remains of it after its process has ended."""
        return msgspec.structs.replace(self, waiting=0, inflight=0)

    def summary(self) -> "ShadowSummary":
        """For people: without the pairs themselves."""
        ratios = [one.copy_ttft_s / one.own_ttft_s for one in self.pairs if one.own_ttft_s > 0]
        return ShadowSummary(
            name=self.name,
            to=self.to,
            share=self.share,
            compare=self.compare,
            counts=self.counts,
            waiting=self.waiting,
            inflight=self.inflight,
            paired=self.paired,
            own_ttft_s=median(one.own_ttft_s for one in self.pairs) if self.pairs else None,
            copy_ttft_s=median(one.copy_ttft_s for one in self.pairs) if self.pairs else None,
            ttft_ratio=median(ratios) if ratios else None,
            own_hit_rate=_hit_rate(self.pairs, [one.own_cached for one in self.pairs]),
            copy_hit_rate=_hit_rate(self.pairs, [one.copy_cached for one in self.pairs]),
            own_itl_s=self.own_itl_s / self.itl_pairs if self.itl_pairs else None,
            copy_itl_s=self.copy_itl_s / self.itl_pairs if self.itl_pairs else None,
            same=self.same,
            differed=self.differed,
        )


class ShadowSummary(msgspec.Struct, frozen=True):
    """Medians of the sampled pairs: of TTFT, and of the copy's over its request's. Hit rates are ratios of sums."""

    name: str
    to: str
    share: float
    compare: str
    counts: dict[str, int]
    waiting: int
    inflight: int
    paired: int
    own_ttft_s: float | None
    copy_ttft_s: float | None
    ttft_ratio: float | None
    own_hit_rate: float | None
    copy_hit_rate: float | None
    own_itl_s: float | None
    copy_itl_s: float | None
    same: int
    differed: int


class Tally:
    """One shadow's, in one process."""

    def __init__(self, rng: Random) -> None:
        self.counts: dict[Fate, int] = dict.fromkeys(Fate, 0)
        self._rng = rng
        self._ttft = Histogram(SECONDS)
        self._paired = 0
        self._pairs: list[Pair] = []
        self._same = self._differed = 0
        self._parted = Histogram(PARTED_AT)
        self._own_itl_s = self._copy_itl_s = 0.0
        self._itl_pairs = 0
        self._own_completion = self._copy_completion = 0

    def count(self, fate: Fate) -> None:
        """One copy, or none."""
        self.counts[fate] += 1

    def first_token(self, ttft_s: float) -> None:
        """A copy's, whether or not its request had one."""
        self._ttft.observe(ttft_s)

    def pair(self, own: Timing, copy: Timing) -> None:
        """Both have their answer. Those without first tokens are no streams, and have no time to it."""
        if own.usage is not None and copy.usage is not None:
            self._own_completion += own.usage.completion_tokens
            self._copy_completion += copy.usage.completion_tokens
        if own.itl_s is not None and copy.itl_s is not None:
            self._own_itl_s += own.itl_s
            self._copy_itl_s += copy.itl_s
            self._itl_pairs += 1
        if own.ttft_s is None or copy.ttft_s is None:
            return
        prompt = None if own.usage is None else own.usage.prompt_tokens
        pair = Pair(own.ttft_s, copy.ttft_s, prompt, _cached(own.usage), _cached(copy.usage))
        self._paired += 1
        if len(self._pairs) < MOST_PAIRS:
            self._pairs.append(pair)
        elif (place := self._rng.randrange(self._paired)) < MOST_PAIRS:  # Vitter's algorithm R
            self._pairs[place] = pair

    def texts(self, own: str, copy: str) -> None:
        """Both answers, of which only this stays: whether they are the same, or where they part."""
        at = parting(own, copy)
        if at is None:
            self._same += 1
        else:
            self._differed += 1
            self._parted.observe(at)

    def figures(self, name: str, to: str, share: float, compare: str, waiting: int, inflight: int) -> ShadowFigures:
        """As of now."""
        return ShadowFigures(
            name=name,
            to=to,
            share=share,
            compare=compare,
            counts={str(fate): count for fate, count in self.counts.items()},
            waiting=waiting,
            inflight=inflight,
            ttft=self._ttft.copy(),
            paired=self._paired,
            pairs=tuple(self._pairs),
            same=self._same,
            differed=self._differed,
            parted=self._parted.copy(),
            own_itl_s=self._own_itl_s,
            copy_itl_s=self._copy_itl_s,
            itl_pairs=self._itl_pairs,
            own_completion_tokens=self._own_completion,
            copy_completion_tokens=self._copy_completion,
        )


def merged_shadows(parts: Sequence[tuple[ShadowFigures, ...]]) -> tuple[ShadowFigures, ...]:
    """Of several processes together; what is configured is the first one's word."""
    together: dict[str, list[ShadowFigures]] = {}
    for figures in (one for part in parts for one in part):
        together.setdefault(figures.name, []).append(figures)
    return tuple(_merged(figures) for figures in together.values())


_SUMS: Final = (
    *("waiting", "inflight", "paired", "same", "differed", "own_itl_s", "copy_itl_s", "itl_pairs"),
    *("own_completion_tokens", "copy_completion_tokens"),
)


def _merged(parts: Sequence[ShadowFigures]) -> ShadowFigures:
    first, *others = parts
    if not others:
        return first
    return msgspec.structs.replace(
        first,
        counts={fate: sum(one.counts.get(fate, 0) for one in parts) for fate in first.counts},
        ttft=summed([one.ttft for one in parts]),
        parted=summed([one.parted for one in parts]),
        pairs=tuple(pair for one in parts for pair in one.pairs),
        **{name: sum(getattr(one, name) for one in parts) for name in _SUMS},
    )


def _cached(usage: Usage | None) -> int | None:
    return None if usage is None else usage.cached_tokens


def _hit_rate(pairs: Iterable[Pair], cached: Iterable[int | None]) -> float | None:
    told = [(one.prompt_tokens, hit) for one, hit in zip(pairs, cached, strict=True) if hit is not None]
    prompt = sum(tokens or 0 for tokens, _ in told)
    return sum(hit for _, hit in told) / prompt if prompt else None
