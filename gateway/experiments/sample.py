"""What was observed of one arm, its units numbered; pure."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gateway.experiments.clusters import Floats, Places
from gateway.experiments.observations import Observations
from gateway.experiments.terms import ArmTerms, Terms

Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of one arm. `unit` numbers its units from 0; `own` marks the requests that the arm answered itself."""

    terms: ArmTerms
    rows: Places
    unit: Places
    units: int
    own: Bools
    running_s: float
    observations: Observations

    def __len__(self) -> int:
        return len(self.rows)

    def known(self, column: Floats) -> tuple[Floats, Places]:
        """The values that requests answered by the arm itself have in a column, and their units."""
        values = column[self.rows]
        good = self.own & np.isfinite(values) & (values >= 0)
        return values[good], self.unit[good]


def samples(observations: Observations, terms: Terms) -> tuple[Sample, ...]:
    """One for each arm of the terms, in their order; empty where nothing was observed of it."""
    _, unit = np.unique(observations.unit, return_inverse=True)
    seconds = running_s(observations, terms)
    return tuple(_sample(observations, arm, unit, seconds) for arm in terms.arms)


def running_s(observations: Observations, terms: Terms) -> float:
    """How long the observations took."""
    if terms.running_s > 0:
        return terms.running_s
    return float(observations.at_s[-1]) if len(observations) else 0.0


def _sample(observations: Observations, arm: ArmTerms, unit: Places, seconds: float) -> Sample:
    place = observations.arms.index(arm.name) if arm.name in observations.arms else -1
    rows = np.flatnonzero(observations.arm == place)
    present = np.bincount(unit[rows], minlength=1) > 0
    numbers: Places = (np.cumsum(present) - 1)[unit[rows]]
    return Sample(arm, rows, numbers, int(present.sum()), ~observations.crossed[rows], seconds, observations)
