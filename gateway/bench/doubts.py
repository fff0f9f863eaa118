"""What makes a ladder's figures doubtful, as sentences; pure."""

from collections.abc import Sequence
from typing import Final

from gateway.bench.figures import RungFigures
from gateway.bench.samples import Sample

_FEWEST_SEEN: Final = 4
_SKEW: Final = 4.0
"""Noise is to one side where the slowest is so many times as far from the median as the fastest."""
_OFF: Final = 0.01


def doubts(
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
