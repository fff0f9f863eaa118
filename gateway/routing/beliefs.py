"""What each replica is believed to hold, how sure that is, and what corrects it; pure.

Three sources, the surer first: the replica's own cache events (*stated*), what its answers report as cached
(*confirmed*), and what we saw it compute or sent it to compute (*inferred*, *promised*).
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

import msgspec

from engines.cache_events import BlocksCleared, CacheEvent
from gateway.routing.calibration import Calibration, Overlap
from gateway.routing.chain import TOKEN_BYTES, PrefixChain
from gateway.routing.detector import CacheWatch
from gateway.routing.index import Depths, PrefixIndex
from gateway.routing.ledger import BlockLedger

STRIKES: Final = 2
"""Disappointments at one block after which it is not believed in until the engine reports it."""
_STRUCK: Final = 4096
NOTHING: Final = Overlap()
_FEED: Final = "feed"
_RESET: Final = "reset"
_SHRINK: Final = 0.99
_GROW: Final = 1.03
"""Faster than it shrinks: what was forgotten is rarely seen, as requests are not sent to where it was forgotten."""
_SHARES: Final = (0.2, 4.0)
_FULL: Final = 0.8


class Promise(Protocol):
    """An attempt in flight, as far as beliefs go: a booking."""

    ticket: int
    chain: PrefixChain
    overlap: Overlap


@dataclass(slots=True)
class CacheView:
    """One replica's cache as it is believed to be."""

    slot: int
    ledger: BlockLedger
    calibration: Calibration = field(default_factory=Calibration)
    watch: CacheWatch = field(default_factory=CacheWatch)
    synced: set[int] = field(default_factory=set)
    """Ranks whose events are complete from some point on."""
    unheard: set[int] = field(default_factory=set)
    """Ranks that were listened to, and are not now."""
    fences: dict[tuple[int, str], str] = field(default_factory=dict)
    """Why nothing is believed at the moment, by rank and cause."""
    tells_salts: bool = False
    """Whether events say which salt blocks were stored under."""
    lost_reason: str = ""
    capacity_share: float = 1.0
    """What the cache seems to hold of what the engine says that it can: others use it too."""
    _strikes: OrderedDict[int, int] = field(default_factory=OrderedDict)

    @property
    def covered(self) -> bool:
        """Whether all that the cache stores and drops is said in events."""
        return bool(self.synced) and not self.unheard

    def covers(self, chain: PrefixChain) -> bool:
        """Whether events will say all of this chain: not every engine's say it of salted prompts."""
        return self.covered and chain.form.counts_tokens and (self.tells_salts or not chain.salted)

    def strike(self, link: int) -> None:
        """The block was expected and missing."""
        self._strikes[link] = self._strikes.pop(link, 0) + 1
        if len(self._strikes) > _STRUCK:
            self._strikes.popitem(last=False)

    def believable(self, chain: PrefixChain) -> PrefixChain:
        """The chain up to the first block that was missing once too often."""
        if not self._strikes or self._strikes.keys().isdisjoint(chain.hashes):
            return chain
        for depth, link in enumerate(chain.hashes):
            if self._strikes.get(link, 0) >= STRIKES:
                return msgspec.structs.replace(chain, hashes=chain.hashes[:depth])
        return chain

    def absolve(self, links: Sequence[int]) -> None:
        """The engine reported these blocks as hits."""
        if self._strikes and not self._strikes.keys().isdisjoint(links):
            for link in links:
                self._strikes.pop(link, None)

    def restart(self) -> None:
        """The process is a new one: nothing that was learned of the old one need hold."""
        self.calibration, self.watch = Calibration(), CacheWatch()
        self.synced.clear()
        self.unheard.clear()
        self._strikes.clear()
        self.capacity_share = 1.0


class Beliefs:
    """The prefix index, and for each replica the ledger of its events, its calibration and its watch."""

    def __init__(self) -> None:
        self.index = PrefixIndex()

    def add_replica(self, capacity_blocks: int, in_flight: Callable[[], Iterable[Promise]]) -> CacheView:
        """A new replica; `in_flight` gives its bookings."""
        index = self.index
        slot = index.add_replica(capacity_blocks)

        def adopt(block: bytes) -> int | None:
            return _link_before(block, (promise.chain for promise in in_flight()))

        ledger = BlockLedger(
            lambda links: index.state(slot, links),
            lambda links: index.retract(slot, links),
            lambda link: index.is_stated(slot, link),
            adopt,
        )
        return CacheView(slot, ledger)

    def remove(self, view: CacheView) -> None:
        """The replica is gone for good, and nothing is in flight there: its slot is the next one's."""
        view.ledger.lose_all()
        self.index.remove_replica(view.slot)

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────

    def claim(self, view: CacheView, promise: Promise, settled: int = 0) -> None:
        """The replica is sent this prompt, and will hold it; `settled` of its blocks are known to be there."""
        self.index.claim(view.slot, view.believable(promise.chain), promise.ticket, settled)

    def first_token(self, view: CacheView, promise: Promise) -> None:
        """The replica computed the prompt. Where events tell, they have told."""
        if not view.covers(promise.chain):
            self.index.settle(view.slot, view.believable(promise.chain), ticket=promise.ticket)

    def lost(self, view: CacheView, promise: Promise) -> None:
        """The attempt died: what rested on its promise alone goes."""
        self.index.release(view.slot, promise.ticket)

    def computed(self, view: CacheView, promise: Promise, confirmed: int = 0) -> None:
        """The attempt completed: the replica has the prompt, whether or not a first token was seen.

        `confirmed` of its blocks were hit by the engine's word, as far as that is known already.
        """
        self.held(view, promise.chain, confirmed)
        self.index.release(view.slot, promise.ticket)

    def held(self, view: CacheView, chain: PrefixChain, confirmed: int) -> None:
        """The replica has the prompt, of which so many blocks were hit."""
        if not view.covers(chain):  # engines order what they evict by when it was last let go
            self.index.settle(view.slot, view.believable(chain))
        if confirmed and not self.index.is_confirmed(view.slot, chain.hashes[confirmed - 1]):
            self.index.confirm(view.slot, chain, confirmed)

    def delivered(
        self, view: CacheView, promise: Promise, tokens: int, at: float, block_tokens: float, missing_beyond: int
    ) -> None:
        """The engine reported `tokens` of the prompt as cached.

        `block_tokens` is what one link of the chain covers; `missing_beyond` how many tokens fewer than
        believed are no more than rounding.
        """
        chain, overlap, slot = promise.chain, promise.overlap, view.slot
        settled = view.calibration.reachable(overlap.settled)
        expected = view.calibration.expect(Overlap(overlap.confirmed, overlap.inferred))
        view.watch.observe(settled, tokens, at)
        view.calibration.observe(overlap, tokens, missing_beyond)
        blocks = min(int(tokens / block_tokens), len(chain.hashes))
        view.absolve(chain.hashes[:blocks])
        if blocks:
            self.index.confirm(slot, chain, blocks)
        if expected - tokens > missing_beyond and blocks < len(chain.hashes):
            if not self._adapt(view, chain, shrink=True):  # else it was evicted: no fault of the block's
                view.strike(chain.hashes[blocks])
            believable = len(view.believable(chain).hashes)
            # Where events tell, what was computed just now has been announced; elsewhere it is a guess once more.
            self.index.forget(slot, chain.hashes[blocks if view.covers(chain) else max(blocks, believable) :])
        elif tokens - overlap.total > missing_beyond:
            self._adapt(view, chain, shrink=False)

    def hit(self, view: CacheView) -> None:
        """The replica hit something: its cache was not reset, or it has said since what it holds."""
        if len(view.synced) == 1:  # of several ranks it may be another one that was
            for rank in view.synced:
                self._unfence(view, rank, _RESET)

    def _adapt(self, view: CacheView, chain: PrefixChain, *, shrink: bool) -> bool:
        """A full cache that misses holds less than thought; one that hits what was forgotten holds more.

        False where the cache is not a guess, or not full.
        """
        if view.covers(chain) or self.index.fill(view.slot) < _FULL:
            return False
        least, most = _SHARES
        share = view.capacity_share * (_SHRINK if shrink else _GROW)
        view.capacity_share = min(max(share, least), most)
        return True

    # ── what replicas say of themselves ──────────────────────────────────────────────────────────

    def events(self, view: CacheView, rank: int, events: Sequence[CacheEvent]) -> None:
        """Events of a rank, in order. Before they are complete they are noted, and not believed."""
        if rank not in view.synced:
            self.fenced(view, rank, "the history of its events is being read")
        for event in events:
            view.ledger.read(rank, event)
            if isinstance(event, BlocksCleared):
                self.index.forget_guesses(view.slot)
        self._unfence(view, rank, _RESET)  # had the reset worked, its event would have been the first to come

    def fenced(self, view: CacheView, rank: int, reason: str) -> None:
        """Events of the rank may be missing."""
        view.fences[rank, _FEED] = reason
        self.index.fence(view.slot)

    def synced(self, view: CacheView, rank: int) -> None:
        """The rank's events are complete from here on."""
        view.synced.add(rank)
        view.unheard.discard(rank)
        view.lost_reason = ""
        self._unfence(view, rank, _FEED)

    def unheard(self, view: CacheView, rank: int, reason: str) -> None:
        """What the rank said no longer holds, and with it all that we made of it."""
        view.ledger.lose(rank)
        view.synced.discard(rank)
        view.unheard.add(rank)
        view.lost_reason = reason
        self.index.forget_guesses(view.slot)
        self._unfence(view, rank, _FEED)
        self._unfence(view, rank, _RESET)

    def reset(self, view: CacheView) -> None:
        """Somebody told the engine to drop its cache; an idle engine says so only with its next step.

        Whether an event said so already cannot be told from one of an earlier reset: the fence stays until the next.
        """
        self.index.forget_guesses(view.slot)
        for rank in view.synced:
            view.fences[rank, _RESET] = "its prefix cache was told to reset, and no event has come since"
            self.index.fence(view.slot)

    def restarted(self, view: CacheView) -> None:
        """The process is a new one with an empty cache."""
        self.index.forget_guesses(view.slot)
        view.ledger.lose_all()
        view.restart()
        view.fences.clear()
        self.index.trust(view.slot)

    def _unfence(self, view: CacheView, rank: int, cause: str) -> None:
        if view.fences.pop((rank, cause), None) is not None and not view.fences:
            self.index.trust(view.slot)


def overlap_of(depths: Depths, block_tokens: float, engine_block: int | None, limit_tokens: int) -> Overlap:
    """Depths in links as tokens: whole blocks of the engine's, and never the prompt's last token.

    Engines compute at least one token of each prompt (vLLM v1/core/kv_cache_manager.py get_computed_blocks).
    """
    sure, computed, any_way = depths
    if not any_way:
        return NOTHING
    block, most = engine_block or 1, max(limit_tokens - 1, 0)
    most -= most % block
    likely = _whole(any_way, block_tokens, block, most)
    if sure == any_way:
        return Overlap(likely)
    settled = likely if computed == any_way else _whole(computed, block_tokens, block, most)
    confirmed = settled if sure == computed else _whole(sure, block_tokens, block, most)
    return Overlap(confirmed, settled - confirmed, likely - settled)


def _whole(depth: int, block_tokens: float, engine_block: int, most: int) -> int:
    tokens = int(depth * block_tokens)
    return min(tokens - tokens % engine_block, most)


def _link_before(block: bytes, chains: Iterable[PrefixChain]) -> int | None:
    """The link after which a prompt in flight continues with `block`; None where none or several do.

    Engines announce what follows a block that was cached before we listened, and name only that block's hash.
    """
    found: set[int] = set()
    width = len(block)
    for chain in chains:
        if width != chain.form.block * TOKEN_BYTES:
            continue
        at = chain.tokens.find(block, 1)
        while at >= 0:
            if at % width == 0:
                if not chain.plain:
                    return None
                found.add(chain.hashes[at // width - 1])
            at = chain.tokens.find(block, at + 1)
    return found.pop() if len(found) == 1 else None
