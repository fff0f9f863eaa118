"""Whether units fell to the arms as the weights say: if not, something lost or moved them; pure."""

from collections.abc import Sequence
from typing import Final

from gateway.experiments.report import SampleRatio
from gateway.experiments.terms import ArmTerms
from gateway.experiments.words import listed

FAILED_BELOW: Final = 0.001
"""So small a p fails the check: it is made often, and a false alarm costs an experiment."""
_LEAST_EXPECTED: Final = 5.0
"""The chi-square distribution holds from about so many units in each arm."""


def sample_ratio(arms: Sequence[ArmTerms], seen: Sequence[int]) -> SampleRatio:
    """The chi-square test of units per arm against the weights; arms of weight 0 have no part in it."""
    from scipy.stats import chisquare  # takes a second to import, which the guardrails need not wait for

    drawn = [place for place, arm in enumerate(arms) if arm.weight > 0]
    weight = sum(arms[place].weight for place in drawn)
    units = sum(seen[place] for place in drawn)
    expected = tuple(units * arm.weight / weight if arm.weight > 0 else 0.0 for arm in arms)
    if len(drawn) < 2 or min(expected[place] for place in drawn) < _LEAST_EXPECTED:
        return SampleRatio(
            expected, tuple(seen), None, True, "Too few units to check that they fell as the weights say."
        )
    p = float(chisquare([seen[place] for place in drawn], [expected[place] for place in drawn]).pvalue)
    shares = listed([f"{arms[place].name} {seen[place]:,} of {expected[place]:,.0f} expected" for place in drawn])
    if p >= FAILED_BELOW:
        return SampleRatio(expected, tuple(seen), p, True, f"Units fell to the arms as the weights say (p = {p:.2g}).")
    sentence = f"Units did not fall to the arms as the weights say: {shares} (p = {p:.1g})."
    return SampleRatio(expected, tuple(seen), p, False, sentence)
