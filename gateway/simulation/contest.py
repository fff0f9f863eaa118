"""One comparison: a policy by name, our own, a published one or a bound, on a trace and a fleet; pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from gateway.routing.holding import DEFAULT_HOLD_MS
from gateway.routing.policies import POLICIES
from gateway.simulation.baselines.registry import BASELINES
from gateway.simulation.bounds import PooledChooser
from gateway.simulation.chooser import Chooser
from gateway.simulation.compared import ComparedChooser
from gateway.simulation.fleet import SimulatedReplica, largest_prompt
from gateway.simulation.misjudged import (
    RIGHT,
    Misjudged,
    misjudge_depths,
    misjudged_prompts,
    told_fleet,
    true_fleet,
)
from gateway.simulation.reading import fitting
from gateway.simulation.results import Row, row_of
from gateway.simulation.routed import RoutedChooser
from gateway.simulation.run import Outage, Run
from gateway.simulation.split import SPLIT, UNITS, halves
from gateway.simulation.trace import Trace, at_load, load_of

_BY_CACHE: Final = frozenset({"ttft", "prefix"})
OURS: Final = "ttft"
"""What the product does unless told otherwise, and what is measured against the others."""
GUESS: Final = "-guess"
"""Ends the name of one of our policies that hears no KV events."""
ENDLESS: Final = 1000
"""A shared cache of so many times the fleet's has no end, for any trace that fits in memory."""


class Kind(StrEnum):
    """What a policy is to the comparison."""

    OURS = "ours"
    BASELINE = "baseline"
    BOUND = "bound"


@dataclass(frozen=True, slots=True)
class Contestant:
    """A policy that can be compared; `source` says whose it is."""

    name: str
    kind: Kind
    source: str


def _contestants() -> dict[str, Contestant]:
    """Of names that are both ours and a baseline's (`random`, `round-robin`) the baseline is meant."""
    ours = [name for name in POLICIES if name not in BASELINES]
    guesses = [name + GUESS for name in ours if name in _BY_CACHE]
    return {
        one.name: one
        for one in (
            *(Contestant(name, Kind.OURS, "this product's Router") for name in ours),
            *(Contestant(name, Kind.OURS, "the same without KV events") for name in guesses),
            *(
                Contestant(f"{OURS}{SPLIT}{unit}", Kind.OURS, f"ttft in an experiment: half the fleet each, by {unit}")
                for unit in UNITS
            ),
            *(Contestant(name, Kind.BASELINE, baseline.source) for name, baseline in BASELINES.items()),
            Contestant("pooled", Kind.BOUND, "all caches as one that every replica hits; first come, first served"),
            Contestant("pooled-infinite", Kind.BOUND, "the same without an end to that cache"),
        )
    }


CONTESTANTS: Final[Mapping[str, Contestant]] = MappingProxyType(_contestants())
"""By name."""
ALL: Final = (OURS, OURS + GUESS, *BASELINES, "pooled", "pooled-infinite")
"""What `all` stands for."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a comparison is under, the same for every policy. `events`: whether ours hear the engines' KV events."""

    seed: int = 1
    events: bool = True
    hold_ms: float = DEFAULT_HOLD_MS
    misjudged: Misjudged = RIGHT
    outages: tuple[Outage, ...] = ()


class CaseError(ValueError):
    """A case that cannot be played; the message says why."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is played, the same for every policy. The trace is played as it is; `load` is what that comes to.

    `notes` say what was left out of it.
    """

    workload: str
    trace: Trace
    load: float
    fleet: tuple[SimulatedReplica, ...]
    terms: Terms = Terms()
    notes: tuple[str, ...] = ()


def case_at(
    trace: Trace,
    load: float | None,
    fleet: tuple[SimulatedReplica, ...],
    terms: Terms = Terms(),
    workload: str | None = None,
) -> Case:
    """The trace at this load, or at its own pace for None, without what the fleet cannot hold. Raises CaseError."""
    kept, notes = fitting(trace, largest_prompt(fleet))
    name = workload or trace.name
    if not kept.requests:
        raise CaseError(f"{name} has no request that the fleet can serve")
    if load is None:
        return Case(name, kept, load_of(kept, fleet), fleet, terms, notes)
    if not kept.span_s:
        raise CaseError(f"all requests of {name} come at one time, which no load can stretch")
    return Case(name, at_load(kept, load, fleet), load, fleet, terms, notes)


@dataclass(frozen=True, slots=True)
class Comparison:
    """One run to make."""

    case: Case
    policy: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """A run's figures, and its times to first token in ascending order, for curves."""

    row: Row
    ttfts_s: tuple[float, ...]


def play(comparison: Comparison, progress: Callable[[int], None] = lambda _: None) -> Outcome:
    """Make the run; `progress` is told how many requests are over. Raises KeyError for an unknown policy."""
    case, policy = comparison.case, comparison.policy
    terms = case.terms
    fleet = true_fleet(case.fleet, terms.misjudged, terms.seed)
    pooled = {"pooled": 1, "pooled-infinite": ENDLESS}.get(policy, 0)
    chooser = _chooser(policy, fleet if pooled else case.fleet, terms)
    run = Run(case.trace, fleet, chooser, outages=terms.outages, pooled=pooled, progress=progress)
    result = run.run()
    row = row_of(case.workload, policy, case.load, result)
    return Outcome(row, tuple(sorted(served.ttft_s for served in result.served)))


def _chooser(policy: str, fleet: Sequence[SimulatedReplica], terms: Terms) -> Chooser:
    kind, misjudged = CONTESTANTS[policy].kind, terms.misjudged
    if kind is Kind.BOUND:
        return PooledChooser(fleet)
    told = told_fleet(fleet, misjudged, terms.seed)
    if kind is Kind.BASELINE:
        if not misjudged.cached:
            return ComparedChooser(told, BASELINES[policy], terms.seed)
        seen = misjudged_prompts(misjudged.cached, terms.seed)
        return ComparedChooser(told, BASELINES[policy], terms.seed, seen=seen)
    policy, _, unit = policy.partition(SPLIT)
    routed = RoutedChooser(
        told,
        policy.removesuffix(GUESS),
        terms.seed,
        events=terms.events and not policy.endswith(GUESS),
        hold_ms=terms.hold_ms,
        experiments=(halves(told, unit),) if unit else (),
    )
    if misjudged.cached:
        misjudge_depths(routed.router, misjudged.cached, terms.seed)
    return routed
