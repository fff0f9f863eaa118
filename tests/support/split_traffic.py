"""Made-up traffic that an experiment split between two arms: units, their requests and what came of them."""

from dataclasses import dataclass

import numpy as np

from gateway.experiments.observations import Observations

ARMS = ("control", "other")


@dataclass(frozen=True, slots=True)
class Traffic:
    """A kind of traffic.

    `units` units have at least one request and on average `size` more, lognormal with the log-deviation `size_spread`.
    Each lives for the share `life` of the time: at 1 every unit recurs throughout. `growth` above 1 makes units come
    more often as they grow older. Units differ in prompt length (log-deviation `prompt_spread`) and in what part of a
    prompt recurs; the first request of a unit finds only what all prompts begin with. TTFT follows from the tokens that
    were not cached, with `noise`, and from a load that swings by `swing` in the course of time. `control` is the
    control's share of units.
    """

    units: int
    size: float = 4.0
    size_spread: float = 1.0
    life: float = 0.05
    growth: float = 1.0
    prompt_spread: float = 0.7
    noise: float = 0.3
    swing: float = 0.0
    control: float = 0.5


def observe(traffic: Traffic, rng: np.random.Generator, slower: float = 0.0, less_cached: float = 0.0) -> Observations:
    """One experiment's worth. The other arm's TTFT is `1 + slower` times, its cached part `1 - less_cached` times."""
    units = traffic.units
    sizes = np.ones(units, dtype=np.intp)
    if traffic.size:
        middle = np.log(traffic.size) - traffic.size_spread**2 / 2
        sizes += rng.poisson(rng.lognormal(middle, traffic.size_spread, units))
    arms = (rng.random(units) >= traffic.control).astype(np.int16)
    starts = rng.random(units) * (1 - traffic.life)
    prompts = rng.lognormal(np.log(6000), traffic.prompt_spread, units)
    recurring = rng.beta(4.0, 2.0, units)
    unit = np.repeat(np.arange(units), sizes)
    at = starts[unit] + traffic.life * rng.random(len(unit)) ** (1 / traffic.growth)
    order = np.argsort(at)
    unit, at = unit[order], at[order]
    other = arms[unit] == 1
    first = np.zeros(len(unit), dtype=bool)
    first[np.unique(unit, return_index=True)[1]] = True
    prompt = np.rint(prompts[unit] * rng.lognormal(0.0, 0.2, len(unit))) + 1
    part = np.where(first, rng.beta(1.5, 6.0, len(unit)), recurring[unit]) * np.where(other, 1 - less_cached, 1.0)
    cached = np.floor(prompt * part)
    ttft = (0.05 + 7e-5 * (prompt - cached)) * rng.lognormal(0.0, traffic.noise, len(unit))
    ttft *= np.where(other, 1 + slower, 1.0) * (1 + traffic.swing * np.sin(12 * np.pi * at))
    completion = np.rint(rng.lognormal(5.0, 0.5, len(unit)))
    itl = 0.02 * rng.lognormal(0.0, 0.1, len(unit))
    never = np.zeros(len(unit), dtype=bool)
    return Observations(
        arms=ARMS,
        arm=arms[unit],
        unit=unit.astype(np.uint64),
        at_s=at * 3600,
        ttft_s=ttft,
        itl_s=itl,
        request_s=ttft + itl * completion,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=completion,
        failed=never,
        refused=never,
        crossed=never,
    )
