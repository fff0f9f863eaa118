"""The terms that an experiment is judged by: arms, metric, error rates, what counts as a tie; pure."""

from typing import Final, Literal

import msgspec

UnitKind = Literal["prefix-family", "session", "tenant", "request"]
"""What is assigned to an arm as a whole."""


class ArmTerms(msgspec.Struct, frozen=True):
    """An arm as the experiment declared it.

    `weight` is its share of the units, in any scale. `gpus` is None where arms share replicas, and the price None where
    nobody said it: then there are no figures of throughput or cost.
    """

    name: str
    weight: float = 1.0
    gpus: float | None = None
    usd_per_gpu_hour: float | None = None


class Guardrails(msgspec.Struct, frozen=True):
    """What stops an arm: being surely worse than the control by more than this.

    `error_rate` is an increase in share of requests (0.02: two points), `ttft_regression` relative (0.25: 25 % slower
    at the median). Nothing is stopped before the arm has had `minimum_units` units.
    """

    error_rate: float = 0.02
    ttft_regression: float = 0.25
    minimum_units: int = 20


class Terms(msgspec.Struct, frozen=True):
    """What an experiment's observations are judged by.

    `control` is the arm that others are compared with, None for the first. `metric` is the primary one, a name of
    `metrics.METRICS`. `alpha`: how often, at most, an experiment of equal arms may ever call one of them better or
    worse, looked at as often as one likes. A relative change within `tie_percent`, or a change of a share within
    `tie_points` percentage points, counts as a tie. `confidence` is that of each arm's own figures. `running_s` is how
    long the observations took; 0 takes it from the last of them.
    """

    arms: tuple[ArmTerms, ...]
    control: str | None = None
    metric: str = "ttft_p50"
    alpha: float = 0.05
    tie_percent: float = 5.0
    tie_points: float = 1.0
    confidence: float = 0.95
    unit: UnitKind = "prefix-family"
    running_s: float = 0.0
    guardrails: Guardrails = Guardrails()

    @property
    def against(self) -> str:
        """The name of the control arm; empty without arms."""
        return self.control or next((arm.name for arm in self.arms), "")


DEFAULT_TERMS: Final = Terms(())
"""Where others find the defaults, so that none is written twice."""
