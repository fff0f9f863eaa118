"""The prefix index: which replica holds which block, bounded per replica; pure."""

from collections import OrderedDict
from typing import Final

from gateway.routing.chain import PrefixChain

CONFIRMED: Final = 0
"""Owner of a block that a first token has shown to be computed; any other owner is the ticket that will."""

BLOCK_ENTRY_BYTES: Final = 200
"""Memory of one block at one replica: its LRU node, its place in the map, two integers (194 by tracemalloc)."""


class PrefixIndex:
    """A flat map from chained hash to the replicas that hold it, with one LRU per replica.

    Replicas are slots 0, 1, 2, …; a hash's holders are a bit mask of slots. Chained hashes make a tree
    needless: the holders of block i are a subset of the holders of block i - 1 as long as the LRU forgets
    tails before heads, which `claim` and `confirm` see to.
    """

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}
        self._held: list[OrderedDict[int, int]] = []
        self._capacity: list[int] = []

    def add_replica(self, capacity_blocks: int) -> int:
        """A new slot that remembers at most `capacity_blocks` blocks."""
        self._held.append(OrderedDict())
        self._capacity.append(capacity_blocks)
        return len(self._held) - 1

    def resize(self, slot: int, capacity_blocks: int) -> None:
        """Remember at most `capacity_blocks` for the slot from now on."""
        self._capacity[slot] = capacity_blocks
        self._evict(slot)

    def blocks(self, slot: int) -> int:
        """How many blocks the slot is believed to hold."""
        return len(self._held[slot])

    def fill(self, slot: int) -> float:
        """Share of the slot's capacity in use, 0..1."""
        return len(self._held[slot]) / self._capacity[slot]

    def overlaps(self, chain: PrefixChain) -> list[int]:
        """Leading blocks of the chain held, for every slot."""
        overlaps = [0] * len(self._held)
        alive = (1 << len(self._held)) - 1
        holders = self._holders
        depth = 0
        for link in chain.hashes:
            still = holders.get(link, 0) & alive
            if still != alive:
                _record(overlaps, alive & ~still, depth)
                alive = still
                if not alive:
                    return overlaps
            depth += 1
        _record(overlaps, alive, depth)
        return overlaps

    def claim(self, slot: int, chain: PrefixChain, ticket: int) -> None:
        """The attempt `ticket` will make the slot hold the whole chain; touches what it holds already."""
        held, bit, holders = self._held[slot], 1 << slot, self._holders
        for link in reversed(chain.hashes):  # the head is touched last, so tails are forgotten first
            owner = held.get(link)
            if owner is None:
                held[link] = ticket
                holders[link] = holders.get(link, 0) | bit
            else:
                held.move_to_end(link)
                if owner != CONFIRMED:
                    held[link] = ticket
        self._evict(slot)

    def confirm(self, slot: int, chain: PrefixChain) -> None:
        """A first token came: the slot has computed the whole chain."""
        held, bit, holders = self._held[slot], 1 << slot, self._holders
        for link in reversed(chain.hashes):  # in the order of `claim`, for what was forgotten since
            if link not in held:
                holders[link] = holders.get(link, 0) | bit
            held[link] = CONFIRMED
            held.move_to_end(link)
        self._evict(slot)

    def withdraw(self, slot: int, chain: PrefixChain, ticket: int) -> None:
        """The attempt died before its first token: forget the blocks that rested on its promise alone."""
        held = self._held[slot]
        for link in chain.hashes:
            if held.get(link) == ticket:
                del held[link]
                self._drop(slot, link)

    def clear(self, slot: int) -> None:
        """The replica lost its cache."""
        for link in self._held[slot]:
            self._drop(slot, link)
        self._held[slot].clear()

    def _evict(self, slot: int) -> None:
        held, capacity = self._held[slot], self._capacity[slot]
        while len(held) > capacity:
            link, _ = held.popitem(last=False)
            self._drop(slot, link)

    def _drop(self, slot: int, link: int) -> None:
        left = self._holders[link] & ~(1 << slot)
        if left:
            self._holders[link] = left
        else:
            del self._holders[link]


def _record(overlaps: list[int], slots: int, depth: int) -> None:
    while slots:
        lowest = slots & -slots
        overlaps[lowest.bit_length() - 1] = depth
        slots ^= lowest
