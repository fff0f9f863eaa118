"""The metrics of an arm: what each is called, how it is estimated and which way is better; pure."""

from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np

from gateway.experiments.clusters import Floats
from gateway.experiments.estimates import Estimate, Positive, mean, quantiles, rate, share, total
from gateway.experiments.report import Measure, Scale
from gateway.experiments.sample import Sample

MILLION: Final = 1e6
HOUR_S: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric. `scale` is None where arms are not compared in it.

    Throughput and cost per token are not: they follow from how much traffic an arm was given, not from what it can do.
    """

    name: str
    title: str
    measure: Measure
    scale: Scale | None
    lower_is_better: bool


METRICS: Final = MappingProxyType(
    {
        metric.name: metric
        for metric in (
            Metric("ttft_mean", "mean TTFT", "seconds", "relative", True),
            Metric("ttft_p50", "TTFT p50", "seconds", "relative", True),
            Metric("ttft_p90", "TTFT p90", "seconds", "relative", True),
            Metric("ttft_p99", "TTFT p99", "seconds", "relative", True),
            Metric("itl_mean", "mean ITL", "seconds", "relative", True),
            Metric("itl_p50", "ITL p50", "seconds", "relative", True),
            Metric("request_p50", "end-to-end p50", "seconds", "relative", True),
            Metric("hit_rate", "hit rate", "share", "points", False),
            Metric("error_rate", "error rate", "share", "points", True),
            Metric("failover_rate", "failover rate", "share", "points", True),
            Metric("refusal_rate", "refusal rate", "share", "points", True),
            Metric("tokens_per_gpu_s", "tokens/s/GPU", "tokens/s/GPU", None, False),
            Metric("usd_per_million_tokens", "USD per 1M tokens", "USD/1M tokens", None, True),
        )
    }
)
PRIMARY: Final = tuple(metric.name for metric in METRICS.values() if metric.scale is not None)
"""The metrics that an experiment may be judged by."""


def estimates(sample: Sample) -> dict[str, Estimate]:
    """Every metric of an arm; those without a price or GPUs of its own are left out."""
    of = sample.observations
    ttft, ttft_units = sample.known(of.ttft_s)
    itl, itl_units = sample.known(of.itl_s)
    p50, p90, p99 = quantiles(ttft, ttft_units, (0.5, 0.9, 0.99))
    found: dict[str, Estimate] = {
        "ttft_mean": mean(ttft, ttft_units),
        "ttft_p50": p50,
        "ttft_p90": p90,
        "ttft_p99": p99,
        "itl_mean": mean(itl, itl_units),
        "itl_p50": quantiles(itl, itl_units, (0.5,))[0],
        "request_p50": quantiles(*sample.known(of.request_s), (0.5,))[0],
    }
    found |= {name: _SHARES[name](sample) for name in _SHARES}
    return found | _throughput(sample)


def estimate(sample: Sample, metric: str) -> Estimate:
    """One metric of `PRIMARY` alone, where all would be too dear."""
    if metric in _SHARES:
        return _SHARES[metric](sample)
    column, _, kind = metric.rpartition("_")
    values, unit = sample.known(getattr(sample.observations, column + "_s"))
    return mean(values, unit) if kind == "mean" else quantiles(values, unit, (int(kind[1:]) / 100,))[0]


def _hit_rate(sample: Sample) -> Estimate:
    """Of requests whose engine told both, tokens cached of tokens asked."""
    of = sample.observations
    prompt, cached = of.prompt_tokens[sample.rows], of.cached_tokens[sample.rows]
    known = sample.own & np.isfinite(prompt) & np.isfinite(cached) & (prompt > 0)
    return share(np.minimum(cached[known], prompt[known]), prompt[known], sample.unit[known])


def _error_rate(sample: Sample) -> Estimate:
    """A request that its arm failed counts, whether or not another arm then answered it (intention to treat)."""
    of = sample.observations
    return rate((of.failed | of.crossed)[sample.rows].astype(np.float64), sample.unit)


def _failover_rate(sample: Sample) -> Estimate:
    return rate(sample.observations.crossed[sample.rows].astype(np.float64), sample.unit)


def _refusal_rate(sample: Sample) -> Estimate:
    return rate(sample.observations.refused[sample.rows].astype(np.float64), sample.unit)


_SHARES: Final[dict[str, Callable[[Sample], Estimate]]] = {
    "hit_rate": _hit_rate,
    "error_rate": _error_rate,
    "failover_rate": _failover_rate,
    "refusal_rate": _refusal_rate,
}


def _throughput(sample: Sample) -> dict[str, Estimate]:
    """Prompt and completion tokens that the arm served, for each second of each GPU; and what a million cost."""
    gpus, price = sample.terms.gpus, sample.terms.usd_per_gpu_hour
    if not gpus or sample.running_s <= 0:
        return {}
    served: Floats = np.nan_to_num(sample.observations.prompt_tokens[sample.rows]) + np.nan_to_num(
        sample.observations.completion_tokens[sample.rows]
    )
    tokens = total(served[sample.own], sample.unit[sample.own])
    pace = Positive(tokens.value / (gpus * sample.running_s), tokens.spread)
    if price is None:
        return {"tokens_per_gpu_s": pace}
    cost = Positive(price / HOUR_S / pace.value * MILLION, tokens.spread)
    return {"tokens_per_gpu_s": pace, "usd_per_million_tokens": cost}
