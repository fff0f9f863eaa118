"""Builds a page in the Prometheus text format out of numbers at hand; pure."""

from bisect import bisect_left
from collections.abc import Mapping
from typing import Literal, Self

from engines.simulated.published import Engine

_TTFT_BUCKETS_S: dict[Engine, tuple[float, ...]] = {
    "vllm": (
        *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
        *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
    ),
    "sglang": (
        *(0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 2.0, 4.0, 6.0, 8.0),
        *(10.0, 20.0, 40.0, 60.0, 80.0, 100.0, 200.0, 400.0),
    ),
}
_LATENCY_BUCKETS_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0)
_TOKEN_GAP_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)


class Histogram:
    """Counts of observations by upper bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    @classmethod
    def for_ttft(cls, engine: Engine) -> Self:
        """With the engine's own bounds for the time to first token."""
        return cls(_TTFT_BUCKETS_S[engine])

    @classmethod
    def for_latency(cls) -> Self:
        """With vLLM's bounds for queue, prefill and request times."""
        return cls(_LATENCY_BUCKETS_S)

    @classmethod
    def for_token_gap(cls) -> Self:
        """With vLLM's bounds for the time between two tokens."""
        return cls(_TOKEN_GAP_BUCKETS_S)

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    @property
    def count(self) -> int:
        """How many values were observed."""
        return sum(self.counts)


class MetricsPage:
    """A page in the making; every series carries `labels` beside its own."""

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = dict(labels)
        self._lines: list[str] = []
        self._described: set[str] = set()

    def gauge(self, name: str, value: float, meaning: str, **labels: str) -> None:
        """One series of a gauge."""
        self._describe(name, "gauge", meaning)
        self._sample(name, value, labels)

    def counter(self, name: str, value: float, meaning: str, **labels: str) -> None:
        """One series of a counter; `name` ends in `_total`."""
        self._describe(name, "counter", meaning)
        self._sample(name, value, labels)

    def histogram(self, name: str, histogram: Histogram, meaning: str) -> None:
        """All lines of a histogram."""
        self._describe(name, "histogram", meaning)
        below = 0
        for bound, count in zip((*histogram.bounds, None), histogram.counts, strict=True):
            below += count
            self._sample(f"{name}_bucket", below, {"le": "+Inf" if bound is None else repr(float(bound))})
        self._sample(f"{name}_count", below, {})
        self._sample(f"{name}_sum", histogram.sum, {})

    def encode(self) -> bytes:
        """The page."""
        return ("\n".join(self._lines) + "\n").encode()

    def _describe(self, name: str, kind: Literal["gauge", "counter", "histogram"], meaning: str) -> None:
        if name not in self._described:
            self._described.add(name)
            self._lines += (f"# HELP {name} {meaning}", f"# TYPE {name} {kind}")

    def _sample(self, name: str, value: float, labels: Mapping[str, str]) -> None:
        pairs = ",".join(f'{key}="{_escape(word)}"' for key, word in sorted({**self._labels, **labels}.items()))
        self._lines.append(f"{name}{{{pairs}}} {float(value)!r}" if pairs else f"{name} {float(value)!r}")


def _escape(word: str) -> str:
    return word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
