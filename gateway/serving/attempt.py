"""One attempt at a replica: a ticket that is closed exactly once, whatever happens; tells the Router."""

from collections.abc import Callable

from engines.reports import RequestTiming, Usage
from gateway.routing.decision import Decision
from gateway.routing.facts import AttemptFailed, Cause, Dispatched, Fact, Finished, FirstToken, Outcome


class Attempt:
    """The facts of one ticket, in order: dispatched, first token, then one end."""

    def __init__(self, decision: Decision, observe: Callable[[Fact], None], clock: Callable[[], float]) -> None:
        self.decision = decision
        self.open = True
        self._observe = observe
        self._clock = clock

    def dispatched(self, route_s: float, overhead_s: float, held_s: float) -> None:
        """The bytes go to the engine now."""
        self._observe(Dispatched(self.decision.ticket, self._clock(), route_s, overhead_s, held_s))

    def first_token(self) -> None:
        """The first content is here."""
        self._observe(FirstToken(self.decision.ticket, self._clock()))

    def finish(
        self,
        outcome: Outcome,
        usage: Usage | None = None,
        content_frames: int = 0,
        timing: RequestTiming | None = None,
    ) -> None:
        """The request ended here; later ends are ignored."""
        if self.open:
            self.open = False
            self._observe(Finished(self.decision.ticket, self._clock(), outcome, usage, content_frames, timing))

    def lose(self, cause: Cause) -> None:
        """The attempt is given up; the request goes on elsewhere."""
        if self.open:
            self.open = False
            self._observe(AttemptFailed(self.decision.ticket, self._clock(), cause))
