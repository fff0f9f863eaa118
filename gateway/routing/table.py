"""The candidate table: what a request would meet at each replica, as costs in milliseconds; changes nothing; pure."""

from collections.abc import Sequence
from typing import NamedTuple

from gateway.routing.beliefs import NOTHING, Beliefs, overlap_of
from gateway.routing.calibration import Overlap
from gateway.routing.candidates import Alike, Candidate, Standing
from gateway.routing.chain import PrefixChain
from gateway.routing.congestion import Congestion
from gateway.routing.decision import RouteRequest
from gateway.routing.fleet import chain_for
from gateway.routing.index import NOWHERE, Depths
from gateway.routing.replica import Replica
from gateway.routing.reuse import Reuse


class _Sight(NamedTuple):
    """A request as the replicas of one pool that are followed alike are asked about it.

    `depths` are of all slots; `overlaps` those that were made of them already, as replicas often hold the same.
    """

    chain: PrefixChain
    link_tokens: float
    prompt_tokens: int
    counted_in: str
    block_tokens: int | None
    depths: list[Depths]
    overlaps: dict[Depths, Overlap]

    def overlap(self, depths: Depths) -> Overlap:
        """In tokens."""
        overlap = overlap_of(depths, self.link_tokens, self.block_tokens, self.prompt_tokens)
        self.overlaps[depths] = overlap
        return overlap


class CandidateTable:
    """Makes the rows that policies pick from."""

    def __init__(self, beliefs: Beliefs, congestion: Congestion, reuse: Reuse) -> None:
        self._beliefs = beliefs
        self._congestion = congestion
        self._reuse = reuse
        self._sights: dict[Alike, _Sight] = {}
        """Of the request whose rows were made last."""

    def rows(self, replicas: Sequence[Replica], request: RouteRequest, now: float) -> tuple[Candidate, ...]:
        """A row for each replica; each chain is looked up once for all of them."""
        standings = [replica.standing or self._stand(replica) for replica in replicas]
        share, per_request, requests = self._congestion.price(now, [at.slot for at in standings])
        losses = self._reuse.losses
        sights = self._sights = {}
        alike = None
        rows = []
        for replica, at in zip(replicas, standings, strict=True):
            if at.alike is not alike:
                alike = at.alike
                sight = sights.get(alike) or self._sight(replica, request, sights)
                prompt_tokens, counted_in, _, depths, overlaps = sight[2:]
            slot = at.slot
            overlap, cached, held = NOTHING, 0, depths[slot]
            if held is not NOWHERE:
                overlap = overlaps.get(held) or sight.overlap(held)
                if at.calibration is not None:
                    cached = at.calibration.expect(overlap)
            uncached = prompt_tokens - cached
            prefill_ms = at.base_ms + uncached * (at.ms_per_token + uncached * at.ms_per_token2)
            loss = losses[slot]
            others_ms = prefill_ms * (share + per_request * requests[slot] * prefill_ms)
            wait_ms = replica.wait_ms(now) if at.has_queue else 0.0
            if prompt_tokens > at.free_tokens:
                wait_ms += replica.load.room_ms(prompt_tokens)
            if at.is_full:
                wait_ms += replica.capacity.wait_ms(at.inflight, replica.load.stay_ms, now)
            row = Candidate(
                at.name,
                at.pool,
                at.url,
                slot,
                prompt_tokens,
                cached,
                overlap,
                counted_in,
                at.inflight,
                at.fill,
                wait_ms,
                prefill_ms,
                others_ms,
                loss * (prefill_ms + others_ms) if loss else 0.0,
            )
            rows.append(row)
        return tuple(rows)

    def most_cached(self, replicas: Sequence[Replica], request: RouteRequest) -> int:
        """The most tokens that any of these is expected to have of the request whose rows were made last."""
        most = 0
        for replica in replicas:
            at = replica.standing or self._stand(replica)
            sight = self._sights.get(at.alike) or self._sight(replica, request, self._sights)
            held = sight.depths[at.slot]
            if held is not NOWHERE and at.calibration is not None:
                most = max(most, at.calibration.expect(sight.overlaps.get(held) or sight.overlap(held)))
        return most

    def _stand(self, replica: Replica) -> Standing:
        return replica.stand(self._beliefs.index.fill(replica.slot))

    def _sight(self, replica: Replica, request: RouteRequest, sights: dict[Alike, _Sight]) -> _Sight:
        chain = chain_for(replica, request)
        link_tokens = replica.pool.link_tokens(chain)
        prompt_tokens = max(1, round(chain.length * link_tokens / chain.form.block))
        counted_in = "tokens" if chain.form.counts_tokens else "text"
        known = next((one.depths for one in sights.values() if one.chain is chain), None)
        depths = self._beliefs.index.depths(chain) if known is None else known
        sight = _Sight(chain, link_tokens, prompt_tokens, counted_in, replica.block_tokens, depths, {})
        sights[replica.alike] = sight
        return sight
