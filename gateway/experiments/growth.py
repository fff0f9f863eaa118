"""The comparisons as they were while observations came in; pure."""

from dataclasses import dataclass, fields, replace

import numpy as np

from gateway.experiments.comparing import compare
from gateway.experiments.metrics import METRICS, estimate
from gateway.experiments.observations import Observations
from gateway.experiments.report import Comparison
from gateway.experiments.sample import samples
from gateway.experiments.terms import Terms


@dataclass(frozen=True, slots=True)
class Look:
    """The comparisons in the primary metric, one for each arm but the control, at a time."""

    at_s: float
    comparisons: tuple[Comparison, ...]


def looks(observations: Observations, terms: Terms, count: int) -> tuple[Look, ...]:
    """At most `count` of them, as many requests apart; the last sees all."""
    ends = np.unique(np.linspace(0, len(observations), count + 1).astype(int))
    return tuple(_look(first(observations, int(end)), terms) for end in ends if end)


def first(observations: Observations, count: int) -> Observations:
    """The first `count` of them."""
    columns = [field.name for field in fields(observations) if field.name != "arms"]
    return replace(observations, **{name: getattr(observations, name)[:count] for name in columns})


def _look(seen: Observations, terms: Terms) -> Look:
    metric = METRICS[terms.metric]
    found = {arm.terms.name: estimate(arm, terms.metric) for arm in samples(seen, terms)}
    control = found.pop(terms.against, None)
    if control is None:
        return Look(float(seen.at_s[-1]), ())
    comparisons = tuple(compare(metric, name, arm, control, terms) for name, arm in found.items())
    return Look(float(seen.at_s[-1]), comparisons)
