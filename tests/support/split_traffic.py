"""Traffic that an experiment split between two arms, made up: units, their requests, what came of them."""

from dataclasses import dataclass

import numpy as np

from gateway.experiments.observations import Observations

ARMS = ("control", "other")


@dataclass(frozen=True, slots=True)
class Traffic:
    """A kind of traffic.

    `units` units have lognormal sizes of mean `size` and log-deviation `size_spread`. Each starts at random and lives
    for the share `life` of the time; 1 is all of it, so that every unit recurs throughout. Units differ in prompt
    length (log-deviation `prompt_spread`) and in what part of their prompts recurs; the first request of a unit finds
    nothing cached. TTFT follows from the tokens that were not. `control` is the control's share of units.
    """

    units: int
    size: float = 5.0
    size_spread: float = 1.0
    life: float = 0.1
    prompt_spread: float = 0.7
    reuse: float = 4.0
    noise: float = 0.3
    control: float = 0.5


def observe(traffic: Traffic, rng: np.random.Generator, slower: float = 0.0, less_cached: float = 0.0) -> Observations:
    """One experiment's worth. The other arm's TTFT is `1 + slower` times, its cached part `1 - less_cached` times."""
    units = traffic.units
    mu = np.log(traffic.size) - traffic.size_spread**2 / 2
    sizes = 1 + rng.poisson(rng.lognormal(mu, traffic.size_spread, units))
    arm_of = (rng.random(units) >= traffic.control).astype(np.int16)
    starts = rng.random(units) * (1 - traffic.life)
    prompts = rng.lognormal(np.log(6000), traffic.prompt_spread, units)
    recurring = rng.beta(traffic.reuse, 2.0, units)
    unit = np.repeat(np.arange(units), sizes)
    at = starts[unit] + traffic.life * rng.random(len(unit))
    order = np.argsort(at)
    unit, at = unit[order], at[order]
    arm = arm_of[unit]
    first = np.zeros(len(unit), dtype=bool)
    first[np.unique(unit, return_index=True)[1]] = True
    prompt = np.rint(prompts[unit] * rng.lognormal(0.0, 0.2, len(unit)))
    cached = np.where(first, 0.0, recurring[unit] * np.where(arm == 1, 1 - less_cached, 1.0))
    cached_tokens = np.floor(prompt * cached)
    ttft = (0.05 + 7e-5 * (prompt - cached_tokens)) * rng.lognormal(0.0, traffic.noise, len(unit))
    ttft *= np.where(arm == 1, 1 + slower, 1.0)
    none = np.zeros(len(unit), dtype=bool)
    completion = np.rint(rng.lognormal(5.0, 0.5, len(unit)))
    itl = 0.02 * rng.lognormal(0.0, 0.1, len(unit))
    return Observations(
        ARMS,
        arm,
        unit.astype(np.uint64),
        at * 3600,
        ttft,
        itl,
        ttft + itl * completion,
        prompt,
        cached_tokens,
        completion,
        none,
        none,
        none,
    )


def until(observations: Observations, count: int) -> Observations:
    """The first `count` of them."""
    columns = [getattr(observations, name)[:count] for name in Observations.__slots__[1:]]
    return Observations(observations.arms, *columns)
