"""The fleet: all pools and replicas, by name, by model and in slot order; pure."""

from collections.abc import Iterator
from typing import Final

from gateway.routing.beliefs import CacheView
from gateway.routing.chain import PrefixChain
from gateway.routing.curves import PrefillCurve
from gateway.routing.decision import RouteRequest
from gateway.routing.health import Health, HealthRules
from gateway.routing.replica import Pool, PoolSpec, Replica, ReplicaSpec

DEFAULT_KV_TOKENS: Final = 1_000_000
"""Cache capacity assumed until the engine reports its own."""


class Fleet:
    """All pools and replicas, by name and in slot order.

    Slots are places in arrays and bit masks: that of a removed replica is the next one's, once nothing is in flight.
    """

    def __init__(self, rules: HealthRules) -> None:
        self.pools: dict[str, Pool] = {}
        self.replicas: list[Replica] = []
        self.curve = PrefillCurve()
        self.served: dict[str, list[Replica]] = {}
        """Every model that can be asked for, with the replicas that serve it, in a stable order."""
        self.up: dict[str, list[Replica]] = {}
        """The same, of the replicas that take requests from anybody."""
        self.adapters: set[str] = set()
        """The names among them that are adapters: their prompts share no cache with their model's."""
        self.ailing: set[Replica] = set()
        """Those with something held against their health; nearly always none."""
        self.by_url: dict[str, Replica] = {}
        self.by_slot: dict[int, Replica] = {}
        self.retired: list[Replica] = []
        """Removed ones with requests in flight."""
        self._rules = rules
        self._by_name: dict[str, Replica] = {}

    def add_pool(self, spec: PoolSpec) -> Pool:
        """A new pool without replicas."""
        pool = self.pools[spec.name] = Pool(spec)
        return pool

    def add_replica(self, pool: Pool, spec: ReplicaSpec, cache: CacheView) -> Replica:
        """A new replica of the pool. ValueError where another one has its name or URL."""
        if spec.name in self._by_name or spec.url in self.by_url:
            raise ValueError(f"there is a replica {spec.name} or one at {spec.url}")
        replica = Replica(spec, pool, cache, (PrefillCurve(), pool.curve, self.curve), Health(self._rules))
        pool.replicas.append(replica)
        self.replicas = sorted((*self.replicas, replica), key=lambda one: one.slot)
        self._by_name[spec.name] = self.by_url[spec.url] = self.by_slot[replica.slot] = replica
        self.list_models()
        return replica

    def remove_replica(self, replica: Replica) -> None:
        """The replica is gone for good; what is in flight there ends as it may."""
        replica.removed = True
        self.ailing.discard(replica)
        replica.pool.replicas.remove(replica)
        self.replicas = [one for one in self.replicas if one is not replica]
        del self._by_name[replica.spec.name], self.by_url[replica.spec.url], self.by_slot[replica.slot]
        if replica.bookings:
            self.retired.append(replica)
        self.list_models()

    def replica(self, name: str) -> Replica:
        """The replica of that name; KeyError if there is none."""
        return self._by_name[name]

    def find(self, name: str) -> Replica | None:
        """The replica of that name, if it is there still."""
        return self._by_name.get(name)

    def unheard(self) -> list[str]:
        """Of pools that take their model from their replicas, and of which none has said one: why, in a few words."""
        pools = [pool for pool in self.pools.values() if pool.spec.model is None and not pool.leaving]
        silent = [pool for pool in pools if not any(replica.models for replica in pool.replicas)]
        said = [f"{one.spec.name}: {one.shown_reason}" for pool in silent for one in pool.replicas]
        return said + [f"the pool {pool.spec.name} has no replicas now" for pool in silent if not pool.replicas]

    def learn(self, replica: Replica, uncached_tokens: int, measured_ms: float) -> None:
        """One measured prefill there, which those learn from too that have no curve of their own yet."""
        replica.learn(uncached_tokens, measured_ms)
        for other in self.replicas:
            if other.borrows:
                other.standing = None

    def list_models(self) -> None:
        """Renew `served`, after replicas came or said what they serve."""
        self.served = {}
        for replica in [one for one in self.replicas if not one.pool.leaving]:
            for model in _names(replica):
                self.served.setdefault(model, []).append(replica)
        for pool in self.pools.values():
            if pool.spec.model is not None and not pool.leaving:  # known, though maybe nobody serves it now
                self.served.setdefault(pool.spec.model, [])
        self.list_up()
        cards = [card for replica in self.replicas for card in replica.models.values()]
        self.adapters = {card.id for card in cards if card.parent is not None}

    def list_up(self) -> None:
        """Renew `up`, after a replica came or went."""
        self.up = {
            model: [one for one in replicas if one.takes_requests and not one.pool.spec.pinned_only]
            for model, replicas in self.served.items()
        }

    def usable(self, model: str) -> bool:
        """Whether a replica of the model takes requests; those for pins count where there are no others."""
        replicas = self.served[model]
        open_to_all = [one for one in replicas if not one.pool.spec.pinned_only]
        return any(one.takes_requests for one in open_to_all or replicas)


def _names(replica: Replica) -> Iterator[str]:
    configured = replica.pool.spec.model
    if configured is not None:
        yield configured
    yield from sorted(replica.models.keys() - {configured})


def chain_for(replica: Replica, request: RouteRequest) -> PrefixChain:
    """The chain to look a request up by at this replica: of its tokens where they are known and trusted."""
    form = replica.form
    if form is not None:
        for chain in request.token_chains:
            if chain.form == form and replica.pool.token_trust.trusts(chain.shape):
                return chain
    return request.chain
