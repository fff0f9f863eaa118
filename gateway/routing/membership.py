"""Membership: which pools and replicas there are, and which of them take new requests; pure."""

from typing import assert_never

from gateway.routing.beliefs import Beliefs
from gateway.routing.congestion import Congestion
from gateway.routing.facts import (
    PoolConfigured,
    PoolRemoved,
    ReplicaAdded,
    ReplicaDraining,
    ReplicaRemoved,
    ReplicaResumed,
)
from gateway.routing.fleet import DEFAULT_KV_TOKENS, Fleet
from gateway.routing.replica import Booking, PoolSpec, ReplicaSpec
from gateway.routing.reuse import Reuse

MembershipFact = PoolConfigured | PoolRemoved | ReplicaAdded | ReplicaDraining | ReplicaResumed | ReplicaRemoved
BYTES_PER_TOKEN = 4
"""Of text, about, until an engine has said how many tokens it made of some."""


class Membership:
    """Lets replicas in and out. `block_bytes` is the block of text chains.

    A replica's slot stays its own while requests of ours or of peers are in flight there, as they still learn into it.
    """

    def __init__(self, fleet: Fleet, beliefs: Beliefs, reuse: Reuse, congestion: Congestion, block_bytes: int) -> None:
        self._fleet = fleet
        self._beliefs = beliefs
        self._reuse = reuse
        self._congestion = congestion
        self._block_bytes = block_bytes

    def observe(self, fact: MembershipFact) -> None:
        """Learn who comes or goes. ValueError or KeyError for what cannot be: the caller's broken promise."""
        match fact:
            case PoolConfigured():
                self.configure(fact.spec)
            case PoolRemoved():
                self._remove_pool(fact.pool)
            case ReplicaAdded():
                self.add(fact.pool, fact.spec)
            case ReplicaDraining():
                self._fleet.replica(fact.replica).draining = True
                self._fleet.list_up()
            case ReplicaResumed():
                self._fleet.replica(fact.replica).draining = False
                self._fleet.list_up()
            case ReplicaRemoved():
                self._remove(fact.replica)
            case _:
                assert_never(fact)

    def configure(self, spec: PoolSpec) -> None:
        """A new pool without replicas, or new settings for one."""
        pool = self._fleet.pools.get(spec.name)
        if pool is None:
            self._fleet.add_pool(spec)
        else:
            pool.spec, pool.leaving = spec, False
        self._fleet.list_models()

    def add(self, pool: str, spec: ReplicaSpec) -> None:
        """A new replica."""
        bookings: dict[int, Booking] = {}
        blocks = max(1, int(DEFAULT_KV_TOKENS * BYTES_PER_TOKEN / self._block_bytes))
        view = self._beliefs.add_replica(blocks, bookings.values)
        self._reuse.add_replica(DEFAULT_KV_TOKENS, view.slot)
        self._fleet.add_replica(self._fleet.pools[pool], spec, view).bookings = bookings

    def _remove(self, name: str) -> None:
        replica = self._fleet.replica(name)
        self._fleet.remove_replica(replica)
        self._congestion.forget(replica.slot)
        if not replica.bookings:
            self._beliefs.remove(replica.cache)
        if replica.pool.leaving and not replica.pool.replicas:
            del self._fleet.pools[replica.pool.spec.name]

    def _remove_pool(self, name: str) -> None:
        pool = self._fleet.pools[name]
        pool.leaving = True
        if not pool.replicas:
            del self._fleet.pools[name]
        self._fleet.list_models()
