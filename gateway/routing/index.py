"""The prefix index: which replica holds which block, and how sure we are of it; bounded per replica; pure."""

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from heapq import heappop, heappush
from itertools import islice, repeat
from typing import Final, NamedTuple

from gateway.routing.chain import PrefixChain

GUESS_ENTRY_BYTES: Final = 120
"""Memory of one guessed block at one replica: its place in two maps and its integers (`make bench-index`)."""

_SURE: Final = 1
_COMPUTED: Final = 2
_LIKELY: Final = 4
_BITS: Final = 3
_ALL: Final = _LIKELY | _COMPUTED | _SURE
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


NOWHERE: Final = Depths()


class PrefixIndex:
    """A flat map from chained hash to the replicas that hold it, in three degrees of certainty.

    Replicas are slots 0, 1, 2, …, those of removed ones first; a hash's holders are a bit mask with three bits a
    slot. A block is *stated* when the replica's own events say that it is there, *guessed* when we saw it computed
    or hit, *promised* while an attempt in flight will compute it. Guesses are bounded by an LRU of the replica's
    capacity that forgets tails before heads, as engines do; statements are bounded by whoever keeps them
    (`BlockLedger`), promises by what is in flight. A fenced slot holds nothing as far as anyone can see.
    """

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._masks: dict[int, int] = {}  # one object for each mask that occurs
        self._vacant: list[int] = []  # slots of removed replicas, a heap
        self._guessed: list[dict[int, bool]] = []  # least recently used first; a set with an order
        self._stated: list[int] = []
        self._capacity: list[int] = []
        self._promises: dict[int, int] = {}  # like `_holders`: what attempts in flight will compute
        self._in_flight: list[dict[int, tuple[int, ...]]] = []  # by ticket: the blocks that it uses
        self._promised: list[dict[int, tuple[int, ...]]] = []  # by ticket: those of them that it promises
        self._contested: list[set[int]] = []  # blocks that several attempts may have promised
        self._used: list[int] = []  # how many blocks were guessed anew or again, so far
        self._used_at: list[dict[int, int]] = []  # by ticket: that count when all its blocks were, or none is guessed
        self._trusted = 0

    def add_replica(self, capacity_blocks: int) -> int:
        """A slot that guesses at most `capacity_blocks` blocks: one that is vacant, else a new one."""
        if self._vacant:
            slot = heappop(self._vacant)
            self._capacity[slot] = capacity_blocks
            return slot
        slot = len(self._guessed)
        self._guessed.append({})
        self._stated.append(0)
        self._capacity.append(capacity_blocks)
        self._in_flight.append({})
        self._promised.append({})
        self._contested.append(set())
        self._used.append(0)
        self._used_at.append({})
        self._trusted |= _ALL << _BITS * slot
        return slot

    def remove_replica(self, slot: int) -> None:
        """The replica is gone for good, with nothing in flight and nothing stated: its slot is the next one's."""
        self.forget(slot, list(self._guessed[slot]))
        self._contested[slot].clear()
        self._used[slot] = 0
        self.trust(slot)
        heappush(self._vacant, slot)

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

    def is_confirmed(self, slot: int, link: int) -> bool:
        """Whether the engine has reported the block, and with it all that stand before it."""
        return bool(self._holders.get(link, 0) >> _BITS * slot & _SURE)

    def fill(self, slot: int) -> float:
        """Share of the slot's capacity in use, 0..1."""
        filled = (len(self._guessed[slot]) + self._stated[slot]) / self._capacity[slot]
        return min(filled, 1.0)

    def latest(self, slot: int, count: int) -> list[int]:
        """The blocks that were guessed last, the least recently used first."""
        return list(self._guessed[slot])[-count:]

    def fenced(self, slot: int) -> bool:
        """Whether the slot is fenced."""
        return not self._trusted >> _BITS * slot & _ALL

    def depths(self, chain: PrefixChain) -> list[Depths]:
        """Leading blocks of the chain held, for every slot.

        Caches evict tails before heads, so whoever holds a block holds all that stand before it: where holdings end
        is found by bisection, for all slots and degrees at once.
        """
        depths = [NOWHERE] * len(self._guessed)
        links, get, promised = chain.hashes, self._holders.get, self._promises.get
        alive = self._trusted & (get(links[0], 0) | promised(links[0], 0)) if links else 0
        if not alive:
            return depths
        last = len(links) - 1
        whole = alive & (get(links[last], 0) | promised(links[last], 0))
        _fall(depths, whole, last + 1)
        searches = [(0, last, alive ^ whole)] if alive != whole else []
        while searches:  # in each, the bits are alive at `low` and not at `high`
            low, high, bits = searches.pop()
            while high - low > 1:
                middle = (low + high) // 2
                beyond = bits & (get(links[middle], 0) | promised(links[middle], 0))
                if not beyond:
                    high = middle
                else:
                    if beyond != bits:
                        searches.append((low, middle, bits ^ beyond))
                        bits = beyond
                    low = middle
            _fall(depths, bits, high)
        return depths

    # ── attempts ─────────────────────────────────────────────────────────────────────────────────

    def claim(self, slot: int, chain: PrefixChain, ticket: int, settled: int = 0) -> None:
        """The attempt `ticket` uses the chain, and will make the slot hold all of it; `settled` blocks are there.

        Engines evict no block that a running request uses. What it pushes out of a full cache is forgotten when it
        is computed, not yet.
        """
        links = self._in_flight[slot][ticket] = chain.hashes
        if not links:
            return
        if not settled and links[0] not in self._guessed[slot]:
            self._used_at[slot][ticket] = self._used[slot]
        promises, bit = self._promises, _LIKELY << _BITS * slot
        if settled:
            links = links[settled:]
        self._promised[slot][ticket] = links
        if promises.keys().isdisjoint(links):
            promises.update(zip(links, repeat(bit)))
            return
        for link in links:
            mask = promises.get(link, 0)
            if mask & bit:
                self._contested[slot].add(link)
            else:
                promises[link] = mask | bit

    def release(self, slot: int, ticket: int) -> None:
        """The attempt is over: what it promised and nobody has seen computed is forgotten, unless others promise it."""
        self._in_flight[slot].pop(ticket, None)
        self._used_at[slot].pop(ticket, None)
        self._redeem(slot, ticket)

    def _redeem(self, slot: int, ticket: int) -> None:
        """The attempt promises nothing any more."""
        links = self._promised[slot].pop(ticket, ())
        contested = self._contested[slot]
        if contested and not contested.isdisjoint(links):
            others = set().union(*self._promised[slot].values())
            contested.difference_update(link for link in links if link not in others)
            links = tuple([link for link in links if link not in others])
        self._break(slot, links)

    def _break(self, slot: int, links: Sequence[int]) -> None:
        """The slot's promises of these blocks no longer hold."""
        promises, bit = self._promises, _LIKELY << _BITS * slot
        if list(map(promises.get, links)).count(bit) == len(links):  # nobody else promises any: nearly always
            _each(promises.__delitem__, links)
            return
        for link in links:
            mask = promises.get(link, 0) & ~bit
            if mask:
                promises[link] = mask
            else:
                promises.pop(link, None)

    def settle(self, slot: int, chain: PrefixChain, ticket: int | None = None) -> None:
        """A first token came: the slot has computed the whole chain.

        `ticket` names the attempt whose it was, which then promises no more.
        """
        self._use(slot, chain.hashes, _LIKELY | _COMPUTED)
        if ticket is not None:
            self._redeem(slot, ticket)
            if self._in_flight[slot].get(ticket) is chain.hashes:
                self._used_at[slot][ticket] = self._used[slot]

    def confirm(self, slot: int, chain: PrefixChain, blocks: int) -> None:
        """The engine reported a hit of the first `blocks` blocks."""
        self._use(slot, chain.hashes[:blocks], _ALL)

    def restore(self, slot: int, links: Iterable[int]) -> None:
        """The slot was known to hold these blocks, by whoever says so, and used them before all that is guessed."""
        holders, computed, bits = self._holders, _COMPUTED << _BITS * slot, (_LIKELY | _COMPUTED) << _BITS * slot
        restored = {link: True for link in links if not holders.get(link, 0) & computed}
        for link in restored:
            self._mark(link, holders.get(link, 0) | bits)
        self._guessed[slot] = restored | self._guessed[slot]
        self._evict(slot)

    def forget(self, slot: int, links: Iterable[int]) -> None:
        """The slot does not hold these blocks, whatever made us think so. Statements stay counted by their keeper."""
        guessed, promises, bit = self._guessed[slot], self._promises, _LIKELY << _BITS * slot
        for link in links:
            if guessed.pop(link, False):
                self._unmark(slot, link)
            if promises.get(link, 0) & bit:
                self._break(slot, (link,))
                self._contested[slot].add(link)  # whoever promised it must not take back what others promise later

    def forget_guesses(self, slot: int) -> None:
        """The replica lost its cache, and with it what attempts in flight had computed of their prompts."""
        self.forget(slot, list(self._guessed[slot]))
        for links in self._in_flight[slot].values():
            self.forget(slot, links)

    # ── statements ───────────────────────────────────────────────────────────────────────────────

    def state(self, slot: int, links: Iterable[int]) -> None:
        """The engine says that it holds these blocks."""
        guessed, bits = self._guessed[slot], _ALL << _BITS * slot
        get, holders, intern = self._holders.get, self._holders, self._masks.setdefault
        count = 0
        for link in links:
            before = get(link, 0)
            mask = before | bits
            if guessed.pop(link, False) or mask != before:
                count += 1
                holders[link] = intern(mask, mask)
        self._stated[slot] += count

    def retract(self, slot: int, links: Iterable[int]) -> None:
        """The engine says that it no longer holds these blocks; what is guessed meanwhile stays a guess."""
        guessed, computed = self._guessed[slot], _COMPUTED << _BITS * slot
        for link in links:
            if link not in guessed and self._holders.get(link, 0) & computed:
                self._unmark(slot, link)
                self._stated[slot] -= 1

    def fence(self, slot: int) -> None:
        """Show nothing of the slot until `trust`."""
        self._trusted &= ~(_ALL << _BITS * slot)

    def trust(self, slot: int) -> None:
        """Show what the slot holds again."""
        self._trusted |= _ALL << _BITS * slot

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    def _use(self, slot: int, links: tuple[int, ...], bits: int) -> None:
        """The slot holds these blocks for certain, and used them last of all; the head is the last to be forgotten."""
        guessed, holders, intern = self._guessed[slot], self._holders, self._masks.setdefault
        wanted = bits << _BITS * slot
        self._used[slot] += len(links)
        masks = list(map(holders.get, links, repeat(0)))
        new = masks.count(0)
        if new and masks[-new:].count(0) == new:  # known nowhere: nearly always the rest of the chain
            rest = links[-new:]
            guessed.update(zip(reversed(rest), repeat(True)))
            holders.update(zip(rest, repeat(intern(wanted, wanted))))
            links, masks = links[:-new], masks[:-new]
        if links:
            self._use_again(slot, links, masks, wanted)
        self._evict(slot)

    def _use_again(self, slot: int, links: tuple[int, ...], masks: list[int], wanted: int) -> None:
        """The same of blocks that somebody is known to hold; `masks` are what is known of each."""
        guessed, holders, intern = self._guessed[slot], self._holders, self._masks.setdefault
        computed, kinds = _COMPUTED << _BITS * slot, set(masks)
        if not self._stated[slot] and all(mask & computed for mask in kinds):
            _each(guessed.__delitem__, links)  # without statements, what was computed is guessed
            guessed.update(zip(reversed(links), repeat(True)))
            if any(mask & wanted != wanted for mask in kinds):
                better = [intern(mask | wanted, mask | wanted) for mask in masks]
                holders.update(zip(links, better, strict=True))
            return
        for link in reversed(links):
            mask = holders.get(link, 0)
            if not guessed.pop(link, False) and mask & computed:
                continue  # stated
            guessed[link] = True
            if mask & wanted != wanted:
                mask |= wanted
                holders[link] = intern(mask, mask)

    def _evict(self, slot: int) -> None:
        guessed, capacity = self._guessed[slot], self._capacity[slot]
        if len(self._masks) > _MOST_MASKS:
            self._masks.clear()  # those in use are kept by `_holders`
        surplus = len(guessed) - capacity
        if surplus <= 0:
            return
        wanted = surplus + capacity // _EVICT_SHARE
        evicted = self._oldest(slot, wanted, len(guessed) // 2)
        if len(evicted) < wanted:
            evicted = self._oldest(slot, wanted, 0)
        if len(evicted) < surplus:  # more in use than there is room for, by our count: the oldest go
            evicted = list(islice(guessed, surplus))
        _each(guessed.__delitem__, evicted)
        holders, others = self._holders, ~(_ALL << _BITS * slot)
        masks = list(map(holders.pop, evicted))
        if any(mask & others for mask in set(masks)):
            for link, mask in zip(evicted, masks, strict=True):
                if mask & others:
                    self._mark(link, mask & others)

    def _oldest(self, slot: int, wanted: int, recent: int) -> list[int]:
        """The blocks used least recently that no attempt uses; none of the `recent` ones, if there are any such.

        Attempts all of whose blocks are among the `recent` need not be looked at, which are nearly all.
        """
        guessed, used, used_at = self._guessed[slot], self._used[slot], self._used_at[slot]
        in_use: set[int] = set()
        for ticket, links in self._in_flight[slot].items():
            at = used_at.get(ticket)
            if at is None or used - at + len(links) > recent:
                in_use.update(links)
        old = islice(guessed, len(guessed) - recent)
        if not in_use:
            return list(islice(old, wanted))
        return list(islice((link for link in old if link not in in_use), wanted))

    def _mark(self, link: int, mask: int) -> None:
        self._holders[link] = self._masks.setdefault(mask, mask)

    def _unmark(self, slot: int, link: int) -> None:
        mask = self._holders[link] & ~(_ALL << _BITS * slot)
        if mask:
            self._mark(link, mask)
        else:
            del self._holders[link]


def _each(call: Callable[[int], object], links: Iterable[int]) -> None:
    """Call it for each, in one go: a loop of Python's costs three times as much."""
    deque(map(call, links), maxlen=0)


def _fall(depths: list[Depths], bits: int, depth: int) -> None:
    """Note the depth at which these bits fell."""
    everything = Depths(depth, depth, depth)
    for slot, fallen in _slots(bits):
        if fallen == _ALL:
            depths[slot] = everything
        else:
            confirmed, settled, likely = depths[slot]
            depths[slot] = Depths(
                depth if fallen & _SURE else confirmed,
                depth if fallen & _COMPUTED else settled,
                depth if fallen & _LIKELY else likely,
            )


@lru_cache(maxsize=16_384)
def _slots(bits: int) -> tuple[tuple[int, int], ...]:
    """Slots with their bits of these; which fall together repeats, as long as what replicas hold does."""
    slots = []
    while bits:
        slot = ((bits & -bits).bit_length() - 1) // _BITS
        slots.append((slot, bits >> _BITS * slot & _ALL))
        bits &= ~(_ALL << _BITS * slot)
    return tuple(slots)
