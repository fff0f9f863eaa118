"""Hot families: of each pool the prefix families in most use, each with its latest request; bounded; pure.

The requests hold prompts: they are never logged, never shown, and gone with the process.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import exp2
from typing import Final

from gateway.config import Config
from gateway.routing.decision import RouteRequest
from gateway.wire.request import Endpoint

HALF_LIFE_S: Final = 300.0
"""After so long without use a family counts half."""
CANDIDATES: Final = 4
"""Families that are followed for each one that is wanted, as the hottest are known only later."""
WHILE_CHANGING: Final = 32
"""Families of a pool whose replicas are being restarted, where it keeps none otherwise: those seen meanwhile."""
MOST_BODY_BYTES: Final = 4 << 20
MOST_BYTES: Final = 64 << 20
"""Of bodies, for one pool."""


@dataclass(slots=True)
class HotFamily:
    """One family. `asked` and `body` are its latest request, as it was routed and as the engine was sent it."""

    asked: RouteRequest
    endpoint: Endpoint
    body: bytes
    uses: float
    used_at: float

    def heat(self, now: float) -> float:
        """Uses, each counting less the longer ago it was."""
        return self.uses * exp2((self.used_at - now) / HALF_LIFE_S)


class HotFamilies:
    """Those of pools that want some kept."""

    def __init__(self, wanted: Mapping[str, int]) -> None:
        """`wanted` is how many, by pool."""
        self.wanted = wanted
        self.proven: frozenset[str] = frozenset()
        """Pools of which only those are hot that were used more than once."""
        self._pools: dict[str, OrderedDict[int, HotFamily]] = {pool: OrderedDict() for pool in wanted}
        self._bytes = dict.fromkeys(wanted, 0)

    def want(self, wanted: Mapping[str, int]) -> None:
        """Keep so many from now on; what is kept already stays, in pools that still want some."""
        self.wanted = wanted
        self._pools = {pool: self._pools.get(pool, OrderedDict()) for pool in wanted}
        self._bytes = {pool: self._bytes.get(pool, 0) for pool in wanted}

    def note(self, pool: str, asked: RouteRequest, endpoint: Endpoint, body: bytes, now: float) -> None:
        """A replica of the pool was sent this."""
        families, family = self._pools.get(pool), asked.chain.family
        if families is None or family is None or not endpoint.generates or len(body) > MOST_BODY_BYTES:
            return
        before = families.pop(family, None)
        uses = 1.0
        if before is not None:
            uses += before.heat(now)
            self._bytes[pool] -= len(before.body)
        families[family] = HotFamily(asked, endpoint, body, uses, now)
        self._bytes[pool] += len(body)
        while len(families) > CANDIDATES * self.wanted[pool] or self._bytes[pool] > MOST_BYTES:
            _, coldest = families.popitem(last=False)
            self._bytes[pool] -= len(coldest.body)

    def hottest(self, pool: str, now: float) -> list[HotFamily]:
        """As many as are wanted, the hottest first."""
        families = self._pools.get(pool)
        least = 1.0 if pool in self.proven else 0.0
        hot = [one for one in families.values() if one.uses > least] if families else []
        by_heat = sorted(hot, key=lambda one: -one.heat(now))
        return by_heat[: self.wanted.get(pool, 0)]


def wanted_families(config: Config) -> dict[str, int]:
    """How many, by pool, as it is configured."""
    return {pool.name: pool.warm_families for pool in config.pools if pool.warm_families}
