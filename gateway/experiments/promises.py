"""What an experiment can find: the power that a report promises, now and with more units; pure."""

from collections.abc import Iterator
from math import log1p
from typing import Final

from gateway.experiments.always_valid import Contrast
from gateway.experiments.comparing import split_alpha, tie_band
from gateway.experiments.metrics import Metric
from gateway.experiments.outlook import outlook
from gateway.experiments.report import Power, Scale
from gateway.experiments.terms import Terms
from gateway.experiments.words import amount

DIFFERENCE: Final[dict[Scale, float]] = {"relative": 0.10, "points": 0.05}
"""The true difference whose discovery is promised."""
_TIMES: Final = (1, 2, 4, 8, 16)
_SURE: Final = 0.99


def promises(arm: str, between: Contrast, metric: Metric, terms: Terms) -> Iterator[Power]:
    """For the present units in each arm and for multiples of them, if of the same kind, until it is all but sure."""
    difference = DIFFERENCE[between.scale]
    true = log1p(difference) if between.scale == "relative" else difference
    least = tie_band(between.scale, terms)[1]
    ahead = outlook(between, split_alpha(terms))
    for times in _TIMES:
        chance = ahead.power(true, least, times)
        units = (between.arm.spread.units + between.against.spread.units) * times // 2
        sentence = (
            f"With {units:,} units in each arm, a true difference of {amount(difference, between.scale)} in "
            f"{metric.title} is found with a probability of {min(chance, _SURE):.0%} or more."
        )
        yield Power(arm, units, difference, chance, sentence)
        if chance >= _SURE:
            return
