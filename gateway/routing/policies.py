"""Policies: each picks a row of the candidate table, and changes nothing; pure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final, NamedTuple

from xxhash import xxh3_64_intdigest

from gateway.routing.candidates import Candidate

NEAR_TIE_MS: Final = 1.0
NEAR_TIE_SHARE: Final = 0.02
"""Costs this close are equal: predictions are not better than that."""


class Circumstances(NamedTuple):
    """What a policy may look at beside the table.

    `turn` counts the decisions for the model, and says who wins a tie: the same past gives the same choices, live
    and simulated. `draw` is uniform in [0, 1), for `random` alone; `unit` is the session or prefix family, b"" if
    the request has neither.
    """

    turn: int
    draw: float
    unit: bytes


Policy = Callable[[Sequence[Candidate], Circumstances], Candidate]


def ttft(table: Sequence[Candidate], circumstances: Circumstances) -> Candidate:
    """The lowest cost to this request and to others; among near ties the longest prefix, then the emptiest cache."""
    costs = [one.wait_ms + one.prefill_ms + one.others_ms + one.eviction_ms for one in table]
    best = min(costs)
    tie = best * NEAR_TIE_SHARE
    limit = best + (max(NEAR_TIE_MS, tie))
    near = [candidate for candidate, cost in zip(table, costs, strict=True) if cost <= limit]
    if len(near) == 1:
        return near[0]
    return _first(near, [(-c.cached_tokens, c.fill) for c in near], circumstances.turn)


def prefix(table: Sequence[Candidate], circumstances: Circumstances) -> Candidate:
    """The longest cached prefix; among equals the shortest predicted wait."""
    return _first(table, [(-c.cached_tokens, c.wait_ms, c.inflight) for c in table], circumstances.turn)


def least_load(table: Sequence[Candidate], circumstances: Circumstances) -> Candidate:
    """The fewest requests in flight, whatever is cached."""
    return _first(table, [(c.inflight,) for c in table], circumstances.turn)


def round_robin(table: Sequence[Candidate], circumstances: Circumstances) -> Candidate:
    """Each replica in turn."""
    return table[circumstances.turn % len(table)]


def random(table: Sequence[Candidate], circumstances: Circumstances) -> Candidate:
    """Any replica."""
    return table[int(circumstances.draw * len(table))]


def session(table: Sequence[Candidate], circumstances: Circumstances) -> Candidate:
    """The same replica for one session (else one prefix family), by rendezvous hashing; no state is kept."""
    if not circumstances.unit:
        return least_load(table, circumstances)
    return max(table, key=lambda c: xxh3_64_intdigest(circumstances.unit + b"\xff" + c.replica.encode()))


def _first(table: Sequence[Candidate], keys: Sequence[tuple[float, ...]], turn: int) -> Candidate:
    """The row with the least key; ties take turns."""
    least = min(keys)
    ties = [candidate for candidate, key in zip(table, keys, strict=True) if key == least]
    return ties[turn % len(ties)]


POLICIES: Final[Mapping[str, Policy]] = {
    "ttft": ttft,
    "prefix": prefix,
    "least-load": least_load,
    "round-robin": round_robin,
    "random": random,
    "session": session,
}

HOLDING: Final = frozenset({"ttft"})
"""Those whose requests may be held until their replica is free for more."""
SPREADING: Final = frozenset({"least-load", "round-robin", "random"})
"""Those that do not care which replica it is: where they hold, they pick among those that are free."""
UNITED: Final = frozenset({"session"})
"""Those that look at the unit."""
