"""Calibration: how much of what is believed to be cached a replica delivers, learned from its reports; pure."""

from collections import deque
from dataclasses import dataclass, field
from typing import Annotated, Final, NamedTuple

import msgspec

_FORGET: Final = 0.97
"""What an observation still counts after the next one in its bin: about the last 30 matter."""
_PRIOR_OBSERVATIONS: Final = 2.0
_EXACT_SHARE: Final = 0.85
"""A bin in which this share of beliefs came true is left alone: averaging would blur what is exact."""
_RECENT: Final = 64
_POWERS: Final = 14
_LARGEST_QUANTUM: Final = 1 << _POWERS - 1
_DISTINCT: Final = 4
_ODD_SHARE: Final = 0.05
_MISSES: Final = 3
_GAPS: Final = 8


class Overlap(NamedTuple):
    """Leading tokens of a prompt that are believed to be cached, by how we know; each follows the one before."""

    confirmed: int = 0
    inferred: int = 0
    promised: int = 0

    @property
    def settled(self) -> int:
        """Tokens believed to be there now: stated or computed, not merely on their way."""
        return self.confirmed + self.inferred

    @property
    def total(self) -> int:
        """All of them."""
        return self.confirmed + self.inferred + self.promised


@dataclass(slots=True)
class _Bin:
    """Recency-weighted sums of beliefs of about one size (tokens)."""

    weight: float = 0.0
    believed: float = 0.0
    delivered: float = 0.0
    exact: float = 0.0

    def observe(self, believed: int, delivered: int, exact: bool) -> None:
        if not self.weight:  # the prior: what is believed is delivered
            self.weight, self.believed = _PRIOR_OBSERVATIONS, _PRIOR_OBSERVATIONS * believed
            self.delivered, self.exact = self.believed, _PRIOR_OBSERVATIONS
        self.weight = self.weight * _FORGET + 1
        self.believed = self.believed * _FORGET + believed
        self.delivered = self.delivered * _FORGET + delivered
        self.exact = self.exact * _FORGET + exact

    @property
    def true(self) -> bool:
        """Whether beliefs nearly always come true."""
        return self.exact >= _EXACT_SHARE * self.weight

    @property
    def point(self) -> tuple[float, float]:
        """Mean belief and mean delivery; equal where beliefs come true."""
        believed = self.believed / self.weight
        return believed, believed if self.true else self.delivered / self.weight


Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 40)]
Difference = Annotated[int, msgspec.Meta(ge=-(1 << 40), le=1 << 40)]
Weight = Annotated[float, msgspec.Meta(ge=0, le=1e15)]
Sums = tuple[Weight, Weight, Weight, Weight]
"""Of one bin: weight, believed, delivered and exact."""


class Learned(NamedTuple):
    """All that a calibration has learned, for another to begin with: its three curves' bins and what made its rules."""

    curves: tuple[dict[int, Sums], dict[int, Sums], dict[int, Sums]]
    hits: list[Count]
    misses: list[Count | None]
    gaps: list[Difference]
    quantum: Count
    minimum: Count
    shortfall: Count
    observations: Count


class DeliveryCurve:
    """Believed → delivered tokens: means in bins that double in size, made monotone (isotonic), joined by lines."""

    def __init__(self) -> None:
        self._bins: dict[int, _Bin] = {}
        self._fitted: list[tuple[float, float]] | None = None  # since the last observation
        self.exact = True
        """Whether all that is believed is expected."""

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """The corners of the curve, for people to look at: (believed, delivered)."""
        return tuple(self._points)

    @property
    def _points(self) -> list[tuple[float, float]]:
        if self._fitted is None:
            self._fitted = _isotonic(sorted(each.point for each in self._bins.values()))
        return self._fitted

    @property
    def sums(self) -> dict[int, Sums]:
        """What it is made of."""
        return {size: (one.weight, one.believed, one.delivered, one.exact) for size, one in self._bins.items()}

    def start_from(self, sums: dict[int, Sums]) -> None:
        """Begin with what another is made of."""
        self._bins = {size: _Bin(*one) for size, one in sums.items() if one[0] > 0}
        self._learned()

    def expect(self, believed: int) -> float:
        """Tokens that will be delivered of so many believed ones; all of them while nothing was learned."""
        points = self._points
        if not points or not believed:
            return float(believed)
        x0 = y0 = 0.0
        for x1, y1 in points:
            if believed <= x1:
                return y0 + (y1 - y0) * (believed - x0) / (x1 - x0) if x1 > x0 else y1
            x0, y0 = x1, y1
        return believed * y0 / x0

    def observe(self, believed: int, delivered: int, tolerance: int) -> None:
        """Learn from one request. `tolerance` tokens off still count as exact."""
        if believed <= 0:
            return
        size = believed.bit_length()
        one = self._bins.get(size)
        if one is None:
            one = self._bins[size] = _Bin()
        one.observe(believed, delivered, abs(believed - delivered) <= tolerance)
        self._learned()

    def _learned(self) -> None:
        self._fitted = None  # most curves are exact and need no fit
        self.exact = all(each.true for each in self._bins.values())


def _isotonic(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Pool neighbours whose order is wrong until deliveries rise with beliefs (pool adjacent violators)."""
    pooled: list[tuple[float, float, int]] = []
    for x, y in points:
        pooled.append((x, y, 1))
        while len(pooled) > 1 and pooled[-2][1] > pooled[-1][1]:
            x1, y1, n1 = pooled.pop()
            x0, y0, n0 = pooled.pop()
            total = n0 + n1
            pooled.append(((x0 * n0 + x1 * n1) / total, (y0 * n0 + y1 * n1) / total, total))
    return [(x, y) for x, y, _ in pooled]


@dataclass(slots=True)
class Calibration:
    """One replica's: a curve for each way of knowing, the hit quantum and the smallest hit, all learned.

    An engine reports how many leading tokens it had, so each class's share of them is exact: what was delivered
    beyond the confirmed tokens was delivered of the inferred ones, and so on.
    """

    confirmed: DeliveryCurve = field(default_factory=DeliveryCurve)
    inferred: DeliveryCurve = field(default_factory=DeliveryCurve)
    promised: DeliveryCurve = field(default_factory=DeliveryCurve)
    exact: bool = True
    """Whether all that is believed is expected, as far as the engine's rules allow."""
    observations: int = 0
    quantum: int = 1
    """Hits come in multiples of so many tokens."""
    minimum: int = 0
    """Prefixes of fewer tokens never hit."""
    shortfall: int = 0
    """Hits end so many tokens before what is there: a block, with engines that draft tokens (MTP, EAGLE)."""
    _hits: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _odd: list[int] = field(default_factory=lambda: [0] * _POWERS)
    """How many of the hits are odd multiples of each power of two, the smallest first."""
    _misses: deque[int | None] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _gaps: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))

    @property
    def learned(self) -> Learned:
        """All of it."""
        return Learned(
            (self.confirmed.sums, self.inferred.sums, self.promised.sums),
            list(self._hits),
            list(self._misses),
            list(self._gaps),
            self.quantum,
            self.minimum,
            self.shortfall,
            self.observations,
        )

    def start_from(self, learned: Learned) -> None:
        """Begin with what another has learned."""
        for curve, sums in zip((self.confirmed, self.inferred, self.promised), learned.curves, strict=True):
            curve.start_from(sums)
        for hit in learned.hits:
            self._hit(hit)
        self._misses.extend(learned.misses)
        self._gaps.extend(learned.gaps)
        self.quantum, self.minimum, self.shortfall = max(learned.quantum, 1), learned.minimum, learned.shortfall
        self.observations = learned.observations
        self.exact = self.confirmed.exact and self.inferred.exact and self.promised.exact

    def expect(self, overlap: Overlap) -> int:
        """Tokens that the replica will report as cached for a prompt with this overlap."""
        confirmed, inferred, promised = overlap
        tokens = confirmed + inferred + promised
        if not tokens:
            return 0
        if not self.exact:
            curves = self.confirmed, self.inferred, self.promised
            expected = curves[0].expect(confirmed) + curves[1].expect(inferred) + curves[2].expect(promised)
            tokens = round(min(expected, tokens))
        return self.reachable(tokens)

    def observe(self, overlap: Overlap, delivered: int, block_tokens: int) -> None:
        """Learn from one finished request; `block_tokens` is the size of the blocks that were counted."""
        self.observations += 1
        if not delivered and not overlap.total:
            return
        self._learn_rules(overlap, delivered, block_tokens)
        if delivered >= self.reachable(overlap.total):
            delivered = max(delivered, overlap.total)  # what is missing is the engine's rule: `expect` knows it
        rest = delivered
        whole = True  # what follows a part that was not delivered cannot be delivered
        for curve, believed in zip((self.confirmed, self.inferred, self.promised), overlap, strict=True):
            part = min(rest, believed)
            if whole:
                curve.observe(believed, part, block_tokens)
            rest -= part
            whole = whole and part >= believed - block_tokens
        self.exact = self.confirmed.exact and self.inferred.exact and self.promised.exact

    def reachable(self, tokens: int) -> int:
        """What the engine's rules leave of so many cached tokens."""
        tokens -= self.shortfall
        tokens -= tokens % self.quantum
        return tokens if tokens >= self.minimum else 0

    def _learn_rules(self, overlap: Overlap, delivered: int, block_tokens: int) -> None:
        if delivered:
            self._hit(delivered)
            self.quantum = self._quantum()
            self._gaps.append(overlap.total - delivered)
            least, most = 0.5 * block_tokens, 1.5 * block_tokens
            short = len([gap for gap in self._gaps if least < gap <= most])
            usual = len(self._gaps) >= _GAPS and short >= _EXACT_SHARE * len(self._gaps)
            self.shortfall = block_tokens if usual else 0
        if delivered or overlap.settled:
            self._misses.append(None if delivered else overlap.settled)  # a hit lets old misses age
        smallest = min(self._hits, default=0)
        below = len([miss for miss in self._misses if miss is not None and miss < smallest]) if smallest else 0
        self.minimum = smallest if below >= _MISSES else 0

    def _hit(self, tokens: int) -> None:
        """Count a hit, in place of the oldest where there are enough."""
        hits, odd = self._hits, self._odd
        if len(hits) == _RECENT:
            odd[_power(hits[0])] -= 1
        hits.append(tokens)
        odd[_power(tokens)] += 1

    def _quantum(self) -> int:
        """The largest power of two that divides nearly all hits; 1 until there are enough different ones to tell."""
        hits = self._hits
        if len(set(hits)) < _DISTINCT:
            return 1
        allowed, others = _ODD_SHARE * len(hits), 0
        for power, odd in enumerate(self._odd):
            others += odd
            if others > allowed:
                return 1 << power
        return _LARGEST_QUANTUM


def _power(tokens: int) -> int:
    """The largest power of two, as an exponent and up to the largest quantum, that divides so many tokens."""
    return min((tokens & -tokens).bit_length() - 1, _POWERS - 1)
