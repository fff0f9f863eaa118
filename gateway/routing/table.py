"""The candidate table: what a request would meet at each replica, as costs in milliseconds; changes nothing; pure."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from gateway.routing.beliefs import NOTHING, Beliefs, overlap_of
from gateway.routing.calibration import Overlap
from gateway.routing.chain import PrefixChain
from gateway.routing.congestion import Congestion, Price
from gateway.routing.decision import Candidate, RouteRequest
from gateway.routing.fleet import Replica, chain_for
from gateway.routing.index import DEGREES, Depths
from gateway.routing.reuse import Reuse


class _Sight(NamedTuple):
    """A request as the replicas of one pool and form are asked about it.

    `depths` are of all slots; `overlaps` those that were made of them already, as replicas often hold the same.
    """

    chain: PrefixChain
    link_tokens: float
    prompt_tokens: int
    counted_in: str
    depths: list[int]
    overlaps: dict[tuple[int, int, int, int | None], Overlap]


class CandidateTable:
    """Makes the rows that policies pick from."""

    def __init__(self, beliefs: Beliefs, congestion: Congestion, reuse: Reuse) -> None:
        self._beliefs = beliefs
        self._congestion = congestion
        self._reuse = reuse

    def rows(self, replicas: Sequence[Replica], request: RouteRequest, now: float) -> tuple[Candidate, ...]:
        """A row for each replica; each chain is looked up once for all of them."""
        price = self._congestion.price(now, [replica.cache.slot for replica in replicas])
        sights: dict[tuple[int, int], _Sight] = {}
        rows = []
        for replica in replicas:
            key = id(replica.pool), id(replica.form)
            sight = sights.get(key)
            if sight is None:
                sight = sights[key] = self._sight(replica, request, sights.values())
            rows.append(self._row(replica, sight, price, now))
        return tuple(rows)

    def _sight(self, replica: Replica, request: RouteRequest, others: Collection[_Sight]) -> _Sight:
        chain = chain_for(replica, request)
        link_tokens = replica.pool.link_tokens(chain)
        prompt_tokens = max(1, round(chain.length * link_tokens / chain.form.block))
        counted_in = "tokens" if chain.form.counts_tokens else "text"
        for other in others:
            if other.chain is chain:
                return _Sight(chain, link_tokens, prompt_tokens, counted_in, other.depths, {})
        return _Sight(chain, link_tokens, prompt_tokens, counted_in, self._beliefs.index.depths(chain), {})

    def _row(self, replica: Replica, sight: _Sight, price: Price, now: float) -> Candidate:
        _, link_tokens, prompt_tokens, counted_in, depths, overlaps = sight
        view = replica.cache
        slot = view.slot
        overlap, cached = NOTHING, 0
        at = DEGREES * slot
        likely = depths[at + 2]
        if likely:
            key = depths[at], depths[at + 1], likely, replica.block_tokens
            known = overlaps.get(key)
            if known is None:
                known = overlaps[key] = overlap_of(Depths(*key[:3]), link_tokens, key[3], prompt_tokens)
            overlap = known
            cached = 0 if view.watch.broken else view.calibration.expect(overlap)
        prefill_ms = replica.curve.predict_ms(prompt_tokens - cached)
        others_ms = price.others_ms(slot, prefill_ms)
        spec = replica.spec
        return Candidate(
            spec.name,
            replica.pool.spec.name,
            spec.url,
            slot,
            prompt_tokens,
            cached,
            overlap,
            counted_in,
            len(replica.bookings),
            self._beliefs.index.fill(slot),
            replica.wait_ms(now) + replica.load.room_ms(prompt_tokens),
            prefill_ms,
            others_ms,
            self._reuse.loss(slot) * (prefill_ms + others_ms),
        )
