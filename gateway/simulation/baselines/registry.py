"""All published baselines by name, in the order in which they are shown; pure."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from gateway.simulation.baselines.aibrix import Aibrix
from gateway.simulation.baselines.base import Baseline
from gateway.simulation.baselines.consistent_hash import ConsistentHash
from gateway.simulation.baselines.dynamo import Dynamo
from gateway.simulation.baselines.llm_d import LlmDApproximate, LlmDPrecise
from gateway.simulation.baselines.lmetric import LMetric
from gateway.simulation.baselines.mooncake import Mooncake
from gateway.simulation.baselines.preble import Preble
from gateway.simulation.baselines.production_stack import ProductionStackPrefixAware
from gateway.simulation.baselines.sglang import SglangCacheAware, SglangCacheAwareEvents
from gateway.simulation.baselines.simple import LeastRequests, RandomChoice, RoundRobin
from gateway.simulation.baselines.smetric import SMetric

_ALL: Final[tuple[type[Baseline], ...]] = (
    RandomChoice,
    RoundRobin,
    LeastRequests,
    ConsistentHash,
    SglangCacheAware,
    SglangCacheAwareEvents,
    LlmDApproximate,
    LlmDPrecise,
    Dynamo,
    Aibrix,
    ProductionStackPrefixAware,
    Preble,
    LMetric,
    SMetric,
    Mooncake,
)

BASELINES: Final[Mapping[str, type[Baseline]]] = MappingProxyType({baseline.name: baseline for baseline in _ALL})
