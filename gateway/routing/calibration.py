"""Calibration: how much of what is believed to be cached a replica delivers, learned from its reports; pure."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

_FORGET: Final = 0.97
"""What an observation still counts after the next one in its bin: about the last 30 matter."""
_PRIOR_OBSERVATIONS: Final = 2.0
_EXACT_SHARE: Final = 0.85
"""A bin in which this share of beliefs came true is left alone: averaging would blur what is exact."""
_RECENT: Final = 64
_QUANTA: Final = tuple(2**power for power in range(13, -1, -1))
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
    def point(self) -> tuple[float, float]:
        """Mean belief and mean delivery; equal where beliefs nearly always come true."""
        believed = self.believed / self.weight
        true = self.exact >= _EXACT_SHARE * self.weight
        return believed, believed if true else self.delivered / self.weight


class DeliveryCurve:
    """Believed → delivered tokens: means in bins that double in size, made monotone (isotonic), joined by lines."""

    def __init__(self) -> None:
        self._bins: dict[int, _Bin] = {}
        self._points: list[tuple[float, float]] = []
        self.exact = True
        """Whether all that is believed is expected."""

    @property
    def points(self) -> tuple[tuple[float, float], ...]:
        """The corners of the curve, for people to look at: (believed, delivered)."""
        return tuple(self._points)

    def expect(self, believed: int) -> float:
        """Tokens that will be delivered of so many believed ones; all of them while nothing was learned."""
        if not self._points or not believed:
            return float(believed)
        x0 = y0 = 0.0
        for x1, y1 in self._points:
            if believed <= x1:
                return y0 + (y1 - y0) * (believed - x0) / (x1 - x0) if x1 > x0 else y1
            x0, y0 = x1, y1
        return believed * y0 / x0

    def observe(self, believed: int, delivered: int, tolerance: int) -> None:
        """Learn from one request. `tolerance` tokens off still count as exact."""
        if believed <= 0:
            return
        one = self._bins.setdefault(believed.bit_length(), _Bin())
        one.observe(believed, delivered, abs(believed - delivered) <= tolerance)
        self._points = _isotonic(sorted(each.point for each in self._bins.values()))
        self.exact = all(x == y for x, y in self._points)


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
    _misses: deque[int | None] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _gaps: deque[int] = field(default_factory=lambda: deque(maxlen=_RECENT))

    def expect(self, overlap: Overlap) -> int:
        """Tokens that the replica will report as cached for a prompt with this overlap."""
        confirmed, inferred, promised = overlap
        tokens = confirmed + inferred + promised
        if not self.exact:
            curves = self.confirmed, self.inferred, self.promised
            expected = curves[0].expect(confirmed) + curves[1].expect(inferred) + curves[2].expect(promised)
            tokens = round(min(expected, tokens))
        return self.reachable(tokens)

    def observe(self, overlap: Overlap, delivered: int, block_tokens: int) -> None:
        """Learn from one finished request; `block_tokens` is the size of the blocks that were counted."""
        self.observations += 1
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
            self._hits.append(delivered)
            self.quantum = _quantum(self._hits)
            self._gaps.append(overlap.total - delivered)
            short = sum(0.5 * block_tokens < gap <= 1.5 * block_tokens for gap in self._gaps)
            usual = len(self._gaps) >= _GAPS and short >= _EXACT_SHARE * len(self._gaps)
            self.shortfall = block_tokens if usual else 0
        if delivered or overlap.settled:
            self._misses.append(None if delivered else overlap.settled)  # a hit lets old misses age
        smallest = min(self._hits, default=0)
        below = sum(miss is not None and miss < smallest for miss in self._misses)
        self.minimum = smallest if below >= _MISSES else 0


def _quantum(hits: deque[int]) -> int:
    """The largest power of two that divides nearly all hits; 1 until there are enough different ones to tell."""
    if len(set(hits)) < _DISTINCT:
        return 1
    allowed = _ODD_SHARE * len(hits)
    quanta = (quantum for quantum in _QUANTA if sum(hit % quantum != 0 for hit in hits) <= allowed)
    return next(quanta, 1)
