"""Which worker holds which blocks, and how many of a prompt's leading blocks each one holds; pure."""

from collections.abc import Iterable, Sequence


class PrefixSets:
    """A set of block names per worker slot, kept as one map of block to slots, so that one walk answers for all."""

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._masks: dict[int, int] = {}  # block to the slots that hold it, as bits
        self.sizes = [0] * slots
        """Blocks held, by slot."""

    def __len__(self) -> int:
        return len(self._masks)

    def holds(self, slot: int, block: int) -> bool:
        """Whether this worker holds this block."""
        return bool(self._masks.get(block, 0) >> slot & 1)

    def depths(self, blocks: Sequence[int]) -> list[int]:
        """By slot, how many of these blocks it holds before the first that it does not hold."""
        found = [0] * self._slots
        masks = self._masks
        alive = (1 << self._slots) - 1
        for depth, block in enumerate(blocks):
            holders = masks.get(block, 0) & alive
            if holders != alive:
                _note(found, alive ^ holders, depth)
                alive = holders
                if not alive:
                    return found
        _note(found, alive, len(blocks))
        return found

    def depth(self, slot: int, blocks: Sequence[int]) -> int:
        """How many of these blocks this worker holds before the first that it does not hold."""
        masks, bit = self._masks, 1 << slot
        for depth, block in enumerate(blocks):
            if not masks.get(block, 0) & bit:
                return depth
        return len(blocks)

    def add(self, slot: int, blocks: Iterable[int]) -> None:
        """The worker holds these from now on."""
        masks, bit, new = self._masks, 1 << slot, 0
        for block in blocks:
            mask = masks.get(block, 0)
            if not mask & bit:
                masks[block] = mask | bit
                new += 1
        self.sizes[slot] += new

    def remove(self, slot: int, blocks: Iterable[int]) -> None:
        """The worker does not hold these any more; what it never held is no matter."""
        masks, bit, gone = self._masks, 1 << slot, 0
        for block in blocks:
            mask = masks.get(block, 0)
            if mask & bit:
                gone += 1
                if mask == bit:
                    del masks[block]
                else:
                    masks[block] = mask ^ bit
        self.sizes[slot] -= gone

    def drop(self, block: int) -> None:
        """Nobody holds it any more."""
        mask = self._masks.pop(block, 0)
        while mask:
            lowest = mask & -mask
            self.sizes[lowest.bit_length() - 1] -= 1
            mask ^= lowest

    def forget(self, slot: int) -> None:
        """The worker holds nothing any more."""
        bit = 1 << slot
        self._masks = {block: rest for block, mask in self._masks.items() if (rest := mask & ~bit)}
        self.sizes[slot] = 0


def _note(found: list[int], slots: int, depth: int) -> None:
    while slots:
        lowest = slots & -slots
        found[lowest.bit_length() - 1] = depth
        slots ^= lowest
