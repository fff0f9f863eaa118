"""What is shown of the queue; pure data."""

from dataclasses import dataclass, field

from gateway.routing.histogram import Histogram


@dataclass(frozen=True, slots=True)
class PriorityView:
    """The requests of one priority: those that wait with their prompt tokens, those refused by reason, and how long
    those had waited that were sent (seconds).
    """

    priority: str
    depth: int
    waiting_tokens: int
    tenants: int
    shed: dict[str, int]
    waits: Histogram


@dataclass(frozen=True, slots=True)
class QueueView:
    """The queue as of the snapshot's time. `drain` is in tokens per second, by model for which somebody waits."""

    priorities: tuple[PriorityView, ...] = ()
    drain: dict[str, float] = field(default_factory=dict)
