"""Upper bounds: what no router over separate caches can be; the whole fleet's cache shared by every engine; pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.reports import LoadReport
from engines.simulated.sequences import BlocksRemoved, BlocksStored, CacheEvent
from gateway.simulation.chooser import Asked, Ended, Placement
from gateway.simulation.fleet import SimulatedReplica


@dataclass(slots=True)
class _Queue:
    """Prefill seconds sent to one replica and not done. `since`: when its engine last turned to the head."""

    work_s: dict[int, float] = field(default_factory=dict)
    since: float = 0.0

    def wait_s(self, now: float) -> float:
        if not self.work_s:
            return 0.0
        head = next(iter(self.work_s.values()))
        return sum(self.work_s.values()) - min(now - self.since, head)


class PooledChooser:
    """Sends each request where its first token comes soonest, as all replicas hit the same.

    Give the run `pooled=1` for one cache of the fleet's total capacity, or a large factor for an endless one.
    """

    poll_s = 1.0
    reads_waiting_tokens = False

    def __init__(self, fleet: Sequence[SimulatedReplica]) -> None:
        self._fleet = fleet
        self._queues = [_Queue() for _ in fleet]
        self._up = set(range(len(fleet)))
        self._held: set[bytes] = set()
        self._sent: dict[int, int] = {}
        self._waiting: list[Asked] = []
        self._placements: list[Placement] = []

    def ask(self, asked: Asked, now: float) -> None:
        """The least predicted time to first token; what is cached is known exactly. With no replica up, it waits."""
        if not self._up:
            self._waiting.append(asked)
            return
        block = self._fleet[0].limits.block_tokens
        cached = 0
        for one in asked.blocks[: (asked.tokens - 1) // block]:
            if one not in self._held:
                break
            cached += block
        costs = {
            slot: self._queues[slot].wait_s(now) + self._fleet[slot].prefill_s(asked.tokens - cached)
            for slot in sorted(self._up)
        }
        slot = min(costs, key=costs.__getitem__)
        queue = self._queues[slot]
        if not queue.work_s:
            queue.since = now
        queue.work_s[asked.number] = self._fleet[slot].prefill_s(asked.tokens - cached)
        self._sent[asked.number] = slot
        self._placements.append(Placement(asked.number, slot))

    def placements(self, now: float) -> list[Placement]:
        """Decisions made since the last call."""
        made, self._placements = self._placements, []
        return made

    def look_at(self, now: float) -> float:
        """Never."""
        return float("inf")

    def first_token(self, number: int, cached_tokens: int, now: float) -> None:
        """Its prefill is done."""
        queue = self._queues[self._sent[number]]
        queue.work_s.pop(number, None)
        queue.since = now

    def finished(self, number: int, ended: Ended, now: float) -> None:
        """Nothing of it is left in the queue."""
        del self._sent[number]

    def failed(self, number: int, now: float) -> None:
        """Its engine is gone."""
        self._queues[self._sent.pop(number)].work_s.pop(number, None)

    def reported(self, slot: int, report: LoadReport, now: float) -> None:
        """Nothing that is not known."""

    def changed(self, slot: int, events: Sequence[CacheEvent], now: float) -> None:
        """What the shared cache holds."""
        for event in events:
            if isinstance(event, BlocksStored):
                self._held.update(event.hashes)
            elif isinstance(event, BlocksRemoved):
                self._held.discard(event.block)

    def down(self, slot: int, now: float) -> None:
        """One engine fewer; the cache stays."""
        self._up.discard(slot)

    def up(self, slot: int, now: float) -> None:
        """One engine more."""
        self._up.add(slot)
        waiting, self._waiting = self._waiting, []
        for asked in waiting:
            self.ask(asked, now)
