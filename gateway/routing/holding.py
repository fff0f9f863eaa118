"""Held requests: those whose best replica is still busy wait here, where they can yet go elsewhere; pure."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from typing import Final

from gateway.routing.candidates import Candidate
from gateway.routing.decision import Priority, RouteRequest
from gateway.routing.experiments.definition import Exposure
from gateway.routing.turns import Turns

DEFAULT_HOLD_MS: Final = 600.0
"""Prefill queued at a replica above which requests for it are held: about a chunk of 8192 tokens on 2×H200."""
LOOK_S: Final = 0.02
"""Held requests are looked at this often when nothing happens, as queues shorten by themselves."""
RELOOK_S: Final = 0.25
"""A request whose best replica is still busy is asked this often whether another has become the best."""

LineKey = tuple[Priority, str]
"""Priority and tenant."""


@dataclass(slots=True, eq=False)
class HeldRequest:
    """One held request. `slot` and `work_ms`: its best replica, and its prefill there, as of `looked_at`.

    `tokens` is what it would cost when it came: those to compute, and the answer's as far as can be known. It is to be
    sent before `expires_at`. `exposure` is its part in an experiment.
    """

    ticket: int
    request: RouteRequest
    model: str
    since: float
    slot: int
    work_ms: float
    looked_at: float
    prompt_tokens: int = 0
    tokens: int = 0
    expires_at: float = float("inf")
    exposure: Exposure | None = None

    @property
    def turn(self) -> tuple[float, int]:
        """Its place in its line: all have waited until the same now, so since when is all that counts."""
        return self.work_ms + 1000 * self.since, self.ticket

    @property
    def line(self) -> LineKey:
        """Where it stands."""
        return self.request.priority, self.request.tenant


@dataclass(slots=True, eq=False)
class Line:
    """One tenant's requests of one priority, by the work that is left of each at its best replica, less the time that
    it has waited.

    Short ones first keeps the mean wait low; the time waited makes sure that long ones get their turn.
    """

    tokens: int = 0
    waiting: list[tuple[tuple[float, int], HeldRequest]] = field(default_factory=list)

    def add(self, held: HeldRequest) -> None:
        """It waits now."""
        insort(self.waiting, (held.turn, held))
        self.tokens += held.tokens

    def remove(self, held: HeldRequest) -> None:
        """It waits no longer."""
        del self.waiting[bisect_left(self.waiting, (held.turn,))]
        self.tokens -= held.tokens


class HeldRequests:
    """All lines. Whose line is next is a matter of what each was given; the share of a priority comes before that."""

    def __init__(self) -> None:
        self.lines: dict[LineKey, Line] = {}
        self._held: dict[int, HeldRequest] = {}
        self._priorities: Turns[Priority] = Turns()
        self._tenants: dict[Priority, Turns[str]] = {priority: Turns() for priority in Priority}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[HeldRequest]:
        return iter(self._held.values())

    def get(self, ticket: int) -> HeldRequest | None:
        """The one of that ticket, if it waits."""
        return self._held.get(ticket)

    def add(self, held: HeldRequest) -> None:
        """Hold it."""
        priority, tenant = key = held.line
        line = self.lines.get(key)
        if line is None:
            if not any(of == priority for of, _ in self.lines):
                self._priorities.join(priority)
            self._tenants[priority].join(tenant)
            line = self.lines[key] = Line()
        line.add(held)
        self._held[held.ticket] = held

    def remove(self, held: HeldRequest) -> None:
        """It waits no longer."""
        del self._held[held.ticket]
        line = self.lines[held.line]
        line.remove(held)
        if not line.waiting:
            del self.lines[held.line]

    def look(self, held: HeldRequest, best: Candidate, now: float) -> None:
        """It was looked at, and its best replica is this one."""
        line = self.lines[held.line]
        line.remove(held)
        held.slot, held.work_ms, held.looked_at = best.slot, best.prefill_ms, now
        line.add(held)

    def give(self, line: LineKey, tokens: int, share: float, weight: float) -> None:
        """A request of that line goes: `share` is its priority's, `weight` its tenant's."""
        priority, tenant = line
        self._priorities.give(priority, tokens, share)
        self._tenants[priority].give(tenant, tokens, weight)

    def by_turn(self, due: Callable[[HeldRequest], bool]) -> Iterator[HeldRequest]:
        """Those who are due, in their turn; whoever was yielded may go, or be looked at, before the next is asked for.

        `due` is asked when a request's turn comes.
        """
        waiting: dict[Priority, list[tuple[float, str, Iterator[HeldRequest]]]] = {}
        for (priority, tenant), line in self.lines.items():
            turns = (held for _, held in tuple(line.waiting))
            waiting.setdefault(priority, []).append((self._tenants[priority].mark(tenant), tenant, turns))
        for lines in waiting.values():
            heapify(lines)
        while waiting:
            priority = min(waiting, key=self._mark)
            lines = waiting[priority]
            _, tenant, in_line = lines[0]
            head = next((held for held in in_line if due(held)), None)
            if head is not None:
                yield head
                heapreplace(lines, (self._tenants[priority].mark(tenant), tenant, in_line))
            else:
                heappop(lines)
                if not lines:
                    del waiting[priority]

    def _mark(self, priority: Priority) -> tuple[float, bool]:
        return self._priorities.mark(priority), priority is Priority.BATCH
