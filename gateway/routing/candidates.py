"""Candidates: what a request would meet at each replica; pure data."""

import msgspec

from gateway.routing.calibration import Calibration, Overlap
from gateway.routing.chain import ChainForm

Alike = tuple[str, ChainForm | None, int | None]
"""Pool, form of chains and size of blocks: replicas that share these see a prompt alike."""


class Standing(msgspec.Struct, frozen=True):
    """What a decision reads of a replica, side by side: it reads all of them, while a fact changes only one."""

    name: str
    pool: str
    url: str
    slot: int
    alike: Alike
    calibration: Calibration | None
    """None while its cache is broken: nothing is expected of it."""
    base_ms: float
    ms_per_token: float
    ms_per_token2: float
    inflight: int
    has_queue: bool
    """Whether there may be something to wait for."""
    fill: float
    """Share of its index in use, 0..1."""
    free_tokens: float
    """KV cache; infinite where the engine does not say, or no request would give any back."""
    is_full: bool
    """Whether it may run as many requests as it can."""


class CostTerm(msgspec.Struct, frozen=True):
    """One part of a candidate's cost, in milliseconds to first token."""

    name: str
    ms: float


class Candidate(msgspec.Struct, frozen=True, gc=False):
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
