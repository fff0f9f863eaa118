"""`[routing]`, `[polling]` and `[[experiments]]`: where requests go, and what that is decided by; pure."""

from typing import Final

from gateway.config.section import Section, one_of, require
from gateway.routing.chain import DEFAULT_BLOCK_BYTES
from gateway.routing.holding import DEFAULT_HOLD_MS
from gateway.routing.policies import POLICIES

UNITS: Final = ("prefix-family", "session", "tenant", "request")


class RoutingConfig(Section, frozen=True):
    """`[routing]`: the policy, the blocks of the prefix chain, how many replicas to try, when to hold."""

    policy: str = "ttft"
    block_bytes: int = DEFAULT_BLOCK_BYTES
    max_attempts: int = 3
    hold_ms: float = DEFAULT_HOLD_MS
    """Prefill queued at a request's best replica above which it is held; 0: never."""


class PollingConfig(Section, frozen=True):
    """`[polling]`: seconds between looks at a replica, and how long one look may take."""

    interval_s: float = 1.0
    timeout_s: float = 3.0


class ExperimentConfig(Section, frozen=True):
    """`[[experiments]]`: a split of traffic between pools; `arms` maps a pool's name to its weight."""

    name: str
    arms: dict[str, float]
    unit: str = "prefix-family"


def check_routing(routing: RoutingConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    one_of("[routing] policy", routing.policy, list(POLICIES))
    require(16 <= routing.block_bytes <= 65536, "[routing] block_bytes must be between 16 and 65536")
    require(0 <= routing.hold_ms <= 60_000, "[routing] hold_ms must be between 0 (hold nothing) and 60000")
    require(routing.max_attempts >= 1, "[routing] max_attempts must be at least 1")


def check_experiment(experiment: ExperimentConfig, pools: list[str]) -> None:
    """What types cannot say; `pools` are the names of all. Raises ConfigError."""
    where = f"experiment `{experiment.name}`"
    one_of(f"{where}: unit", experiment.unit, list(UNITS))
    for arm, weight in experiment.arms.items():
        one_of(f"{where}: arm", arm, pools)
        require(weight >= 0, f"{where}: the weight of `{arm}` must not be negative")
