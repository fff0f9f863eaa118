"""`[[shadows]]`: a share of the traffic sent a second time, to another pool; pure."""

from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from gateway.config.pools import NAME
from gateway.config.section import Section, one_of, require

COMPARISONS: Final = ("none", "timing", "text")
MOST_INFLIGHT: Final = 1000


class ShadowConfig(Section, frozen=True, rename={"from_pools": "from"}):
    """`[[shadows]]`: copies of requests go to the pool `to`, whose answers nobody gets.

    `share` of the prefix families that are served by the pools `from` (none named: by any other pool), for these models
    and tenants (none named: all). `max_inflight` copies at a time, in each process. `compare`: "timing" of each copy
    with its request, "text" also whether answers at temperature 0 are the same, or "none".
    """

    name: str
    to: str
    share: float
    compare: str = "timing"
    max_inflight: int = 8
    from_pools: list[str] = msgspec.field(default_factory=list)
    models: list[str] = msgspec.field(default_factory=list)
    tenants: list[str] = msgspec.field(default_factory=list)


def check_shadows(shadows: Sequence[ShadowConfig], pools: Collection[str], tenants: Collection[str]) -> None:
    """What types cannot say; `pools` and `tenants` are the names of all. Raises ConfigError."""
    names: set[str] = set()
    for shadow in shadows:
        where = f"shadow `{shadow.name}`"
        require(bool(NAME.fullmatch(shadow.name)), f"{where}: a name is letters, digits, `.`, `_` and `-`")
        require(shadow.name not in names, f"{where}: there are two of that name")
        names.add(shadow.name)
        one_of(f"{where}: to", shadow.to, list(pools))
        one_of(f"{where}: compare", shadow.compare, list(COMPARISONS))
        require(0 <= shadow.share <= 1, f"{where}: share must be between 0 and 1")
        few = 1 <= shadow.max_inflight <= MOST_INFLIGHT
        require(few, f"{where}: max_inflight must be between 1 and {MOST_INFLIGHT}")
        for pool in shadow.from_pools:
            one_of(f"{where}: from", pool, list(pools))
            require(pool != shadow.to, f"{where}: from must not name the pool that the copies go to")
        for tenant in shadow.tenants:
            one_of(f"{where}: tenants", tenant, list(tenants))


def shadow_notices(shadows: Sequence[ShadowConfig], pinned_only: Collection[str], *, keeps_streams: bool) -> list[str]:
    """What an operator should know: sentences. `pinned_only` are the pools that get no clients' requests."""
    return [
        f"shadow `{one.name}`: its pool `{one.to}` gets clients' requests too, unless it is pinned_only"
        for one in shadows
        if one.to not in pinned_only
    ] + [
        f"shadow `{one.name}`: streams are not compared as text while [retry] continue_streams is false"
        for one in shadows
        if one.compare == "text" and not keeps_streams
    ]
