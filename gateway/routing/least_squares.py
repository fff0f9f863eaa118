"""Least squares of `a + b·x + c·x²` that forgets only where it learns anew, without negative terms; pure."""

from typing import Final

Terms = tuple[float, float, float]
"""`a`, `b` and `c`."""

_SINGULAR: Final = 1e-12


class QuadraticSums:
    """The weighted sums that such a fit needs: of powers of x, and of these times y.

    Forgetting is directional: an observation fades only what was known of points like itself. Of a thousand short
    prompts none makes the one long prompt before them forgotten.
    """

    __slots__ = ("_moments", "_powers")

    def __init__(self) -> None:
        self._powers = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0)  # the upper triangle of a symmetric matrix, row by row
        self._moments = (0.0, 0.0, 0.0)

    def add(self, x: float, y: float, weight: float, keep: float = 1.0) -> None:
        """Take in one observation; of what was known in its direction, the share `keep` remains."""
        a, b, c, d, e, f = self._powers
        p, q, r = self._moments
        xx = x * x
        if keep < 1.0:
            u, v, w = a + b * x + c * xx, b + d * x + e * xx, c + e * x + f * xx
            known = u + v * x + w * xx
            if known > 0:
                fading = (1.0 - keep) / known
                a, b, c = a - fading * u * u, b - fading * u * v, c - fading * u * w
                d, e, f = d - fading * v * v, e - fading * v * w, f - fading * w * w
                fading *= p + q * x + r * xx
                p, q, r = p - fading * u, q - fading * v, r - fading * w
        x1, x2, x3 = weight * x, weight * xx, weight * xx * x
        self._powers = (a + weight, b + x1, c + x2, d + x2, e + x3, f + x3 * x)
        self._moments = (p + weight * y, q + x1 * y, r + x2 * y)

    def scale(self, factor: float) -> None:
        """Every y so far is taken for `factor` times as much, its weight being that of its relative error."""
        once = 1.0 / factor
        twice = once * once
        a, b, c, d, e, f = self._powers
        p, q, r = self._moments
        self._powers = (a * twice, b * twice, c * twice, d * twice, e * twice, f * twice)
        self._moments = (p * once, q * once, r * once)

    def fit(self) -> Terms | None:
        """The best terms of which none is negative; None where nothing fits."""
        a, b, c, d, e, f = self._powers
        p, q, r = self._moments
        de, ce, be = d * f - e * e, c * e - b * f, b * e - c * d
        whole = a * de + b * ce + c * be
        if whole > _SINGULAR * a * d * f:
            af, ae, ad = a * f - c * c, b * c - a * e, a * d - b * b
            terms = (
                (de * p + ce * q + be * r) / whole,
                (ce * p + af * q + ae * r) / whole,
                (be * p + ae * q + ad * r) / whole,
            )
            if min(terms) >= 0:
                return terms
        return self._fit_fewer()

    def _fit_fewer(self) -> Terms | None:
        """The best of the fits with two terms or one: that whose product with the moments is the largest."""
        a, b, c, d, e, f = self._powers
        p, q, r = self._moments
        (ab, ba), (ac, ca), (bc, cb) = _pair(a, b, d, p, q), _pair(a, c, f, p, r), _pair(d, e, f, q, r)
        pairs = ((ab, ba, 0.0), (ac, 0.0, ca), (0.0, bc, cb))
        alone = ((_ratio(p, a), 0.0, 0.0), (0.0, _ratio(q, d), 0.0), (0.0, 0.0, _ratio(r, f)))
        allowed = [terms for terms in (*pairs, *alone) if min(terms) >= 0]
        return max(allowed, key=lambda terms: terms[0] * p + terms[1] * q + terms[2] * r, default=None)


_NONE: Final = -1.0


def _pair(a: float, b: float, d: float, p: float, q: float) -> tuple[float, float]:
    """The solution of two equations; negative where they are one."""
    whole = a * d - b * b
    if whole <= _SINGULAR * a * d:
        return _NONE, _NONE
    return (d * p - b * q) / whole, (a * q - b * p) / whole


def _ratio(p: float, a: float) -> float:
    return p / a if a > 0 else _NONE
