"""What is observed of one request that takes part in an experiment, from its facts; pure."""

from dataclasses import dataclass
from typing import Final

from gateway.routing.experiments.definition import Exposure
from gateway.routing.facts import Fact, Finished, FirstToken, Outcome, Refused
from gateway.serving.experiments.store import Observed

_FAILED: Final = frozenset({Outcome.ENGINE_FAILED, Outcome.TIMED_OUT})


@dataclass(slots=True)
class Participant:
    """One request that takes part, by its last decision. `accepted_at` is seconds on the facts' clock."""

    exposure: Exposure
    accepted_at: float
    replica: str | None = None
    first_token_at: float | None = None

    def learn(self, fact: Fact) -> None:
        """Take a fact about the request."""
        if isinstance(fact, FirstToken) and self.first_token_at is None:
            self.first_token_at = fact.at

    def observed(self, end: Finished | Refused, cached_tokens: int | None, epoch: float) -> Observed:
        """How it was, at its end. `cached_tokens` by the engine's word; `epoch` is when the clock was 0."""
        usage = end.usage if isinstance(end, Finished) else None
        first, gaps = self.first_token_at, end.content_frames - 1 if isinstance(end, Finished) else 0
        return Observed(
            experiment=self.exposure.experiment,
            arm=self.exposure.arm,
            unit=self.exposure.unit,
            at=epoch + self.accepted_at,
            ttft_s=None if first is None else first - self.accepted_at,
            itl_s=None if first is None or gaps < 1 else (end.at - first) / gaps,
            request_s=end.at - self.accepted_at,
            prompt_tokens=None if usage is None else usage.prompt_tokens,
            cached_tokens=cached_tokens,
            completion_tokens=None if usage is None else usage.completion_tokens,
            failed=end.outcome in _FAILED,
            refused=end.outcome is Outcome.REJECTED,
            crossed=self.exposure.crossed,
        )
