"""What may be said of an experiment: figures, comparisons and verdicts, as they go out in JSON; pure data.

None stands wherever there are not enough observations to say a number.
"""

from typing import Literal

import msgspec

Measure = Literal["seconds", "share", "tokens/s/GPU", "USD/1M tokens"]
Scale = Literal["relative", "points"]
Verdict = Literal["better", "worse", "tie", "unclear"]


class Interval(msgspec.Struct, frozen=True):
    """From `low` to `high`; None where it is open."""

    low: float | None
    high: float | None


class Figure(msgspec.Struct, frozen=True):
    """A metric of one arm with its confidence interval, which holds for one look, not for many.

    `requests` and `units` are those that had a value. `effective_units` are fewer than the units where few units hold
    most of the requests.
    """

    metric: str
    measure: Measure
    value: float | None
    low: float | None
    high: float | None
    requests: int
    units: int
    effective_units: float


class ArmReport(msgspec.Struct, frozen=True):
    """An arm: what came to it, and its figures. `crossed` requests were answered outside of it."""

    name: str
    weight: float
    units: int
    requests: int
    crossed: int
    failed: int
    refused: int
    figures: tuple[Figure, ...]


class Comparison(msgspec.Struct, frozen=True):
    """An arm against the control in one metric, with an interval that is valid however often one looks.

    `change` and its interval are relative (0.1: 10 % more than the control) or in points of a share (0.1: ten
    percentage points more), as `scale` says. `needed_units`: about how many further units, of both arms together, make
    the verdict clear at the present effect and variance; 0 where it is clear, None where that cannot be said.
    """

    metric: str
    scale: Scale
    arm: str
    against: str
    change: float | None
    low: float | None
    high: float | None
    verdict: Verdict
    needed_units: int | None
    sentence: str


class SampleRatio(msgspec.Struct, frozen=True):
    """Whether the units fell to the arms as the weights say, in the order of the report's arms.

    `p` of the chi-square test is None where there are too few units; `ok` is False only where the check failed.
    """

    expected: tuple[float, ...]
    seen: tuple[int, ...]
    p: float | None
    ok: bool
    sentence: str


class StratumArm(msgspec.Struct, frozen=True):
    """An arm's requests in a stratum."""

    name: str
    requests: int
    ttft_p50_s: float | None


class Stratum(msgspec.Struct, frozen=True):
    """Requests with alike prompts of which alike parts were cached: low bounds inclusive, high ones exclusive.

    `share` is that of all arms' requests. An open end is None.
    """

    prompt_tokens: Interval
    cached_fraction: Interval
    share: float
    arms: tuple[StratumArm, ...]


class Separation(msgspec.Struct, frozen=True):
    """The change of TTFT p50 of an arm, taken apart; every change is relative.

    `whole` is what clients saw. `equal` is the change between requests of equal prompt length and equal cached
    fraction, with an always-valid interval. `through_hit_rate` came with a different hit rate and `through_prompts`
    with a different mix of prompts, which is chance. (1 + whole) is the product of the three. `covered` is the share of
    requests in strata where both arms have enough.
    """

    arm: str
    against: str
    whole: float | None
    equal: float | None
    low: float | None
    high: float | None
    through_hit_rate: float | None
    through_prompts: float | None
    covered: float
    sentence: str


class Power(msgspec.Struct, frozen=True):
    """With so many units in each arm a true difference of this size is found with this probability, at least."""

    arm: str
    units_per_arm: int
    difference: float
    probability: float
    sentence: str


class Breach(msgspec.Struct, frozen=True):
    """A guardrail that an arm broke: it is to be stopped, and why. Numbers are changes against the control."""

    arm: str
    metric: str
    change: float
    low: float
    limit: float
    sentence: str


class Report(msgspec.Struct, frozen=True):
    """All that is said of an experiment. `sentence` is the verdict in words."""

    name: str
    unit: str
    metric: str
    alpha: float
    confidence: float
    running_s: float
    arms: tuple[ArmReport, ...]
    comparisons: tuple[Comparison, ...]
    sample_ratio: SampleRatio
    strata: tuple[Stratum, ...]
    separations: tuple[Separation, ...]
    power: tuple[Power, ...]
    breaches: tuple[Breach, ...]
    warnings: tuple[str, ...]
    sentence: str

    @property
    def verdicts(self) -> tuple[Comparison, ...]:
        """The comparisons in the primary metric."""
        return tuple(one for one in self.comparisons if one.metric == self.metric)
