"""The catalogue of metrics, read off the collectors themselves, and the words that queries are checked by; pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from gateway.config import build
from gateway.serving.gateway import Gateway
from gateway.serving.metrics import registry
from gateway.serving.report import own_report

PREFIX: Final = "prefixgate_"
_NAME: Final = re.compile(rf"\b{PREFIX}\w+")
_SUFFIXES: Final[Mapping[str, tuple[str, ...]]] = {
    "counter": ("_total",),
    "gauge": ("",),
    "histogram": ("_bucket", "_sum", "_count"),
}
"""What a family's series are called after its name, by its kind."""


@dataclass(frozen=True, slots=True)
class MetricFamily:
    """One family: `name` without suffix; `kind` is counter, gauge or histogram."""

    name: str
    kind: str
    documentation: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names of its series, as queries have them."""
        return tuple(self.name + suffix for suffix in _SUFFIXES[self.kind])


@lru_cache(maxsize=1)
def catalogue() -> tuple[MetricFamily, ...]:
    """Every family that `/metrics` can have."""
    anything = {"pools": [{"name": "any", "engine": "vllm", "replicas": ["http://127.0.0.1:9"]}]}
    families = registry(own_report(Gateway(build(anything)))).collect()
    return tuple(
        MetricFamily(family.name, family.type, family.documentation)
        for family in families
        if family.name.startswith(PREFIX)
    )


def unknown_names(expression: str) -> list[str]:
    """The names in a PromQL expression that would be ours and that no family has."""
    known = {series for family in catalogue() for series in family.series}
    return [name for name in _NAME.findall(expression) if name not in known]
