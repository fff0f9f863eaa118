"""What the kernel and the interpreter say of this process, and of several processes together; reads /proc."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import Metric

CPU_SECONDS: Final = "process_cpu_seconds_total"
MEMORY_BYTES: Final = "process_resident_memory_bytes"
_EARLIEST: Final = frozenset({"process_start_time_seconds"})
_COUNTERS: Final = frozenset({"counter"})

_OWN: Final = CollectorRegistry()
ProcessCollector(registry=_OWN)
GCCollector(registry=_OWN)


class Sample(msgspec.Struct, frozen=True):
    """One value of a family."""

    name: str
    labels: dict[str, str]
    value: float


class Family(msgspec.Struct, frozen=True):
    """A Prometheus family that can be sent to another process."""

    name: str
    documentation: str
    type: str
    samples: tuple[Sample, ...]


def own_figures() -> tuple[Family, ...]:
    """Those of this process."""
    return tuple(
        Family(
            one.name,
            one.documentation,
            one.type,
            tuple(Sample(sample.name, sample.labels, sample.value) for sample in one.samples),
        )
        for one in _OWN.collect()
    )


def merged_figures(parts: Sequence[Sequence[Family]]) -> tuple[Family, ...]:
    """Of several processes together: sums, and the earliest start."""
    families: dict[str, tuple[Family, dict[tuple[str, ...], Sample]]] = {}
    for family in (one for part in parts for one in part):
        _, samples = families.setdefault(family.name, (family, {}))
        for sample in family.samples:
            key = (sample.name, *(word for pair in sorted(sample.labels.items()) for word in pair))
            before = samples.get(key)
            samples[key] = sample if before is None else _added(before, sample)
    return tuple(
        msgspec.structs.replace(family, samples=tuple(samples.values())) for family, samples in families.values()
    )


def counted_figures(families: Iterable[Family]) -> tuple[Family, ...]:
    """What remains of them after their process has ended: its counters."""
    return tuple(one for one in families if one.type in _COUNTERS)


def figure(families: Iterable[Family], name: str) -> float | None:
    """The value of the first sample of that name; None where the system does not say."""
    return next((sample.value for family in families for sample in family.samples if sample.name == name), None)


def as_metrics(families: Iterable[Family]) -> Iterator[Metric]:
    """As Prometheus' client wants them."""
    for family in families:
        metric = Metric(family.name, family.documentation, family.type)
        for sample in family.samples:
            metric.add_sample(sample.name, sample.labels, sample.value)
        yield metric


def _added(one: Sample, other: Sample) -> Sample:
    value = min(one.value, other.value) if one.name in _EARLIEST else one.value + other.value
    return msgspec.structs.replace(one, value=value)
