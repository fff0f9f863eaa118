"""The sampling error of an estimate whose requests come in units of unequal size; pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Spread:
    """How sure an estimate is: its standard error, and what stands behind it.

    `error` is infinite where fewer than two units have requests. `effective_units` equal units would tell as much about
    the error: a few large ones tell little, however many small ones there are.
    """

    error: float
    requests: int
    units: int
    effective_units: float

    @property
    def degrees(self) -> float:
        """Degrees of freedom of the standard error."""
        return max(self.effective_units - 1.0, 0.0)


NOTHING = Spread(np.inf, 0, 0, 0.0)


def spread(residuals: Floats, loads: Floats, unit: Places) -> Spread:
    """The error of sum(x) / sum(loads), where `residuals` are x - ratio * loads, one a request.

    Requests of a unit may depend on each other in any way; units are independent. That is the delta method with the
    CR2 correction of Bell & McCaffrey (2002), which for a ratio divides a unit's residual by sqrt(1 - its share): a
    large unit draws the ratio to itself, so that its residual is too small.
    """
    requests = len(residuals)
    if not requests:
        return NOTHING
    counts = per_unit(unit, np.ones(requests))
    present = counts > 0
    counts, sums, weights = counts[present], per_unit(unit, residuals)[present], per_unit(unit, loads)[present]
    total = float(weights.sum())
    parts = weights / total if total > 0 else np.ones(len(weights))
    if len(counts) < 2 or parts.max() >= 1:
        return Spread(np.inf, requests, len(counts), 1.0)
    error = float(np.sqrt(np.sum(sums**2 / (1 - parts)))) / total
    degrees = _degrees(parts, counts, _alike(residuals, sums, counts))
    return Spread(error, requests, len(counts), min(1.0 + degrees, len(counts)))  # rounding may add to it


def per_unit(unit: Places, values: Floats) -> Floats:
    """The sum of the values of each unit, by its number."""
    return np.bincount(unit, values).astype(np.float64, copy=False)


def _alike(residuals: Floats, sums: Floats, counts: Floats) -> float:
    """How much requests of a unit correlate, from 0 to 1."""
    pairs = float(np.sum(counts * (counts - 1.0)))
    power = float(np.mean(residuals**2))
    if pairs <= 0 or power <= 0:
        return 0.0
    return min(max((float(np.sum(sums**2)) / power - len(residuals)) / pairs, 0.0), 1.0)


def _degrees(parts: Floats, counts: Floats, alike: float) -> float:
    """Degrees of freedom of the CR2 error: Bell & McCaffrey's, with Imbens & Kolesar's (2016) random effects.

    The mean of a unit varies as s = r + (1 - r) / n. The squared error is a quadratic form of the means with the matrix
    M = D (S - 1u' - u1' + q 11') D, where u = ws, q = w'u and D divides as CR2 does; the degrees are tr(M)² / tr(M²),
    written out here so that no matrix is made. A few large units have few degrees, however many small ones there are.
    """
    s = alike + (1.0 - alike) / counts
    u = parts * s
    q = float(np.sum(parts * u))
    d = parts**2 / (1.0 - parts)
    own = s - 2 * u + q
    whole, first, second = float(d.sum()), float(np.sum(d * u)), float(np.sum(d * u * u))
    among = q * q * whole**2 - 4 * q * whole * first + 2 * whole * second + 2 * first**2
    square = float(np.sum(d**2 * (own**2 - (q - 2 * u) ** 2))) + among
    return float(np.sum(d * own)) ** 2 / square if square > 0 else 0.0
