"""An experiment as routing follows it: who takes part, and what the arms are; pure data."""

from typing import Final

import msgspec

BYTES_PER_TOKEN: Final = 4
"""Of text whose tokens nobody has counted: the same everywhere, unlike what each gateway learns."""
DEFAULT_FAMILY_TOKENS: Final = 2048
"""Longer than most system prompts that all share, and shorter than most conversations: those stay in one arm."""


class Arm(msgspec.Struct, frozen=True, gc=False):
    """What one part of the traffic gets: only these pools and replicas (names, replicas also by URL; none named: all
    of them), only replicas that run this chunk, or another policy. One that is `stopped` gives its units to the
    control.
    """

    name: str
    weight: float = 1.0
    pools: frozenset[str] = frozenset()
    replicas: frozenset[str] = frozenset()
    policy: str | None = None
    chunk_tokens: int | None = None
    stopped: bool = False


class Eligible(msgspec.Struct, frozen=True, gc=False):
    """Who may take part; what is empty or None asks for nothing. `header` is a name in lower case, `header_value` what
    it must say (None: anything). Prompt lengths are in tokens, both bounds inclusive.
    """

    models: frozenset[str] = frozenset()
    tenants: frozenset[str] = frozenset()
    header: str | None = None
    header_value: str | None = None
    min_prompt_tokens: int = 0
    max_prompt_tokens: int | None = None


class Experiment(msgspec.Struct, frozen=True):
    """A running experiment. `unit` is what goes to one arm as a whole: prefix-family, session, tenant or request.

    `traffic` is the share of the units that take part, from `began_at` (the router's clock) growing to it over
    `ramp_s`. A prefix family is what has its first `family_tokens` in common.
    """

    name: str
    unit: str
    arms: tuple[Arm, ...]
    control: str
    traffic: float = 1.0
    ramp_s: float = 0.0
    began_at: float = 0.0
    family_tokens: int = DEFAULT_FAMILY_TOKENS
    eligible: Eligible = Eligible()

    def share(self, at: float) -> float:
        """The share of the units that take part for a request that was accepted then; it never shrinks by itself."""
        if at < self.began_at:
            return 0.0
        if at >= self.began_at + self.ramp_s:
            return self.traffic
        return self.traffic * (at - self.began_at) / self.ramp_s


class Exposure(msgspec.Struct, frozen=True, gc=False):
    """That a request takes part: its arm, and the hash of its unit. `crossed`: it had to go outside of its arm."""

    experiment: str
    arm: str
    unit: int
    crossed: bool = False

    @property
    def label(self) -> str:
        """For a header or a log."""
        return f"{self.experiment}={self.arm}{';failover' if self.crossed else ''}"
