"""What the router answers: a Decision that explains itself, or a Rejection; pure data."""

from enum import StrEnum
from typing import Final

import msgspec

from gateway.routing.calibration import Overlap
from gateway.routing.chain import PrefixChain

ANONYMOUS: Final = "anonymous"


class RouteRequest(msgspec.Struct, frozen=True):
    """All that routing may know of a request. `model` None: the client named none.

    `chain` is of the prompt's text, `token_chains` of its token ids, in the forms that replicas are followed by, as
    far as they are known. `session` is the session affinity unit; `response_id` names a stored Responses object
    that only its replica can continue; `tried` are replicas that failed this request already; `tenant` is whoever
    the request is counted for.
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


class CostTerm(msgspec.Struct, frozen=True):
    """One part of a candidate's cost, in milliseconds to first token."""

    name: str
    ms: float


class Candidate(msgspec.Struct, frozen=True):
    """One row of the table that a policy picks from.

    `overlap` is what is believed to be cached, `cached_tokens` what of it is expected to be delivered; `counted_in`
    says whether that counts tokens or text. `fill` is the share (0..1) of the replica's index in use. Beside its own
    wait and prefill, a request costs others: `others_ms` by delaying those who come after it, `eviction_ms` by
    pushing out of a full cache what would have been hit.
    """

    replica: str
    pool: str
    url: str
    slot: int
    prompt_tokens: int
    cached_tokens: int
    overlap: Overlap
    counted_in: str
    inflight: int
    fill: float
    wait_ms: float
    prefill_ms: float
    others_ms: float
    eviction_ms: float = 0.0

    @property
    def ttft_ms(self) -> float:
        """Predicted time to first token."""
        return self.wait_ms + self.prefill_ms

    @property
    def cost_ms(self) -> float:
        """What the `ttft` policy compares: this request's time to first token and what it costs others."""
        return self.wait_ms + self.prefill_ms + self.others_ms + self.eviction_ms

    @property
    def terms(self) -> tuple[CostTerm, ...]:
        """The cost, term by term."""
        return (
            CostTerm("wait", self.wait_ms),
            CostTerm("prefill", self.prefill_ms),
            CostTerm("others", self.others_ms),
            CostTerm("eviction", self.eviction_ms),
        )


class Decision(msgspec.Struct, frozen=True):
    """Where the request goes. `ticket` names the attempt in every later fact."""

    ticket: int
    request_id: str
    policy: str
    model: str
    candidates: tuple[Candidate, ...]
    chosen: Candidate
    available_tokens: int

    @property
    def why(self) -> str:
        """One sentence for a person."""
        others = [c for c in self.candidates if c is not self.chosen]
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


class Rejection(msgspec.Struct, frozen=True):
    """No replica can take the request now; an expected answer, so a value."""

    reason: RejectionReason
    message: str
    retry_after_s: float | None = None
