"""What a ladder's samples say: medians, spreads, slopes, verdicts and doubts; pure."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from statistics import median
from typing import Final

import msgspec

from gateway.bench.doubts import doubts
from gateway.bench.figures import RungFigures, figures_of
from gateway.bench.intervals import Ratio, Verdict, ratio_of, slope_of, verdict_of
from gateway.bench.plan import Rung
from gateway.bench.samples import Sample

KNEE_TOKENS: Final = 8192
"""From here on prefill time was found to be linear, and a line is fitted."""
DEFAULT_TIE_MARGIN: Final = 0.03
"""The published runs called a difference of 1.99 % run-to-run noise: a margin that holds that and an interval."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """A target as a table shows it; `simulated` is what a simulated engine said of itself, "" for any other."""

    name: str
    config: str
    engine: str
    gpus: int
    planned: bool = False
    """It has no URL and was not run."""
    simulated: str = ""
    model: str = ""
    version: str | None = None
    chunk_tokens: int | None = None


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds for each further 8,192 tokens above the first 8,192, with its 95 % interval."""

    target: str
    ms_per_8k: float
    low: float
    high: float


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two targets on the longest rung that both have. Ratios are the second's TTFT over the first's, and the first's
    tok/s/GPU over the second's, so that above 1 the first is better in both. None: an interval without an end.
    """

    first: str
    second: str
    isl: int
    ttft: float
    ttft_low: float | None
    ttft_high: float | None
    ttft_verdict: Verdict
    per_gpu: float
    per_gpu_low: float | None
    per_gpu_high: float | None
    per_gpu_verdict: Verdict


class LadderReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is shown; `headline_isl` is the longest fresh rung, None where there is no sample."""

    rows: list[Row]
    headline_isl: int | None
    rungs: list[RungFigures]
    lines: list[Line]
    comparisons: list[Comparison]
    warnings: list[str]

    def of(self, target: str) -> list[RungFigures]:
        """All figures of a target."""
        return [one for one in self.rungs if one.target == target]

    def figures(self, target: str, rung: Rung) -> RungFigures | None:
        """One cell."""
        return next((one for one in self.rungs if one.target == target and one.rung == rung), None)


def report_on(
    rows: Sequence[Row],
    samples: Sequence[Sample],
    troubles: Sequence[str],
    block_tokens: Mapping[str, int],
    tie_margin: float,
) -> LadderReport:
    """`block_tokens`: by how much each target's cached tokens may differ from what was primed."""
    names = [row.name for row in rows]
    gpus = {row.name: row.gpus for row in rows}
    good = [one for one in samples if one.target in gpus and _is_good(one, block_tokens.get(one.target, 0))]
    kept: dict[tuple[str, Rung], list[Sample]] = {}
    for one in good:
        kept.setdefault((one.target, one.rung), []).append(one)
    figures = [
        figures_of(kept[name, rung], _count(samples, name, rung), gpus[name])
        for name in names
        for rung in sorted({rung for target, rung in kept if target == name})
    ]
    fresh = {name: [one for one in good if one.target == name and not one.cached] for name in names}
    return LadderReport(
        rows=list(rows),
        headline_isl=max((one.isl for one in figures if not one.cached), default=None),
        rungs=figures,
        lines=[line for name in names if (line := _line(name, fresh[name])) is not None],
        comparisons=[
            found
            for first, second in combinations(names, 2)
            if (found := _compare(fresh[first], fresh[second], gpus, tie_margin)) is not None
        ],
        warnings=[*troubles, *doubts(samples, good, figures, tie_margin)],
    )


def _is_good(sample: Sample, block_tokens: int) -> bool:
    """Whether as much was cached as was meant: nothing, or the primed part to within a block."""
    if sample.cached_tokens is None:
        return True
    if not sample.cached:
        return sample.cached_tokens <= sample.shared_tokens
    return abs(sample.cached_tokens - sample.primed_tokens) <= block_tokens


def _count(samples: Sequence[Sample], name: str, rung: Rung) -> int:
    return sum(one.target == name and one.rung == rung for one in samples)


def _line(name: str, samples: Sequence[Sample]) -> Line | None:
    above = [one for one in samples if one.isl >= KNEE_TOKENS]
    slope = slope_of([one.prompt_tokens for one in above], [one.ttft_ms for one in above])
    if slope is None:
        return None
    estimate, low, high = (KNEE_TOKENS * one for one in (slope.estimate, slope.low, slope.high))
    return Line(target=name, ms_per_8k=estimate, low=low, high=high)


def _compare(
    first: Sequence[Sample], second: Sequence[Sample], gpus: Mapping[str, int], tie_margin: float
) -> Comparison | None:
    shared = {one.isl for one in first} & {one.isl for one in second}
    if not shared:
        return None
    isl = max(shared)
    ours, theirs = ([one for one in samples if one.isl == isl] for samples in (first, second))
    ttft = ratio_of([one.ttft_ms for one in ours], [one.ttft_ms for one in theirs])
    tokens = median(one.prompt_tokens for one in ours) / median(one.prompt_tokens for one in theirs)
    per_gpu = ttft.times(tokens * gpus[theirs[0].target] / gpus[ours[0].target])
    return Comparison(
        first=ours[0].target,
        second=theirs[0].target,
        isl=isl,
        ttft=ttft.estimate,
        ttft_low=_end(ttft, ttft.low),
        ttft_high=_end(ttft, ttft.high),
        ttft_verdict=verdict_of(ttft, tie_margin),
        per_gpu=per_gpu.estimate,
        per_gpu_low=_end(per_gpu, per_gpu.low),
        per_gpu_high=_end(per_gpu, per_gpu.high),
        per_gpu_verdict=verdict_of(per_gpu, tie_margin),
    )


def _end(ratio: Ratio, end: float) -> float | None:
    return end if ratio.low > 0 and math.isfinite(ratio.high) else None
