"""What is shown of prefixes: where the hottest families live, what breaks prefixes; of one process or several; pure."""

from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.routing.decision import Decision
from gateway.routing.router import Router
from gateway.serving.prefixes.sampler import Finding, Sampler, ranked

SHOWN: Final = 50


class Home(msgspec.Struct, frozen=True):
    """What a replica is believed to hold of a family's latest prompt, in tokens."""

    replica: str
    cached_tokens: int


class FamilyHomes(msgspec.Struct, frozen=True):
    """A prefix family, by the name that the snapshot has for it, and where it lives."""

    name: str
    prompt_tokens: int
    homes: tuple[Home, ...]


class PrefixView(msgspec.Struct, frozen=True):
    """`GET /api/prefixes`. `sampled` of the `seen` requests were looked at."""

    seen: int
    sampled: int
    families: tuple[FamilyHomes, ...]
    findings: tuple[Finding, ...]


def prefix_view(sampler: Sampler, router: Router, now: float) -> PrefixView:
    """This process's."""
    homes = []
    for family in router.largest_families(SHOWN):
        asked = None if family is None else sampler.latest.get(family)
        told = None if asked is None else router.preview(asked, now)
        if isinstance(told, Decision):
            rows = tuple(Home(one.replica, one.cached_tokens) for one in told.candidates if one.cached_tokens)
            homes.append(FamilyHomes(f"{family:016x}", told.chosen.prompt_tokens, rows))
    return PrefixView(sampler.seen, sampler.sampled, tuple(homes), sampler.findings()[:SHOWN])


def merged_views(views: Sequence[PrefixView]) -> PrefixView:
    """Of several processes together; the first one's word counts for where a family lives."""
    homes = {family.name: family for view in reversed(views) for family in view.families}
    return PrefixView(
        sum(view.seen for view in views),
        sum(view.sampled for view in views),
        tuple(homes.values()),
        ranked([finding for view in views for finding in view.findings])[:SHOWN],
    )
