"""The terms of a trial: its definition, with what the fleet says of its arms' GPUs and their price; pure."""

from collections.abc import Iterable, Sequence
from typing import Protocol, TypeVar

from gateway.config.experiments import ArmConfig
from gateway.config.pools import PoolConfig
from gateway.experiments.terms import DEFAULT_TERMS, ArmTerms, Guardrails, Terms
from gateway.serving.experiments.trial import Trial
from gateway.serving.membership.member import Member


def terms_of(trial: Trial, pools: Sequence[PoolConfig], members: Sequence[Member]) -> Terms:
    """By what it is judged with these replicas; how long it has run is for whoever judges it to say."""
    definition = trial.definition
    named = {pool.name: pool for pool in pools}
    replicas = {name: replicas_of(arm, members) for name, arm in definition.table.items()}
    rails = definition.guardrails
    return Terms(
        arms=tuple(
            _arm(name, arm, replicas[name], named, apart=_is_apart(name, arm, replicas))
            for name, arm in definition.table.items()
        ),
        control=definition.against,
        metric=definition.metric,
        tie_percent=definition.tie_percent,
        unit=definition.unit,  # type: ignore[arg-type]  # one of UNITS, as was checked
        guardrails=DEFAULT_TERMS.guardrails
        if rails is None
        else Guardrails(rails.error_rate, rails.ttft_regression, rails.minimum_units),
    )


class Named(Protocol):
    """A replica, as far as arms name it."""

    @property
    def name(self) -> str:
        """Unique in the fleet."""

    @property
    def pool(self) -> str:
        """Its pool's name."""

    @property
    def url(self) -> str:
        """Where it is."""


Replica = TypeVar("Replica", bound=Named)


def replicas_of(arm: ArmConfig, members: Iterable[Replica]) -> list[Replica]:
    """Those that the arm names."""
    urls = [url.rstrip("/") for url in arm.replicas]
    return [
        one
        for one in members
        if (not arm.pools or one.pool in arm.pools) and (not urls or one.name in urls or one.url in urls)
    ]


def _is_apart(name: str, arm: ArmConfig, replicas: dict[str, list[Member]]) -> bool:
    """Whether the arm's replicas are known, and no other arm's."""
    own = {one.name for one in replicas[name]}
    others = {one.name for other, those in replicas.items() if other != name for one in those}
    return bool(own) and not own & others and arm.chunk_tokens is None


def _arm(
    name: str, arm: ArmConfig, replicas: Sequence[Member], pools: dict[str, PoolConfig], *, apart: bool
) -> ArmTerms:
    if not apart:
        return ArmTerms(name, arm.weight)
    gpus = [pools[one.pool].gpus_per_replica for one in replicas]
    prices = [pools[one.pool].usd_per_gpu_hour for one in replicas]
    paid = [price * count for price, count in zip(prices, gpus, strict=True) if price is not None]
    price = sum(paid) / sum(gpus) if len(paid) == len(gpus) else None
    return ArmTerms(name, arm.weight, float(sum(gpus)), price)
