"""TTFT by stratum: requests with prompts of alike length of which alike parts were cached; pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from gateway.experiments.clusters import Floats, Places
from gateway.experiments.report import Interval, Stratum, StratumArm
from gateway.experiments.sample import Sample

PROMPT_EDGES: Final = (0, 1000, 2000, 4000, 8000, 16_000, 32_000, 64_000)
"""Tokens at which strata of prompt length begin."""
CACHED_EDGES: Final = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
"""Cached fractions at which strata begin."""
_LEAST_REQUESTS: Final = 10
"""An arm with fewer in a stratum has no figure of it."""


@dataclass(frozen=True, slots=True)
class Timed:
    """Requests of an arm that have a TTFT and whose tokens the engine told."""

    name: str
    ttft_s: Floats
    unit: Places
    prompt_tokens: Floats
    cached_fraction: Floats


def timed(sample: Sample) -> Timed:
    """Those of a sample."""
    of, rows = sample.observations, sample.rows
    ttft, prompt, cached = of.ttft_s[rows], of.prompt_tokens[rows], of.cached_tokens[rows]
    known = sample.own & np.isfinite(ttft) & (ttft >= 0) & np.isfinite(cached) & np.isfinite(prompt) & (prompt > 0)
    fraction = np.clip(cached[known] / prompt[known], 0.0, 1.0)
    return Timed(sample.terms.name, ttft[known], sample.unit[known], prompt[known], fraction)


def strata(arms: Sequence[Timed]) -> tuple[Stratum, ...]:
    """Every stratum that has requests, in order of prompt length."""
    size = len(PROMPT_EDGES) * len(CACHED_EDGES)
    places = [_places(arm) for arm in arms]
    counts = [np.bincount(place, minlength=size) for place in places]
    medians = [_medians(arm.ttft_s, place) for arm, place in zip(arms, places, strict=True)]
    totals = np.sum(counts, axis=0) if counts else np.zeros(size)

    def one(number: int) -> Stratum:
        prompt, cached = divmod(number, len(CACHED_EDGES))
        of_arms = tuple(
            StratumArm(arm.name, int(count[number]), median.get(number))
            for arm, count, median in zip(arms, counts, medians, strict=True)
        )
        share = float(totals[number] / totals.sum())
        return Stratum(_between(PROMPT_EDGES, prompt), _between(CACHED_EDGES, cached), share, of_arms)

    return tuple(one(int(number)) for number in np.flatnonzero(totals))


def _places(arm: Timed) -> Places:
    by_prompt = np.searchsorted(PROMPT_EDGES, arm.prompt_tokens, side="right") - 1
    by_cached = np.searchsorted(CACHED_EDGES, arm.cached_fraction, side="right") - 1
    return by_prompt * len(CACHED_EDGES) + by_cached


def _between(edges: Sequence[float], place: int) -> Interval:
    return Interval(float(edges[place]), float(edges[place + 1]) if place + 1 < len(edges) else None)


def _medians(ttft_s: Floats, places: Places) -> dict[int, float]:
    order = np.argsort(places, kind="stable")
    numbers, starts = np.unique(places[order], return_index=True)
    groups = np.split(ttft_s[order], starts[1:])
    found = zip(numbers, groups, strict=True) if len(numbers) else ()
    return {int(number): float(np.median(group)) for number, group in found if len(group) >= _LEAST_REQUESTS}
