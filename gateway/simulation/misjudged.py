"""Robustness: what becomes of a policy whose knowledge of speeds, capacities or caches is wrong; pure.

Each error is drawn once per replica or request, uniformly within the given share to either side, from the seed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from gateway.routing.chain import PrefixChain
from gateway.routing.index import Depths, PrefixIndex
from gateway.routing.router import Router
from gateway.simulation.baselines.base import Prompt
from gateway.simulation.fleet import SimulatedReplica


@dataclass(frozen=True, slots=True)
class Misjudged:
    """How far off: 0.3 is up to 30 % to either side, 0 is not at all.

    `speed`: replicas are faster or slower than every router's prior says. `capacity`: caches are larger or smaller
    than routers are told. `cached`: predictions of cached tokens are off.
    """

    speed: float = 0.0
    capacity: float = 0.0
    cached: float = 0.0


RIGHT: Final = Misjudged()


def true_fleet(fleet: Sequence[SimulatedReplica], misjudged: Misjudged, seed: int) -> tuple[SimulatedReplica, ...]:
    """The replicas as they are: of other speeds than their profiles say."""
    if not misjudged.speed:
        return tuple(fleet)
    rng = Random(f"speed {seed}")
    return tuple(replace(one, profile=one.profile.faster(_factor(rng, misjudged.speed))) for one in fleet)


def told_fleet(fleet: Sequence[SimulatedReplica], misjudged: Misjudged, seed: int) -> tuple[SimulatedReplica, ...]:
    """The replicas as routers are told of them: with other caches than they have."""
    if not misjudged.capacity:
        return tuple(fleet)
    rng = Random(f"capacity {seed}")
    return tuple(_resized(one, _factor(rng, misjudged.capacity)) for one in fleet)


def _resized(replica: SimulatedReplica, factor: float) -> SimulatedReplica:
    block = replica.limits.block_tokens
    blocks = max(int(replica.limits.kv_tokens * factor / block), 1)
    return replace(replica, limits=replace(replica.limits, kv_tokens=blocks * block))


def misjudge_depths(router: Router, share: float, seed: int) -> None:
    """Make the router see longer or shorter cached prefixes than its index has, alike at all replicas."""
    index: PrefixIndex = router._beliefs.index
    true_depths = index.depths

    def depths(chain: PrefixChain) -> list[Depths]:
        links = chain.hashes
        factor = _factor(Random(f"cached {seed} {links[-1] if links else 0} {chain.length}"), share)
        return [Depths(*(min(round(depth * factor), len(links)) for depth in one)) for one in true_depths(chain)]

    index.depths = depths  # type: ignore[method-assign]


def misjudged_prompts(share: float, seed: int) -> Callable[[Prompt], Prompt]:
    """What a baseline sees of a prompt when it chooses: fewer blocks, or all (more than there are it cannot see)."""

    def seen(prompt: Prompt) -> Prompt:
        factor = _factor(Random(f"cached {seed} {prompt.number}"), share)
        return prompt if factor >= 1 else replace(prompt, blocks=prompt.blocks[: round(len(prompt.blocks) * factor)])

    return seen


def _factor(rng: Random, share: float) -> float:
    return rng.uniform(1 - share, 1 + share)
