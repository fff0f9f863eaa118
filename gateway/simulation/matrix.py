"""The matrix: every policy on every workload and mishap, summed up against the best baseline of each; pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Final

from gateway.simulation.contest import CONTESTANTS, OURS, Case, Kind, Terms, case_at
from gateway.simulation.fleet import DEFAULT_FLEET, parse_fleet
from gateway.simulation.misjudged import RIGHT, Misjudged
from gateway.simulation.results import Row
from gateway.simulation.run import Outage
from gateway.simulation.trace import Trace
from gateway.simulation.workloads import WORKLOADS

DEFAULT_REQUESTS: Final = 4000
TRACE_LOADS: Final = (0.3, 0.5, 0.7)
BOUND: Final = "pooled"


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the matrix: a workload at a load, and what is not as usual."""

    name: str
    workload: str
    load: float
    fleet: str = DEFAULT_FLEET
    misjudged: Misjudged = RIGHT
    outages: tuple[Outage, ...] = ()


SETTINGS: Final = (
    Setting("chat", "chat", 0.3),
    Setting("chat", "chat", 0.5),
    Setting("chat", "chat", 0.7),
    Setting("sessions", "sessions", 0.3),
    Setting("agents", "agents", 0.09),
    Setting("hot-tools", "hot-tools", 0.5),
    Setting("cold-bursts", "cold-bursts", 0.3),
    Setting("slow-replica", "chat", 0.5, "vllm-w4a8:3,vllm-w4a8:1@0.5,sglang-fp4:4"),
    Setting("dying-replica", "chat", 0.5, outages=(Outage(0, 0.4, 0.6),)),
    Setting("three-times", "chat", 0.5, "vllm-w4a8:4@3,sglang-fp4:4"),
    Setting("misjudged-speed", "chat", 0.5, misjudged=Misjudged(speed=0.3)),
    Setting("misjudged-capacity", "chat", 0.5, misjudged=Misjudged(capacity=0.3)),
    Setting("misjudged-cached", "chat", 0.5, misjudged=Misjudged(cached=0.2)),
    Setting("misjudged-all", "chat", 0.5, misjudged=Misjudged(0.3, 0.3, 0.2)),
)
"""All but a trace of the caller's."""


def cases(trace: Trace | None, requests: int, kv_tokens: int, chunk_tokens: int, terms: Terms) -> Iterator[Case]:
    """What is to be played; a trace of the caller's comes first. Raises FleetError or CaseError."""
    if trace is not None:
        fleet = parse_fleet(DEFAULT_FLEET, kv_tokens, chunk_tokens)
        for load in TRACE_LOADS:
            yield case_at(trace, load, fleet, terms)
    for one in SETTINGS:
        made = WORKLOADS[one.workload](terms.seed, requests)
        fleet = parse_fleet(one.fleet, kv_tokens, chunk_tokens)
        changed = replace(terms, misjudged=one.misjudged, outages=one.outages)
        yield case_at(made, one.load, fleet, changed, one.name)


@dataclass(frozen=True, slots=True)
class Summary:
    """One line: ours against the best baseline. Ratios are ours over theirs; `worst_ratio` alone is theirs over ours.

    `best` has the lowest mean; the lowest 90th percentile and the highest hit rate may be other baselines'.
    """

    workload: str
    load: float | None
    best: str
    best_mean_ms: float
    ours_mean_ms: float
    mean_ratio: float
    p90_ratio: float
    hit_ratio: float
    bound_ratio: float | None
    worst: str
    worst_ratio: float


def summaries(rows: Sequence[Row]) -> list[Summary]:
    """A line for each workload and load, in the order in which they come. Rows of one are to stand together."""
    return [_summary(ours, baselines, bound) for ours, baselines, bound in _parts(rows)]


def ratios(rows: Sequence[Row]) -> dict[str, list[float]]:
    """For each baseline its mean over ours, by workload in the order in which they come."""
    table: dict[str, list[float]] = {}
    for ours, baselines, _ in _parts(rows):
        for name, row in baselines.items():
            table.setdefault(name, []).append(_over(row.ttft_mean_ms, ours.ttft_mean_ms))
    return table


def _parts(rows: Sequence[Row]) -> Iterator[tuple[Row, Mapping[str, Row], Row | None]]:
    """Ours, the baselines in their order, and the bound."""
    for _, group in groupby(rows, key=lambda row: (row.workload, row.load)):
        found = {row.policy: row for row in group}
        named = {name: found[name] for name in CONTESTANTS if name in found}
        baselines = {name: row for name, row in named.items() if CONTESTANTS[name].kind is Kind.BASELINE}
        yield found[OURS], baselines, found.get(BOUND)


def _summary(ours: Row, baselines: Mapping[str, Row], bound: Row | None) -> Summary:
    means = {name: row.ttft_mean_ms or 0.0 for name, row in baselines.items()}
    best, worst = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
    mean_ms = ours.ttft_mean_ms or 0.0
    return Summary(
        workload=ours.workload,
        load=ours.load,
        best=best,
        best_mean_ms=means[best],
        ours_mean_ms=mean_ms,
        mean_ratio=_over(mean_ms, means[best]),
        p90_ratio=_over(ours.ttft_p90_ms, min(row.ttft_p90_ms or 0.0 for row in baselines.values())),
        hit_ratio=_over(ours.hit_rate, max(row.hit_rate or 0.0 for row in baselines.values())),
        bound_ratio=None if bound is None else _over(mean_ms, bound.ttft_mean_ms),
        worst=worst,
        worst_ratio=_over(means[worst], mean_ms),
    )


def _over(one: float | None, other: float | None) -> float:
    """Their ratio; of nothing to nothing 1."""
    if not other:
        return float("inf") if one else 1.0
    return round((one or 0.0) / other, 4)
