"""Do the statistics of experiments keep what they say? On simulated traffic, for `make bench-experiments`.

usage: bench_experiments.py [--seeds 1000] [--peeks 20] [--processes 2]

Prints a table of what is wanted and what was seen; exit status 1 where they differ. With far fewer than 1000 seeds
chance alone may make them differ.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from split_traffic import Traffic, observe

from gateway.experiments.always_valid import contrast
from gateway.experiments.analysis import figure
from gateway.experiments.comparing import compare
from gateway.experiments.doubts import FEW_UNITS
from gateway.experiments.growth import first
from gateway.experiments.guardrails import breaches
from gateway.experiments.metrics import METRICS, estimate
from gateway.experiments.promises import promises
from gateway.experiments.report import Comparison, Figure
from gateway.experiments.sample import Sample, samples
from gateway.experiments.separation import separate
from gateway.experiments.strata import timed
from gateway.experiments.terms import ArmTerms, Guardrails, Terms

TERMS = Terms((ArmTerms("control"), ArmTerms("other")))
STRICT = Terms(TERMS.arms, guardrails=Guardrails(0.0, 0.0, 1))
JUDGED = ("ttft_p50", "hit_rate")
FIRST_LOOK = 40
TRAFFICS = {
    "requests, each its own unit": Traffic(3000, size=0),
    "sessions": Traffic(1000),
    "sessions, 80 % to the control": Traffic(1000, control=0.8),
    "families that recur throughout": Traffic(800, size=5, life=1.0),
    "families that grow, load swings": Traffic(800, size=5, life=0.5, growth=3.0, swing=0.5),
    "families, 60 of heavy tails": Traffic(60, size=50, size_spread=1.3, life=1.0),
    "families, 25": Traffic(25, size=100, life=1.0),
    "tenants, 12": Traffic(12, size=150, life=1.0),
}
FOUND_IN = {
    "requests, each its own unit": Traffic(6000, size=0),
    "sessions of alike prompts": Traffic(2400, prompt_spread=0.1, noise=0.2),
    "families of alike prompts": Traffic(800, size=12, life=1.0, prompt_spread=0.1, noise=0.2),
}
TIED_IN = {
    "requests of alike prompts": Traffic(24_000, size=0, prompt_spread=0.1, noise=0.2),
    "sessions of alike prompts": Traffic(40_000, size=1, size_spread=0.5, prompt_spread=0.1, noise=0.1),
}


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the table: shares between 0 and 1."""

    what: str
    traffic: str
    least: float
    most: float
    seen: float
    remark: str = ""

    @property
    def good(self) -> bool:
        return self.least <= self.seen <= self.most

    def __str__(self) -> str:
        wanted = f"{self.least:.1%} to {self.most:.1%}" if self.least or self.most == 1 else f"at most {self.most:.1%}"
        return (
            f"{self.what:44} {self.traffic:32} {wanted:>18} {self.seen:8.1%}  "
            f"{'ok    ' if self.good else 'MISSED'} {self.remark}"
        )


def compared(arms: tuple[Sample, ...], name: str) -> Comparison:
    control, other = arms
    return compare(METRICS[name], "other", estimate(other, name), estimate(control, name), TERMS)


def looks(total: int, peeks: int) -> list[int]:
    return sorted({int(count) for count in np.geomspace(min(FIRST_LOOK, total), total, peeks)})


@dataclass(frozen=True, slots=True)
class EqualArms:
    """What came of one experiment of equal arms: which false claims were ever made; the figures at its end."""

    claims: frozenset[str]
    figures: tuple[Figure, ...]


def of_equal_arms(traffic: Traffic, peeks: int, seed: int) -> EqualArms:
    whole = observe(traffic, np.random.default_rng((1, seed)))
    claims = set()
    for count in looks(len(whole), peeks):
        arms = samples(first(whole, count), TERMS)
        claims |= {name for name in JUDGED if compared(arms, name).verdict in ("better", "worse")}
    for count in looks(len(whole), peeks)[::-4]:  # the rest is looked at less often, to take minutes and not hours
        control, other = arms = samples(first(whole, count), TERMS)
        if breaches(arms, STRICT):
            claims.add("stop")
        alike = separate(timed(other), timed(control), TERMS)
        if (alike.low is not None and alike.low > 0) or (alike.high is not None and alike.high < 0):
            claims.add("alike")
    figures = (figure(name, estimate(arm, name), TERMS) for name in JUDGED for arm in samples(whole, TERMS))
    return EqualArms(frozenset(claims), tuple(figures))


def truths(traffic: Traffic) -> dict[str, float]:
    """What an endless experiment of this traffic would find."""
    many = observe(replace(traffic, units=round(2e6 / (1 + traffic.size))), np.random.default_rng(0))
    return {
        "ttft_p50": float(np.median(many.ttft_s)),
        "hit_rate": float(many.cached_tokens.sum() / many.prompt_tokens.sum()),
    }


def covers(one: Figure, truth: float) -> bool:
    return (one.low is None or one.low <= truth) and (one.high is None or truth <= one.high)


def equal_arms(pool: Executor, seeds: int, peeks: int) -> Iterator[Line]:
    for name, traffic in TRAFFICS.items():
        ends = list(pool.map(partial(of_equal_arms, traffic, peeks), range(seeds), chunksize=10))
        for what, claim in (
            ("false verdict at any look, TTFT p50", "ttft_p50"),
            ("false verdict at any look, hit rate", "hit_rate"),
            ("false change at equal prompts, some looks", "alike"),
            ("false stop, guardrails at 0, some looks", "stop"),
        ):
            yield Line(what, name, 0.0, TERMS.alpha, sum(claim in end.claims for end in ends) / seeds)
        for metric, truth in truths(traffic).items():
            figures = [one for end in ends for one in end.figures if one.metric == metric]
            some = [one for one in figures if one.low is not None]
            effective = np.median([one.effective_units for one in figures])
            remark = f"median {effective:.1f} effective units an arm"
            if len(some) < len(figures):
                remark += f"; no interval in {1 - len(some) / len(figures):.1%}"
            most = 0.97 if effective >= FEW_UNITS else 1.0
            seen = sum(covers(one, truth) for one in some) / len(some)
            yield Line(f"95 % interval holds the truth, {METRICS[metric].title}", name, 0.93, most, seen, remark)


def verdicts(traffic: Traffic, slower: float, peeks: int, seed: int) -> list[str]:
    """At every look."""
    whole = observe(traffic, np.random.default_rng((2, seed)), slower=slower)
    return [compared(samples(first(whole, count), TERMS), "ttft_p50").verdict for count in looks(len(whole), peeks)]


def promised(traffic: Traffic, times: int, seed: int) -> float:
    """The power at the traffic's units that a report promises when it has seen the `times`th part of them."""
    early = observe(replace(traffic, units=traffic.units // times), np.random.default_rng((3, seed)))
    control, other = (estimate(arm, "ttft_p50") for arm in samples(early, TERMS))
    between = contrast("relative", other, control)
    assert between is not None
    wanted = (between.arm.spread.units + between.against.spread.units) * times // 2
    said = list(promises("other", between, METRICS["ttft_p50"], TERMS))  # the last is sure, and so are all after it
    return next((line.probability for line in said if line.units_per_arm == wanted), said[-1].probability)


def power(pool: Executor, seeds: int, peeks: int) -> Iterator[Line]:
    for name, whole in FOUND_IN.items():
        for part in (3, 2, 1):
            traffic = replace(whole, units=whole.units // part)
            ends = list(pool.map(partial(verdicts, traffic, 0.10, peeks), range(seeds), chunksize=10))
            promise = float(np.mean(list(pool.map(partial(promised, traffic, 4), range(seeds), chunksize=50))))
            seen = sum("worse" in end for end in ends) / seeds
            least = max(promise - 0.03, 0.0)
            wrong = sum("better" in end for end in ends)
            remark = f"promised {promise:.1%} at {traffic.units // 2} units an arm; ever called better: {wrong}"
            yield Line("true 10 % slower is found", name, least, 1.0, seen, remark)


def ties(pool: Executor, seeds: int, peeks: int) -> Iterator[Line]:
    for name, traffic in TIED_IN.items():
        ends = list(pool.map(partial(verdicts, traffic, 0.02, min(peeks, 5)), range(seeds), chunksize=10))
        remark = ", ".join(f"ever {word} {sum(word in end for end in ends)}" for word in ("better", "worse"))
        yield Line(
            "true 2 % slower is a tie in the end", name, 0.9, 1.0, sum(e[-1] == "tie" for e in ends) / seeds, remark
        )


SECTIONS: tuple[Callable[[Executor, int, int], Iterator[Line]], ...] = (equal_arms, power, ties)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=1000)
    parser.add_argument("--peeks", type=int, default=20, help="looks at each experiment as it grows")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    print(f"simulated traffic, {options.seeds} seeds, {options.peeks} looks at each, alpha {TERMS.alpha}")
    began, missed = time.monotonic(), 0
    with ProcessPoolExecutor(options.processes, get_context("spawn"), initializer=os.nice, initargs=(5,)) as pool:
        for section in SECTIONS:
            for line in section(pool, options.seeds, options.peeks):
                print(line, flush=True)
                missed += not line.good
    print(f"{missed} missed, {time.monotonic() - began:.0f} s")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
