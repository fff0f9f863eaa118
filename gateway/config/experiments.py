"""`[[experiments]]`: traffic split between arms, and by what terms they are judged; pure."""

import math
from collections.abc import Sequence
from typing import Final

import msgspec

from gateway.config.pools import NAME, PoolConfig
from gateway.config.section import ConfigError, Section, one_of, require
from gateway.experiments.terms import DEFAULT_TERMS, Guardrails
from gateway.routing.experiments.definition import DEFAULT_FAMILY_TOKENS, Arm, Eligible, Experiment
from gateway.routing.policies import POLICIES

UNITS: Final = ("prefix-family", "session", "tenant", "request")
METRICS: Final = (
    *("ttft_mean", "ttft_p50", "ttft_p90", "ttft_p99", "itl_mean", "itl_p50", "request_p50"),
    *("hit_rate", "error_rate", "failover_rate", "refusal_rate"),
)
"""Those of `gateway.experiments.metrics` that may be the primary one: known without importing numpy."""
HALVES_CACHES: Final = (
    'unit = "request" sends the requests of one prompt family to all arms, so each has to compute and keep what one '
    "had cached before: hit rates fall in all of them, and what is measured is not what one arm alone would give"
)
_HEADER: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-_")


class ArmConfig(Section, frozen=True):
    """One arm: its weight, and what its requests get: pools, replicas (names or URLs), a policy, or those replicas
    that run a chunk of this size.
    """

    weight: float = 1.0
    pools: list[str] = msgspec.field(default_factory=list)
    replicas: list[str] = msgspec.field(default_factory=list)
    policy: str | None = None
    chunk_tokens: int | None = None


class EligibleConfig(Section, frozen=True):
    """`[experiments.eligible]`: who takes part; all that is given must hold. Prompt lengths in tokens, inclusive."""

    models: list[str] = msgspec.field(default_factory=list)
    tenants: list[str] = msgspec.field(default_factory=list)
    header: str | None = None
    header_value: str | None = None
    min_prompt_tokens: int = 0
    max_prompt_tokens: int | None = None


class GuardrailsConfig(Section, frozen=True):
    """`[experiments.guardrails]`: what stops an arm (see `Guardrails`), looked at every `every_s` seconds.

    Every `probe_every_s` seconds (None: never) all arms are asked the quality probe's questions; one that has fewer
    right than the control, beyond chance and by more than `probe_max_drop` (a share of them), is stopped.
    """

    error_rate: float = Guardrails().error_rate
    ttft_regression: float = Guardrails().ttft_regression
    minimum_units: int = Guardrails().minimum_units
    every_s: float = 30.0
    probe_every_s: float | None = None
    probe_max_drop: float = 0.05


class ExperimentConfig(Section, frozen=True):
    """`[[experiments]]`. An arm that is only a weight is the pool of its name.

    `traffic` is the share of the eligible units, reached over `ramp_s`; what is observed in the first `warm_up_s` does
    not count. `control` is the arm that others are compared with, None for the first. `family_tokens`: requests with so
    many first tokens in common are one prefix family. `start` "manual": it waits for the admin API.
    """

    name: str
    arms: dict[str, float | ArmConfig]
    unit: str = DEFAULT_TERMS.unit
    control: str | None = None
    traffic: float = 1.0
    ramp_s: float = 0.0
    warm_up_s: float = 60.0
    family_tokens: int = DEFAULT_FAMILY_TOKENS
    eligible: EligibleConfig = EligibleConfig()
    metric: str = DEFAULT_TERMS.metric
    tie_percent: float = DEFAULT_TERMS.tie_percent
    guardrails: GuardrailsConfig | None = None
    start: str = "auto"

    @property
    def table(self) -> dict[str, ArmConfig]:
        """The arms, each as a table, in order."""
        return {
            name: arm if isinstance(arm, ArmConfig) else ArmConfig(weight=arm, pools=[name])
            for name, arm in self.arms.items()
        }

    @property
    def against(self) -> str:
        """The name of the control."""
        return self.control or next(iter(self.arms))

    def running(self, began_at: float, stopped: Sequence[str] = ()) -> Experiment:
        """As the router wants it; `began_at` on its clock."""
        eligible = self.eligible
        return Experiment(
            name=self.name,
            unit=self.unit,
            arms=tuple(_arm(name, arm, name in stopped) for name, arm in self.table.items()),
            control=self.against,
            traffic=self.traffic,
            ramp_s=self.ramp_s,
            began_at=began_at,
            family_tokens=self.family_tokens,
            eligible=Eligible(
                frozenset(eligible.models),
                frozenset(eligible.tenants),
                None if eligible.header is None else eligible.header.lower(),
                eligible.header_value,
                eligible.min_prompt_tokens,
                eligible.max_prompt_tokens,
            ),
        )

    def asks_alike(self, other: "ExperimentConfig") -> bool:
        """Whether what was observed of one may be counted with what is of the other: only how much takes part, and how
        it is judged, may differ.
        """
        same = {"traffic", "ramp_s", "warm_up_s", "metric", "tie_percent", "guardrails", "start"}
        names = [name for name in self.__struct_fields__ if name not in same]
        return all(getattr(self, name) == getattr(other, name) for name in names)


def _arm(name: str, arm: ArmConfig, stopped: bool) -> Arm:
    pools, replicas = frozenset(arm.pools), frozenset(url.rstrip("/") for url in arm.replicas)
    return Arm(name, arm.weight, pools, replicas, arm.policy, arm.chunk_tokens, stopped)


def check_experiments(experiments: Sequence[ExperimentConfig], pools: Sequence[PoolConfig]) -> None:
    """What types cannot say. Raises ConfigError."""
    names: set[str] = set()
    for experiment in experiments:
        require(experiment.name not in names, f"experiment `{experiment.name}`: there are two of that name")
        names.add(experiment.name)
        check_experiment(experiment, pools)


def check_experiment(experiment: ExperimentConfig, pools: Sequence[PoolConfig]) -> None:
    """What types cannot say of one. Raises ConfigError."""
    where = f"experiment `{experiment.name}`"
    require(bool(NAME.fullmatch(experiment.name)), f"{where}: a name is letters, digits, `.`, `_` and `-`")
    one_of(f"{where}: unit", experiment.unit, list(UNITS))
    one_of(f"{where}: metric", experiment.metric, list(METRICS))
    one_of(f"{where}: start", experiment.start, ["auto", "manual"])
    require(bool(experiment.arms), f"{where}: it has no arms")
    for name, arm in experiment.table.items():
        _check_arm(where, name, arm, pools, plain=not isinstance(experiment.arms[name], ArmConfig))
    weight = sum(arm.weight for arm in experiment.table.values())
    require(weight > 0, f"{where}: one of its arms must have a weight above 0")
    one_of(f"{where}: control", experiment.against, list(experiment.arms))
    require(0 <= experiment.traffic <= 1, f"{where}: traffic must be between 0 and 1")
    for name in ("ramp_s", "warm_up_s"):
        seconds = getattr(experiment, name)
        require(0 <= seconds <= 30 * 86400, f"{where}: {name} must be between 0 and 2592000 (30 days)")
    require(1 <= experiment.family_tokens <= 1_000_000, f"{where}: family_tokens must be between 1 and 1000000")
    require(0 < experiment.tie_percent < 100, f"{where}: tie_percent must be between 0 and 100")
    _check_eligible(where, experiment.eligible)
    if experiment.guardrails is not None:
        _check_guardrails(where, experiment.guardrails)
        probed = experiment.guardrails.probe_every_s is not None
        apart = all(arm.pools or arm.replicas for arm in experiment.table.values())
        require(apart or not probed, f"{where}: guardrails.probe_every_s needs arms that are pools or replicas")


def _check_arm(where: str, name: str, arm: ArmConfig, pools: Sequence[PoolConfig], *, plain: bool) -> None:
    require(bool(NAME.fullmatch(name)), f"{where}: the name of an arm is letters, digits, `.`, `_` and `-`")
    known = [pool.name for pool in pools]
    if plain:
        one_of(f"{where}: arm", name, known)
    heavy = math.isfinite(arm.weight) and arm.weight >= 0
    require(heavy, f"{where}: the weight of `{name}` must not be negative")
    kept_apart = {pool.name for pool in pools if pool.pinned_only}
    for pool in arm.pools:
        one_of(f"{where}: arm `{name}`: pool", pool, known)
        require(
            pool not in kept_apart, f"{where}: arm `{name}`: the pool `{pool}` is pinned_only, so nobody gets there"
        )
    if arm.policy is not None:
        one_of(f"{where}: arm `{name}`: policy", arm.policy, list(POLICIES))
    chunk = arm.chunk_tokens is None or arm.chunk_tokens > 0
    require(chunk, f"{where}: arm `{name}`: chunk_tokens must be above 0")


def _check_eligible(where: str, eligible: EligibleConfig) -> None:
    if eligible.header is None:
        require(eligible.header_value is None, f"{where}: eligible.header_value needs eligible.header")
    else:
        good = bool(eligible.header) and set(eligible.header.lower()) <= _HEADER
        require(good, f"{where}: eligible.header must be the name of a header")
    require(eligible.min_prompt_tokens >= 0, f"{where}: eligible.min_prompt_tokens must not be negative")
    most = eligible.max_prompt_tokens
    ordered = most is None or most >= max(eligible.min_prompt_tokens, 1)
    require(ordered, f"{where}: eligible.max_prompt_tokens must not be below min_prompt_tokens")


def _check_guardrails(where: str, rails: GuardrailsConfig) -> None:
    require(0 < rails.error_rate <= 1, f"{where}: guardrails.error_rate must be above 0 and at most 1")
    require(rails.ttft_regression > 0, f"{where}: guardrails.ttft_regression must be above 0")
    require(rails.minimum_units >= 1, f"{where}: guardrails.minimum_units must be at least 1")
    require(1 <= rails.every_s <= 86400, f"{where}: guardrails.every_s must be between 1 and 86400")
    often = rails.probe_every_s is None or 1 <= rails.probe_every_s <= 30 * 86400
    require(often, f"{where}: guardrails.probe_every_s must be between 1 and 2592000 (30 days)")
    require(0 <= rails.probe_max_drop < 1, f"{where}: guardrails.probe_max_drop must be at least 0 and below 1")


def experiment_notices(experiments: Sequence[ExperimentConfig]) -> list[str]:
    """What an operator should know: sentences."""
    return [f"experiment `{one.name}`: {HALVES_CACHES}" for one in experiments if one.unit == "request"]


def read_experiment(body: bytes, pools: Sequence[PoolConfig]) -> ExperimentConfig:
    """One from JSON, checked like the file's. Raises ConfigError."""
    try:
        experiment = msgspec.json.decode(body, type=ExperimentConfig)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(error).replace("`$.", "`")) from error
    check_experiment(experiment, pools)
    return experiment
