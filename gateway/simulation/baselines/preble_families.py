"""Preble's global view: prefix families, the workers they are allocated to, and the load of a sliding window; pure."""

from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from gateway.simulation.baselines.prefill_time import prefill_s

WINDOW_S: Final = 180.0


class HalfWindows:
    """Samples of the last three minutes, in an older and a newer half."""

    def __init__(self) -> None:
        self._halves: tuple[deque[tuple[float, float]], ...] = (deque(), deque())  # older, newer
        self._sums = [0.0, 0.0]

    def add(self, now: float, value: float) -> None:
        """One more sample."""
        self._halves[1].append((now, value))
        self._sums[1] += value
        self._age(now)

    def doubled(self, now: float) -> bool:
        """Whether the newer half's average is at least twice the older's; False while either is empty."""
        self._age(now)
        older, newer = self._halves
        if not older or not newer:
            return False
        return self._sums[1] / len(newer) >= 2 * self._sums[0] / len(older)

    def clear(self) -> None:
        """Begin anew."""
        for half in self._halves:
            half.clear()
        self._sums = [0.0, 0.0]

    def _age(self, now: float) -> None:
        older, newer = self._halves
        while newer and newer[0][0] < now - WINDOW_S / 2:
            sample = newer.popleft()
            self._sums[1] -= sample[1]
            older.append(sample)
            self._sums[0] += sample[1]
        while older and older[0][0] < now - WINDOW_S:
            self._sums[0] -= older.popleft()[1]


@dataclass(slots=True, eq=False)
class Family:
    """A large node of the prefix tree with the small ones below it; its request counts are those in the window."""

    tokens: int
    held: list[int]
    blocks: list[int] = field(default_factory=list)
    slots: list[int] = field(default_factory=list)
    requests: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    ttfts: HalfWindows = field(default_factory=HalfWindows)

    def prefill_load_s(self) -> float:
        """Miss rate × requests × prefill time of the node."""
        if not self.requests:
            return 0.0
        return (1 - self.hit_tokens / self.prompt_tokens) * self.requests * prefill_s(self.tokens)


class Families:
    """The tree: every block belongs to the family that brought it. `loads`: prefill seconds in the window, by slot."""

    def __init__(self, capacities: Sequence[int]) -> None:
        self.loads = [0.0] * len(capacities)
        self._capacities = capacities
        self._owners: dict[int, Family] = {}
        self._allocated: dict[int, int] = {}  # block to slots, as bits
        self._window: deque[tuple[float, Family, int, int]] = deque()
        self._resident: list[OrderedDict[Family, None]] = [OrderedDict() for _ in capacities]  # oldest first
        self._resident_blocks = [0] * len(capacities)

    def match(self, blocks: Sequence[int]) -> tuple[int, Family | None]:
        """How many leading blocks are known, and the family of the last of them."""
        owners, family = self._owners, None
        for depth, block in enumerate(blocks):
            owner = owners.get(block)
            if owner is None:
                return depth, family
            family = owner
        return len(blocks), family

    def allocated(self, known: Sequence[int]) -> int:
        """The slots, as bits, that the last of these blocks is allocated to, or the nearest before it that has any."""
        return next((mask for block in reversed(known) if (mask := self._allocated.get(block, 0))), 0)

    def record(self, blocks: Sequence[int], depth: int, family: Family, slot: int) -> None:
        """A prompt of this family was sent there; its first `depth` blocks were known."""
        owners, allocated, bit = self._owners, self._allocated, 1 << slot
        path: list[Family] = []
        for block in blocks[:depth]:
            owner = owners[block]
            if not path or path[-1] is not owner:
                path.append(owner)
            mask = allocated.get(block, 0)
            if not mask & bit:
                allocated[block] = mask | bit
                owner.held[slot] += 1
                self._resident_blocks[slot] += 1
        new = blocks[depth:]
        owners.update(dict.fromkeys(new, family))
        allocated.update(dict.fromkeys(new, bit))
        family.blocks.extend(new)
        family.held[slot] += len(new)
        self._resident_blocks[slot] += len(new)
        if not path or path[-1] is not family:
            path.append(family)
        self._allocate(path, slot)

    def _allocate(self, path: Sequence[Family], slot: int) -> None:
        resident = self._resident[slot]
        for family in reversed(path):  # the root is the most recent
            if slot not in family.slots:
                self._charge(family, -1)
                family.slots.append(slot)
                self._charge(family, 1)
            resident[family] = None
            resident.move_to_end(family)
        while self._resident_blocks[slot] > self._capacities[slot] and len(resident) > len(path):
            self._evict(next(iter(resident)), slot)

    def count(self, family: Family, hit_tokens: int, prompt_tokens: int, now: float) -> None:
        """A prompt of this family enters the window."""
        self._window.append((now, family, hit_tokens, prompt_tokens))
        self._change(family, 1, hit_tokens, prompt_tokens)

    def expire(self, now: float) -> None:
        """Prompts leave the window; a family without any is allocated nowhere."""
        while self._window and self._window[0][0] < now - WINDOW_S:
            _, family, hit_tokens, prompt_tokens = self._window.popleft()
            self._change(family, -1, -hit_tokens, -prompt_tokens)
            if not family.requests:
                for slot in tuple(family.slots):
                    self._evict(family, slot)

    def eviction_s(self, slot: int, blocks: int) -> float:
        """Prefill load of the families that would have to go, oldest first, for so many blocks more."""
        excess = self._resident_blocks[slot] + blocks - self._capacities[slot]
        cost_s = 0.0
        for family in self._resident[slot] if excess > 0 else ():
            cost_s += family.prefill_load_s()
            excess -= family.held[slot]
            if excess <= 0:
                break
        return cost_s

    def forget(self, slot: int) -> None:
        """Nothing is allocated there any more."""
        for family in tuple(self._resident[slot]):
            self._evict(family, slot)

    def _evict(self, family: Family, slot: int) -> None:
        self._charge(family, -1)
        family.slots.remove(slot)
        self._charge(family, 1)
        bit = 1 << slot
        for block in family.blocks:
            self._allocated[block] &= ~bit
        self._resident_blocks[slot] -= family.held[slot]
        family.held[slot] = 0
        del self._resident[slot][family]

    def _change(self, family: Family, requests: int, hit_tokens: int, prompt_tokens: int) -> None:
        self._charge(family, -1)
        family.requests += requests
        family.hit_tokens += hit_tokens
        family.prompt_tokens += prompt_tokens
        self._charge(family, 1)

    def _charge(self, family: Family, sign: int) -> None:
        if family.slots:
            share_s = sign * family.prefill_load_s() / len(family.slots)
            for slot in family.slots:
                self.loads[slot] += share_s
