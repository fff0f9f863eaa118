"""The change of TTFT taken apart: what is there between alike requests, and what comes through the hit rate; pure."""

from dataclasses import dataclass
from math import expm1
from typing import Final

import msgspec
import numpy as np

from gateway.experiments.always_valid import Contrast, contrast
from gateway.experiments.clusters import Floats, Places
from gateway.experiments.comparing import comparable_interval, finite, shown, split_alpha
from gateway.experiments.estimates import Quantile, held, quantile, weighted_median
from gateway.experiments.report import Separation
from gateway.experiments.strata import Timed
from gateway.experiments.terms import Terms
from gateway.experiments.words import signed, span

_LEAST_REQUESTS: Final = 5
_MOST_HELD: Final = 0.5
"""A cell where an arm has fewer requests, or one unit holds more of them, has no part in the comparison."""
_ENOUGH_COVERED: Final = 0.2
_KEPT: Final = 0.85


@dataclass(frozen=True, slots=True)
class _Grid:
    """Cells: prompt lengths so many to each doubling, times cached fractions in so many equal parts."""

    per_doubling: int
    cached_parts: int

    def cells(self, arm: Timed) -> Places:
        prompt = np.floor(np.log2(np.maximum(arm.prompt_tokens, 1.0)) * self.per_doubling).astype(np.intp)
        cached = np.minimum((arm.cached_fraction * self.cached_parts).astype(np.intp), self.cached_parts - 1)
        cells: Places = prompt * self.cached_parts + cached
        return cells


_PROMPTS: Final = _Grid(2, 1)
_GRIDS: Final = (_Grid(4, 40), _Grid(2, 20), _Grid(1, 10), _Grid(1, 4))
"""The finest is used that covers nearly as much as the coarsest; which that is does not depend on any TTFT."""


def separate(arm: Timed, control: Timed, terms: Terms) -> Separation:
    """Each step gives both arms the same mix of one thing more: prompts, then cached fractions."""
    whole = contrast("relative", *(quantile(one.ttft_s, one.unit, 0.5) for one in (arm, control)))
    same_prompts = _at_equal(arm, control, _PROMPTS).between
    equal = _finest(arm, control)
    if whole is None or same_prompts is None or equal.between is None or equal.covered < _ENOUGH_COVERED:
        sentence = f"{arm.name}: not enough requests to compare at equal prompts and cached fractions."
        return Separation(arm.name, control.name, None, None, None, None, None, None, equal.covered, sentence)
    low, high = comparable_interval(equal.between, split_alpha(terms))
    bare = Separation(
        arm.name,
        control.name,
        expm1(whole.change),
        expm1(equal.between.change),
        finite(shown("relative", low)),
        finite(shown("relative", high)),
        expm1(same_prompts.change - equal.between.change),
        expm1(whole.change - same_prompts.change),
        equal.covered,
        "",
    )
    return msgspec.structs.replace(bare, sentence=_sentence(bare))


@dataclass(frozen=True, slots=True)
class _Equal:
    between: Contrast | None
    covered: float


def _finest(arm: Timed, control: Timed) -> _Equal:
    most = _at_equal(arm, control, _GRIDS[-1])
    finer = (_at_equal(arm, control, grid) for grid in _GRIDS[:-1])
    return next((equal for equal in finer if equal.covered >= _KEPT * most.covered), most)


def _at_equal(arm: Timed, control: Timed, grid: _Grid) -> _Equal:
    """The contrast of medians over the cells where both arms have enough, given the mix that both have together."""
    cells = [grid.cells(one) for one in (arm, control)]
    size = 1 + max(int(places.max(initial=-1)) for places in cells)
    counts = [np.bincount(places, minlength=size) for places in cells]
    usable = np.min(counts, axis=0) >= _LEAST_REQUESTS
    for one, places in zip((arm, control), cells, strict=True):
        usable[places[held(one.unit, places) > _MOST_HELD]] = False
    pooled = np.where(usable, np.sum(counts, axis=0), 0.0)
    weights = [pooled / np.maximum(count, 1) for count in counts]
    medians = [_median(one, places, weight) for one, places, weight in zip((arm, control), cells, weights, strict=True)]
    everything = sum(len(places) for places in cells)
    return _Equal(contrast("relative", *medians), float(pooled.sum()) / everything if everything else 0.0)


def _median(arm: Timed, cells: Places, weight: Floats) -> Quantile:
    weights = weight[cells]
    kept = weights > 0
    return weighted_median(arm.ttft_s[kept], arm.unit[kept], weights[kept], cells[kept])


def _sentence(one: Separation) -> str:
    whole, equal, caches, chance = (
        signed(change or 0.0, "relative")
        for change in (one.whole, one.equal, one.through_hit_rate, one.through_prompts)
    )
    return (
        f"{one.arm} against {one.against}: TTFT p50 {whole}; of that {equal} ({span(one.low, one.high, 'relative')}) "
        f"is there at equal prompts and cached fractions, {caches} comes through a different hit rate, and {chance} "
        f"through which prompts each arm happened to get. {one.covered:.0%} of requests could be compared."
    )
