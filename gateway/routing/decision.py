"""What the router answers: a Decision that explains itself, or a Rejection; pure data."""

from enum import StrEnum
from typing import Final

import msgspec

from gateway.routing.candidates import Candidate
from gateway.routing.chain import PrefixChain
from gateway.routing.experiments.definition import Exposure
from gateway.routing.scope import Scope

ANONYMOUS: Final = "anonymous"


class Priority(StrEnum):
    """Who waits for a request: a person, or nobody for now."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class RouteRequest(msgspec.Struct, frozen=True, gc=False):
    """All that routing may know of a request. `model` None: the client named none.

    `chain` is of the prompt's text, `token_chains` of its token ids, in the forms that replicas are followed by, as
    far as they are known. `session` is the session affinity unit; `response_id` names a stored Responses object
    that only its replica can continue; `tried` are replicas that failed this request already; `tenant` is whoever
    the request is counted for, `scope` what of the fleet exists for it (None: everything). `begun`: it goes on with a
    stream whose first token another replica gave. `deadline_s` is the client's own limit to the wait for a first token,
    from accept.
    `headers` are those that experiments look at, names in lower case.
    One that is not `counted` is of our own making: booked and learned from like any other, and in nobody's figures.
    """

    request_id: str
    model: str | None
    chain: PrefixChain
    streams: bool
    accepted_at: float
    token_chains: tuple[PrefixChain, ...] = ()
    tenant: str = ANONYMOUS
    session: str | None = None
    response_id: str | None = None
    pinned_pool: str | None = None
    pinned_replica: str | None = None
    tried: frozenset[str] = frozenset()
    begun: bool = False
    scope: Scope | None = None
    priority: Priority = Priority.INTERACTIVE
    deadline_s: float | None = None
    counted: bool = True
    headers: tuple[tuple[str, str], ...] = ()


class Decision(msgspec.Struct, frozen=True, gc=False):
    """Where the request goes. `ticket` names the attempt in every later fact; `exposure` is its part in an experiment,
    whose arm then says which `candidates` there are.
    """

    ticket: int
    request_id: str
    policy: str
    model: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    available_tokens: int
    exposure: Exposure | None = None

    @property
    def why(self) -> str:
        """One sentence for a person."""
        return self._why if self.exposure is None else f"{_in_arm(self.exposure)}; {self._why}"

    @property
    def _why(self) -> str:
        others = [candidate for candidate in self.candidates if candidate is not self.chosen]
        if not others:
            return f"{self.chosen.replica} is the only usable replica"
        best = min(others, key=lambda c: c.cost_ms)
        return (
            f"policy {self.policy}: {self.chosen.replica} with {self.chosen.cached_tokens} of "
            f"{self.chosen.prompt_tokens} tokens cached, first token predicted in {self.chosen.ttft_ms:.0f} ms; "
            f"the best other, {best.replica}, has {best.cached_tokens} cached and {best.ttft_ms:.0f} ms"
        )


class Held(msgspec.Struct, frozen=True):
    """Not yet: the replica where the request should go is busy, and by the time it is not, another may be better.

    Its answer comes from `Router.release`, under this ticket.
    """

    ticket: int
    best: Candidate


class RejectionReason(StrEnum):
    """Why no replica was chosen."""

    MODEL_REQUIRED = "model_required"
    MODEL_NOT_FOUND = "model_not_found"
    UNKNOWN_PIN = "unknown_pin"
    NO_REPLICA = "no_replica"
    ALL_TRIED = "all_tried"
    QUEUE_FULL = "queue_full"
    QUEUE_DEADLINE = "queue_deadline"


class Rejection(msgspec.Struct, frozen=True):
    """No replica can take the request now; an expected answer, so a value."""

    reason: RejectionReason
    message: str
    retry_after_s: float | None = None
    exposure: Exposure | None = None
    """Of a request that took part in an experiment and was refused all the same."""


def _in_arm(exposure: Exposure) -> str:
    said = f"arm {exposure.arm} of experiment {exposure.experiment}"
    return f"{said}, outside of it as no replica of the arm was left" if exposure.crossed else said
