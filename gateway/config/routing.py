"""`[routing]` and `[polling]`: where requests go, and what that is decided by; pure."""

from gateway.config.section import Section, one_of, require
from gateway.routing.chain import DEFAULT_BLOCK_BYTES
from gateway.routing.holding import DEFAULT_HOLD_MS
from gateway.routing.policies import POLICIES


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


def check_routing(routing: RoutingConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    one_of("[routing] policy", routing.policy, list(POLICIES))
    require(16 <= routing.block_bytes <= 65536, "[routing] block_bytes must be between 16 and 65536")
    require(0 <= routing.hold_ms <= 60_000, "[routing] hold_ms must be between 0 (hold nothing) and 60000")
    require(routing.max_attempts >= 1, "[routing] max_attempts must be at least 1")
