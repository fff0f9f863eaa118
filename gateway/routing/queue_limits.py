"""The limits of the queue in front of the engines; pure data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Final

from gateway.routing.decision import Priority


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """How many requests may wait, with how many prompt tokens together, and for how long (to the first token).

    `batch_share` is what batch requests get of the tokens while interactive ones wait as well; `weights` are the
    tenants', 1 for whoever is not named. `every_policy`: also those policies hold that otherwise would not.
    """

    max_requests: float = inf
    max_tokens: float = inf
    interactive_deadline_s: float = inf
    batch_deadline_s: float = inf
    batch_share: float = 0.1
    weights: Mapping[str, float] = field(default_factory=dict)
    every_policy: bool = False

    def deadline_s(self, priority: Priority, asked_s: float | None) -> float:
        """The limit of a request whose client asked for this one: it may ask for less than is configured."""
        limit = self.interactive_deadline_s if priority is Priority.INTERACTIVE else self.batch_deadline_s
        return limit if asked_s is None else min(asked_s, limit)

    def weight(self, tenant: str) -> float:
        """The tenant's."""
        return self.weights.get(tenant, 1.0)

    def share(self, priority: Priority) -> float:
        """Of the tokens, while requests of the other priority wait too."""
        return self.batch_share if priority is Priority.BATCH else 1.0 - self.batch_share


UNLIMITED: Final = QueueLimits()
