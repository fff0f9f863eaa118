"""What a ladder's samples say: medians, spreads, slopes, verdicts and doubts; pure."""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Final

import msgspec
import numpy as np

from gateway.bench.intervals import Ratio, Verdict, ratio_of, slope_of, verdict_of
from gateway.bench.plan import Rung
from gateway.bench.samples import Sample

KNEE_TOKENS: Final = 8192
"""From here on prefill time was found to be linear, and a line is fitted."""
DEFAULT_TIE_MARGIN: Final = 0.03
"""The published runs called a difference of 1.99 % run-to-run noise: a margin that holds that and an interval."""
_FEWEST_SEEN: Final = 4
_SKEW: Final = 4.0
_OFF: Final = 0.01


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


class RungFigures(msgspec.Struct, frozen=True, kw_only=True):
    """One target on one rung. Times in ms; `q1` and `q3` are the quartiles; `left_out` samples are in no figure.

    `tokens_per_s_per_gpu` is of tokens that were not cached. `prefill_ms` is the engine's own word, the median.
    """

    target: str
    isl: int
    cached: float
    samples: int
    left_out: int
    ttft_ms: float
    q1_ms: float
    q3_ms: float
    min_ms: float
    max_ms: float
    prompt_tokens: float
    cached_tokens: float | None
    tokens_per_s_per_gpu: float
    prefill_ms: float | None = None

    @property
    def rung(self) -> Rung:
        """Where on the ladder it is."""
        return Rung(self.isl, self.cached)


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
        _figures(kept[name, rung], _count(samples, name, rung), gpus[name])
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
        warnings=[*troubles, *_doubts(samples, good, figures, tie_margin)],
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


def _figures(samples: Sequence[Sample], taken: int, gpus: int) -> RungFigures:
    times = [one.ttft_ms for one in samples]
    q1, median, q3 = (float(one) for one in np.percentile(times, (25, 50, 75)))
    prompt_tokens = float(np.median([one.prompt_tokens for one in samples]))
    said = [one.cached_tokens for one in samples if one.cached_tokens is not None]
    cached_tokens = float(np.median(said)) if said else None
    own = [one.prefill_ms for one in samples if one.prefill_ms is not None]
    first = samples[0]
    computed = prompt_tokens - (first.primed_tokens if cached_tokens is None else cached_tokens)
    return RungFigures(
        target=first.target,
        isl=first.isl,
        cached=first.cached,
        samples=len(samples),
        left_out=taken - len(samples),
        ttft_ms=median,
        q1_ms=q1,
        q3_ms=q3,
        min_ms=min(times),
        max_ms=max(times),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        tokens_per_s_per_gpu=computed / (median / 1000) / gpus,
        prefill_ms=float(np.median(own)) if own else None,
    )


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
    tokens = float(np.median([one.prompt_tokens for one in ours]) / np.median([one.prompt_tokens for one in theirs]))
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


def _doubts(
    samples: Sequence[Sample], good: Sequence[Sample], figures: Sequence[RungFigures], tie_margin: float
) -> list[str]:
    """Sentences about what makes figures doubtful."""
    sentences = []
    for name in dict.fromkeys(one.target for one in samples):
        mine = [one for one in samples if one.target == name]
        left_out = len(mine) - sum(one.target == name for one in good)
        if left_out:
            sentences.append(
                f"{name}: {left_out} of {len(mine)} answers are left out, since more or less was cached than was meant"
            )
        if all(one.cached_tokens is None for one in mine):
            sentences.append(f"{name}: it does not say how many tokens were cached, so that none were is not certain")
        busy = sum(one.busy for one in mine)
        if busy:
            sentences.append(f"{name}: it was serving others at {busy} of {len(mine)} requests")
        off = max((abs(one.prompt_tokens / one.isl - 1) for one in mine), default=0.0)
        if off > _OFF:
            sentences.append(f"{name}: prompts were up to {off:.0%} longer or shorter than meant")
    sentences += [
        f"{one.target} at {one.rung.label}: seen from here it took {one.ttft_ms:,.1f} ms and by its own word "
        f"{one.prefill_ms:,.1f} ms: this machine is too busy to time it"
        for one in figures
        if one.prefill_ms is not None and one.prefill_ms > one.ttft_ms * (1 + _OFF)
    ]
    return sentences + _one_sided(figures, tie_margin)


def _one_sided(figures: Sequence[RungFigures], tie_margin: float) -> list[str]:
    """Where the slowest answers are far off and the fastest are not: that is no spread of the engine's own."""
    noisy: dict[str, list[RungFigures]] = {}
    for one in figures:
        above, below = one.max_ms - one.ttft_ms, one.ttft_ms - one.min_ms
        if one.samples >= _FEWEST_SEEN and above > _SKEW * below and above > tie_margin * one.ttft_ms:
            noisy.setdefault(one.target, []).append(one)
    return [
        f"{target}: noise to one side at {'; '.join(one.rung.label for one in mine)}: the slowest answer is up to "
        f"{max(one.max_ms / one.ttft_ms - 1 for one in mine):.0%} above the median, the fastest close to it"
        for target, mine in noisy.items()
    ]
