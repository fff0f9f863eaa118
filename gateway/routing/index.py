"""The prefix index: which replica holds which block, and how sure we are of it; bounded per replica; pure."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice, repeat
from typing import Final, NamedTuple

from gateway.routing.chain import PrefixChain

SETTLED: Final = 0
"""Owner of a guessed block that was computed: a first token came. A positive owner is the ticket that promises it."""
CONFIRMED: Final = -1
"""Owner of a guessed block that the engine has reported as a hit."""

GUESS_ENTRY_BYTES: Final = 120
"""Memory of one guessed block at one replica: its place in two maps and its integers (`make bench-index`)."""

DEGREES: Final = 3
"""Degrees of certainty: figures a slot in `PrefixIndex.depths`."""

_SURE: Final = 1
_COMPUTED: Final = 2
_LIKELY: Final = 4
_BITS: Final = DEGREES
_ALL: Final = _LIKELY | _COMPUTED | _SURE
_STRIDE: Final = 32
_MOST_MASKS: Final = 65_536
_EVICT_SHARE: Final = 64
"""Evicting a 64th of the capacity at once keeps the scan over a dict's vacated front short."""


class Depths(NamedTuple):
    """Leading blocks of a chain at one replica; each figure includes the ones before it.

    `confirmed` by the engine's word; `settled` also those that were computed by our own observation; `likely`
    also those that a request in flight will compute.
    """

    confirmed: int = 0
    settled: int = 0
    likely: int = 0


class PrefixIndex:
    """A flat map from chained hash to the replicas that hold it, in three degrees of certainty.

    Replicas are slots 0, 1, 2, …; a hash's holders are a bit mask with three bits a slot. A block is *stated* when
    the replica's own events say that it is there, *guessed* when our routing makes us think so. Guesses are bounded
    by an LRU of the replica's capacity that forgets tails before heads, as engines do; statements are bounded by
    whoever keeps them (`BlockLedger`). A fenced slot holds nothing as far as anyone can see.
    """

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._masks: dict[int, int] = {}  # one object for each mask that occurs
        self._guessed: list[dict[int, int]] = []  # link -> owner, least recently used first
        self._stated: list[int] = []
        self._capacity: list[int] = []
        self._pins: list[dict[int, tuple[int, ...]]] = []  # by ticket
        self._pinned: list[Counter[int]] = []
        self._uncounted: list[list[int]] = []
        self._trusted = 0

    def add_replica(self, capacity_blocks: int) -> int:
        """A new slot that guesses at most `capacity_blocks` blocks."""
        slot = len(self._guessed)
        self._guessed.append({})
        self._stated.append(0)
        self._capacity.append(capacity_blocks)
        self._pins.append({})
        self._pinned.append(Counter())
        self._uncounted.append([])
        self._trusted |= _ALL << _BITS * slot
        return slot

    def resize(self, slot: int, capacity_blocks: int) -> None:
        """Guess at most `capacity_blocks` for the slot from now on."""
        self._capacity[slot] = capacity_blocks
        self._evict(slot)

    # ── views ────────────────────────────────────────────────────────────────────────────────────

    def blocks(self, slot: int) -> int:
        """How many blocks the slot is believed to hold."""
        return len(self._guessed[slot]) + self._stated[slot]

    def stated_blocks(self, slot: int) -> int:
        """How many of them by the engine's events."""
        return self._stated[slot]

    def is_stated(self, slot: int, link: int) -> bool:
        """Whether the block is one of them."""
        return bool(self._holders.get(link, 0) >> _BITS * slot & _SURE) and link not in self._guessed[slot]

    def fill(self, slot: int) -> float:
        """Share of the slot's capacity in use, 0..1."""
        filled = (len(self._guessed[slot]) + self._stated[slot]) / self._capacity[slot]
        return min(filled, 1.0)

    def fenced(self, slot: int) -> bool:
        """Whether the slot is fenced."""
        return not self._trusted >> _BITS * slot & _ALL

    def overlaps(self, chain: PrefixChain) -> list[Depths]:
        """Leading blocks of the chain held, for every slot."""
        depths = self.depths(chain)
        return [Depths(*depths[at : at + DEGREES]) for at in range(0, len(depths), DEGREES)]

    def depths(self, chain: PrefixChain) -> list[int]:
        """The same as plain figures, `DEGREES` a slot: one walk serves all replicas."""
        depths = [0] * (_BITS * len(self._guessed))
        alive = self._trusted
        links, get = chain.hashes, self._holders.get
        for start in range(0, len(links), _STRIDE):
            stretch = links[start : start + _STRIDE]
            common = alive
            for mask in set(map(get, stretch, repeat(0))):  # few differ, and the set is made without our help
                common &= mask
            if common == alive:
                continue
            for depth, link in enumerate(stretch, start):
                still = alive & get(link, 0)
                if still != alive:
                    _record(depths, alive ^ still, depth)
                    alive = still
                    if not alive:
                        break
            if not alive:
                break
        _record(depths, alive, len(links))
        return depths

    # ── guesses ──────────────────────────────────────────────────────────────────────────────────

    def claim(self, slot: int, chain: PrefixChain, ticket: int, settled: int = 0) -> None:
        """The attempt `ticket` will make the slot hold the whole chain, of which it has `settled` blocks already.

        What that pushes out of a full cache is forgotten when it is computed, not yet.
        """
        guessed, shift = self._guessed[slot], _BITS * slot
        holders = self._holders
        links = chain.hashes[settled:]
        if holders.keys().isdisjoint(links):
            mask = _LIKELY << shift
            guessed.update(dict.fromkeys(reversed(links), ticket))
            holders.update(dict.fromkeys(links, self._masks.setdefault(mask, mask)))
            return
        for link in reversed(links):  # the head is the last to be forgotten
            owner = guessed.get(link)
            if owner is None:
                mask = holders.get(link, 0)
                if not mask >> shift & _LIKELY:
                    guessed[link] = ticket
                    self._mark(link, mask | _LIKELY << shift)
            elif owner > 0:
                guessed[link] = ticket

    def pin(self, slot: int, chain: PrefixChain, ticket: int) -> None:
        """The attempt `ticket` uses these blocks until `unpin`: engines evict no block that a request uses."""
        self._pins[slot][ticket] = chain.hashes
        self._uncounted[slot].append(ticket)

    def unpin(self, slot: int, ticket: int) -> None:
        """The attempt is over."""
        pinned = self._count_pins(slot)
        for link in self._pins[slot].pop(ticket, ()):
            left = pinned[link] - 1
            if left:
                pinned[link] = left
            else:
                del pinned[link]

    def _count_pins(self, slot: int) -> Counter[int]:
        """How many attempts use each block; counted when it matters, which is not when a request is routed."""
        pinned, pins = self._pinned[slot], self._pins[slot]
        for ticket in self._uncounted[slot]:
            pinned.update(pins[ticket])
        self._uncounted[slot].clear()
        return pinned

    def settle(self, slot: int, chain: PrefixChain) -> None:
        """A first token came: the slot has computed the whole chain."""
        self._use(slot, chain.hashes, SETTLED, _LIKELY | _COMPUTED)

    def confirm(self, slot: int, chain: PrefixChain, blocks: int) -> None:
        """The engine reported a hit of the first `blocks` blocks."""
        self._use(slot, chain.hashes[:blocks], CONFIRMED, _ALL)

    def withdraw(self, slot: int, chain: PrefixChain, ticket: int) -> None:
        """The attempt's promise will not be kept: forget the blocks that rested on it alone."""
        guessed = self._guessed[slot]
        for link in chain.hashes:
            if guessed.get(link) == ticket:
                del guessed[link]
                self._unmark(slot, link)

    def forget(self, slot: int, links: Iterable[int]) -> None:
        """The slot does not hold these blocks, whatever made us think so. Statements stay counted by their keeper."""
        guessed = self._guessed[slot]
        for link in links:
            if guessed.pop(link, None) is not None:
                self._unmark(slot, link)

    def forget_guesses(self, slot: int) -> None:
        """The replica lost its cache."""
        for link in self._guessed[slot]:
            self._unmark(slot, link)
        self._guessed[slot].clear()

    # ── statements ───────────────────────────────────────────────────────────────────────────────

    def state(self, slot: int, links: Iterable[int]) -> None:
        """The engine says that it holds these blocks."""
        guessed, bits = self._guessed[slot], _ALL << _BITS * slot
        get, holders, intern = self._holders.get, self._holders, self._masks.setdefault
        count = 0
        for link in links:
            before = get(link, 0)
            mask = before | bits
            if guessed.pop(link, None) is not None or mask != before:
                count += 1
                holders[link] = intern(mask, mask)
        self._stated[slot] += count

    def retract(self, slot: int, links: Iterable[int]) -> None:
        """The engine says that it no longer holds these blocks; what is guessed meanwhile stays a guess."""
        guessed, bits = self._guessed[slot], _ALL << _BITS * slot
        for link in links:
            if link not in guessed and self._holders.get(link, 0) & bits:
                self._unmark(slot, link)
                self._stated[slot] -= 1

    def fence(self, slot: int) -> None:
        """Show nothing of the slot until `trust`."""
        self._trusted &= ~(_ALL << _BITS * slot)

    def trust(self, slot: int) -> None:
        """Show what the slot holds again."""
        self._trusted |= _ALL << _BITS * slot

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    def _use(self, slot: int, links: tuple[int, ...], owner: int, bits: int) -> None:
        """The slot holds these blocks for certain (`owner` says why), and used them last of all."""
        guessed, holders, intern = self._guessed[slot], self._holders, self._masks.setdefault
        pop, wanted = guessed.pop, bits << _BITS * slot
        for link in reversed(links):
            before = pop(link, None)
            mask = holders.get(link, 0)
            if before is None and mask & wanted:
                continue  # stated
            guessed[link] = CONFIRMED if before == CONFIRMED else owner
            if mask & wanted != wanted:
                mask |= wanted
                holders[link] = intern(mask, mask)
        self._evict(slot)

    def _evict(self, slot: int) -> None:
        guessed, capacity = self._guessed[slot], self._capacity[slot]
        if len(self._masks) > _MOST_MASKS:
            self._masks.clear()  # those in use are kept by `_holders`
        surplus = len(guessed) - capacity
        if surplus <= 0:
            return
        pinned = self._count_pins(slot)
        wanted = surplus + capacity // _EVICT_SHARE
        evicted = list(islice((link for link in guessed if link not in pinned), wanted))
        if len(evicted) < surplus:  # more in use than there is room for, by our count: the oldest go
            evicted = list(islice(guessed, surplus))
        for link in evicted:
            del guessed[link]
            self._unmark(slot, link)

    def _mark(self, link: int, mask: int) -> None:
        self._holders[link] = self._masks.setdefault(mask, mask)

    def _unmark(self, slot: int, link: int) -> None:
        mask = self._holders[link] & ~(_ALL << _BITS * slot)
        if mask:
            self._mark(link, mask)
        else:
            del self._holders[link]


def _record(depths: list[int], bits: int, depth: int) -> None:
    """Note the depth at which these bits fell: usually all of a slot's at once, and never worth a word at 0."""
    while bits and depth:
        shift = ((bits & -bits).bit_length() - 1) // _BITS * _BITS
        fallen = bits >> shift & _ALL
        bits ^= fallen << shift
        if fallen == _ALL:
            depths[shift : shift + _BITS] = (depth, depth, depth)
        else:
            for degree in range(_BITS):
                if fallen >> degree & 1:
                    depths[shift + degree] = depth
