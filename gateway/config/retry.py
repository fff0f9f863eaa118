"""`[retry]`: what is done for a request whose replica fails it or keeps it waiting, and how much of that; pure."""

import math

from gateway.config.section import Section, require


class RetryConfig(Section, frozen=True):
    """`[retry]`: shares are of the requests of the last seconds, in this process; times are in seconds."""

    budget_share: float = 0.2
    budget_floor_per_s: float = 3.0
    """Retries that are always allowed, so that few requests have some too."""
    wait_s: float = 5.0
    """How long a request waits for a replica to come back when none is left; 0: not at all."""
    hedge_after: float = 0.0
    """Times the predicted time to first token after which another replica is asked too; 0: never."""
    hedge_floor_s: float = 0.5
    """No sooner than this."""
    hedge_share: float = 0.02
    continue_streams: bool = True
    """Whether a stream that breaks off goes on at another replica."""


def check_retry(retry: RetryConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    for name in ("budget_share", "hedge_share"):
        require(0 <= getattr(retry, name) <= 1, f"[retry] {name} must be between 0 and 1")
    for name in ("budget_floor_per_s", "wait_s", "hedge_after", "hedge_floor_s"):
        require(0 <= getattr(retry, name) < math.inf, f"[retry] {name} must not be negative, and finite")
