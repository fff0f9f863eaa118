"""The figures of one target on one rung; pure."""

from collections.abc import Sequence
from statistics import median, quantiles

import msgspec

from gateway.bench.plan import Rung
from gateway.bench.samples import Sample


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


def figures_of(samples: Sequence[Sample], taken: int, gpus: int) -> RungFigures:
    """Of the samples that count, at least one, out of so many that were taken."""
    times = [one.ttft_ms for one in samples]
    q1, middle, q3 = quantiles(times, n=4, method="inclusive") if len(times) > 1 else 3 * times
    prompt_tokens = median(one.prompt_tokens for one in samples)
    said = [one.cached_tokens for one in samples if one.cached_tokens is not None]
    cached_tokens = median(said) if said else None
    own = [one.prefill_ms for one in samples if one.prefill_ms is not None]
    first = samples[0]
    computed = prompt_tokens - (first.primed_tokens if cached_tokens is None else cached_tokens)
    return RungFigures(
        target=first.target,
        isl=first.isl,
        cached=first.cached,
        samples=len(samples),
        left_out=taken - len(samples),
        ttft_ms=middle,
        q1_ms=q1,
        q3_ms=q3,
        min_ms=min(times),
        max_ms=max(times),
        prompt_tokens=prompt_tokens,
        cached_tokens=cached_tokens,
        tokens_per_s_per_gpu=computed / (middle / 1000) / gpus,
        prefill_ms=median(own) if own else None,
    )
