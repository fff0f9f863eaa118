"""`[pools.prefill]`: the wished chunked-prefill settings, and how a pool is brought to them; pure."""

from dataclasses import fields
from typing import Final

import msgspec

from engines.reports import PrefillSettings
from gateway.config.section import Section, require

SETTINGS: Final = tuple(field.name for field in fields(PrefillSettings))
LEAST_CHUNK: Final = 16
MOST_CHUNK: Final = 1 << 20


class PrefillConfig(Section, frozen=True):
    """`[pools.prefill]`: the wish, in its first four keys; the others are about changing it while the gateway runs.

    While a replica is restarted, `min_up` others of its model stay usable. Its requests have `drain_s` to end, it has
    `start_s` to come up; then its real traffic is compared with that from before, for `compare_s` at most (0: not at
    all), and the change is taken back where prefill is slower by more than `tolerance` beyond chance.

    With `auto`, the chunk follows the advice between `auto_min` and `auto_max`, once that has held for `auto_hold_s`,
    and at most `auto_per_day` times in 24 hours.
    """

    chunk_tokens: int | None = None
    long_prefill_threshold: int | None = None
    max_prefill_tokens: int | None = None
    mixed_chunk: bool | None = None
    min_up: int = 1
    drain_s: float = 120.0
    start_s: float = 900.0
    compare_s: float = 120.0
    tolerance: float = 0.1
    auto: bool = False
    auto_min: int = 4096
    auto_max: int = 16_384
    auto_hold_s: float = 1800.0
    auto_per_day: int = 2

    def settings(self) -> PrefillSettings:
        """The wish in the dialects' words."""
        return PrefillSettings(*(getattr(self, name) for name in SETTINGS))

    def wishing(self, settings: PrefillSettings) -> "PrefillConfig":
        """The same with another wish."""
        return msgspec.structs.replace(self, **{name: getattr(settings, name) for name in SETTINGS})


def check_prefill(where: str, prefill: PrefillConfig) -> None:
    """What types cannot say. Raises ConfigError."""
    for name in SETTINGS:
        value = getattr(prefill, name)
        require(value is None or value > 0 or value is False, f"{where}: prefill.{name} must be above 0")
    require(prefill.min_up >= 0, f"{where}: prefill.min_up must be 0 or more")
    for name in ("drain_s", "compare_s"):
        require(getattr(prefill, name) >= 0, f"{where}: prefill.{name} must be 0 or more")
    require(prefill.start_s > 0, f"{where}: prefill.start_s must be above 0")
    require(0 < prefill.tolerance < 10, f"{where}: prefill.tolerance must be between 0 and 10 (0.1: ten per cent)")
    bounds = LEAST_CHUNK <= prefill.auto_min <= prefill.auto_max <= MOST_CHUNK
    require(bounds, f"{where}: prefill.auto_min and auto_max must be in order, from {LEAST_CHUNK} to {MOST_CHUNK}")
    require(prefill.auto_hold_s >= 0, f"{where}: prefill.auto_hold_s must be 0 or more")
    require(prefill.auto_per_day >= 1, f"{where}: prefill.auto_per_day must be at least 1")
