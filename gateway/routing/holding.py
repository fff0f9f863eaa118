"""Held requests: those whose best replica is still busy wait here, where they can yet go elsewhere; pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gateway.routing.candidates import Candidate
from gateway.routing.decision import RouteRequest

DEFAULT_HOLD_MS: Final = 600.0
"""Prefill queued at a replica above which requests for it are held: about a chunk of 8192 tokens on 2×H200."""
LOOK_S: Final = 0.02
"""Held requests are looked at this often when nothing happens, as queues shorten by themselves."""
RELOOK_S: Final = 0.25
"""A request whose best replica is still busy is asked this often whether another has become the best."""


@dataclass(slots=True)
class HeldRequest:
    """One held request. `slot` and `work_ms`: its best replica, and its prefill there, as of `looked_at`."""

    ticket: int
    request: RouteRequest
    since: float
    slot: int
    work_ms: float
    looked_at: float

    def look(self, best: Candidate, now: float) -> None:
        """It was looked at, and its best replica is this one."""
        self.slot, self.work_ms, self.looked_at = best.slot, best.prefill_ms, now


class HeldRequests:
    """Ordered by the work that is left of each at its best replica, less the time that it has waited.

    Short ones first keeps the mean wait low; the time waited makes sure that long ones get their turn.
    """

    def __init__(self) -> None:
        self._held: dict[int, HeldRequest] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[HeldRequest]:
        return iter(self._held.values())

    def add(self, ticket: int, request: RouteRequest, best: Candidate, now: float) -> None:
        """Hold it."""
        self._held[ticket] = HeldRequest(ticket, request, now, best.slot, best.prefill_ms, now)

    def remove(self, ticket: int) -> None:
        """It waits no longer."""
        self._held.pop(ticket, None)

    def by_turn(self) -> list[HeldRequest]:
        """Whose turn comes first: all have waited until the same now, so since when is all that counts."""
        return sorted(self._held.values(), key=lambda held: held.work_ms + 1000 * held.since)
