"""What each worker was sent most recently, up to a capacity: an approximate router's guess at its cache; pure."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from gateway.simulation.baselines.prefix_sets import PrefixSets


class RecentBlocks:
    """Keeps in `held`, for each worker, the blocks touched last (LRU), at most its capacity in blocks."""

    def __init__(self, held: PrefixSets, capacities: Sequence[int]) -> None:
        self.held = held
        self._capacities = capacities
        self._recent: list[OrderedDict[int, None]] = [OrderedDict() for _ in capacities]  # oldest first

    def touch(self, slot: int, blocks: Iterable[int]) -> None:
        """The worker was sent these; the last of them is the most recent. What is too much leaves, oldest first."""
        recent = self._recent[slot]
        new = []
        for block in blocks:
            if block in recent:
                recent.move_to_end(block)
            else:
                recent[block] = None
                new.append(block)
        self.held.add(slot, new)
        excess = len(recent) - self._capacities[slot]
        if excess > 0:
            self.held.remove(slot, [recent.popitem(last=False)[0] for _ in range(excess)])

    def forget(self, slot: int) -> None:
        """The worker was sent nothing yet."""
        self._recent[slot].clear()
        self.held.forget(slot)
