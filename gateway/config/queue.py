"""`[queue]`: how many requests may wait in the gateway, for how long, and in whose favour; pure."""

import math
from collections.abc import Mapping

from gateway.config.section import Section, require
from gateway.routing.queue_limits import QueueLimits


class QueueConfig(Section, frozen=True):
    """`[queue]`: the limits of what is held, for each process of the gateway.

    `max_tokens` counts the prompt tokens that wait. A deadline is the time to the first token, from accept: a request
    that cannot have it by then is refused. `batch_share` of the tokens is for batch requests also while interactive
    ones wait. `every_policy`: policies other than `ttft` hold requests too.
    """

    max_requests: int = 4000
    max_tokens: int = 20_000_000
    interactive_deadline_s: float = 60.0
    batch_deadline_s: float = 600.0
    batch_share: float = 0.1
    every_policy: bool = False

    def limits(self, weights: Mapping[str, float] | None = None) -> QueueLimits:
        """As the router wants them; `weights` are the tenants', 1 for others."""
        return QueueLimits(
            self.max_requests,
            self.max_tokens,
            self.interactive_deadline_s,
            self.batch_deadline_s,
            self.batch_share,
            weights or {},
            self.every_policy,
        )


def check_queue(queue: QueueConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    for name in ("max_requests", "max_tokens"):
        require(getattr(queue, name) >= 1, f"[queue] {name} must be at least 1")
    for name in ("interactive_deadline_s", "batch_deadline_s"):
        require(0 < getattr(queue, name) < math.inf, f"[queue] {name} must be above 0 and finite")
    require(0 < queue.batch_share < 1, "[queue] batch_share must be between 0 and 1")
