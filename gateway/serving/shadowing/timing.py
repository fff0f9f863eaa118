"""How long one request or its copy took, learned from the facts about it; pure."""

from dataclasses import dataclass, field

from engines.reports import Usage
from gateway.routing.facts import Dispatched, Fact, Finished, FirstToken, Outcome, Refused


@dataclass(slots=True)
class Timing:
    """Seconds are from when the attempt that answered was sent to its engine: neither was any wait in the gateway."""

    ttft_s: float | None = None
    itl_s: float | None = None
    """Mean time between frames with content; None for a plain body and for a single frame."""
    total_s: float | None = None
    usage: Usage | None = None
    outcome: Outcome | None = None
    """None while it is not over."""
    _sent: dict[int, float] = field(default_factory=dict)
    _first_at: float = 0.0

    def learn(self, fact: Fact) -> None:
        """Take a fact about it, or about anything that has no bearing on time."""
        if isinstance(fact, Dispatched):
            self._sent[fact.ticket] = fact.at
        elif isinstance(fact, FirstToken):
            if self.ttft_s is None and fact.ticket in self._sent:
                self.ttft_s = fact.at - self._sent[fact.ticket]
                self._first_at = fact.at
        elif isinstance(fact, Finished):
            self._ended(fact)
        elif isinstance(fact, Refused):
            self.outcome = fact.outcome

    def _ended(self, fact: Finished) -> None:
        self.outcome = fact.outcome
        self.usage = fact.usage
        if fact.ticket in self._sent:
            self.total_s = fact.at - self._sent[fact.ticket]
        if self.ttft_s is not None and fact.content_frames > 1:
            self.itl_s = (fact.at - self._first_at) / (fact.content_frames - 1)
