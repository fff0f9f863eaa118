"""The simulated fleet: replicas with an engine profile, a cache and a speed, as in `vllm-w4a8:4,sglang-fp4:4`; pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import zip_longest
from typing import Final

from engines.simulated.model import EngineModel
from engines.simulated.profile import PROFILES, EngineProfile
from engines.simulated.sequences import EngineLimits
from engines.simulated.settings import DEFAULT_PROFILES, SimulatorSettings
from gateway.journal.lines import FleetPool

DEFAULT_FLEET: Final = "vllm-w4a8:4,sglang-fp4:4"
DEFAULT_KV_TOKENS: Final = 1_000_000
DEFAULT_CHUNK_TOKENS: Final = 8192
BLOCK_TOKENS: Final = 256
_ENTRY: Final = re.compile(r"(?P<profile>[\w.-]+):(?P<count>\d+)(?:@(?P<speed>\d+(?:\.\d+)?))?")


class FleetError(ValueError):
    """A fleet that cannot be; the message says what to write."""


@dataclass(frozen=True, slots=True)
class SimulatedReplica:
    """One replica: its pool, the profile at its true speed, and its limits."""

    name: str
    pool: str
    profile: EngineProfile
    limits: EngineLimits

    def prefill_s(self, tokens: int) -> float:
        """Seconds for a prompt of so many uncached tokens on an idle engine."""
        return _prefill_ms(self.profile, self.limits.chunk_tokens, tokens) / 1000

    def engine(self) -> EngineModel:
        """A new engine with an empty cache."""
        return EngineModel(self.profile, self.limits)


@lru_cache(maxsize=200_000)
def _prefill_ms(profile: EngineProfile, chunk_tokens: int, tokens: int) -> float:
    spent_ms = 0.0
    done = 0
    while done < tokens:
        chunk = min(chunk_tokens, tokens - done)
        spent_ms += profile.chunk_ms(done, chunk, 0)
        done += chunk
    return spent_ms


def parse_fleet(
    text: str, kv_tokens: int = DEFAULT_KV_TOKENS, chunk_tokens: int = DEFAULT_CHUNK_TOKENS
) -> tuple[SimulatedReplica, ...]:
    """Replicas from `PROFILE:COUNT[@SPEED],…`: each entry is a pool. Raises FleetError.

    `kv_tokens` is the cache of each replica with a chunk of 8192; a larger chunk takes some of it, as in life.
    """
    replicas: list[SimulatedReplica] = []
    pools: set[str] = set()
    for entry in text.split(","):
        match = _ENTRY.fullmatch(entry.strip())
        if match is None:
            raise FleetError(f"`{entry}` is not PROFILE:COUNT or PROFILE:COUNT@SPEED, as in `{DEFAULT_FLEET}`")
        profile, speed = match["profile"], float(match["speed"] or 1)
        if profile not in PROFILES:
            raise FleetError(f"no engine profile is called `{profile}`; there are {', '.join(PROFILES)}")
        pool = profile if profile not in pools else f"{profile}-{len(pools) + 1}"
        pools.add(pool)
        made = _replica(pool, profile, speed, kv_tokens, chunk_tokens)
        replicas += [replace(made, name=f"{pool}-{number}") for number in range(int(match["count"]))]
    if not replicas:
        raise FleetError("a fleet needs at least one replica")
    return tuple(replicas)


def recorded_fleet(
    pools: Sequence[FleetPool], kv_tokens: int | None = None, chunk_tokens: int | None = None
) -> tuple[SimulatedReplica, ...]:
    """The fleet of a journal, by its own names; `kv_tokens` and `chunk_tokens` replace what it had. Raises FleetError.

    A cache whose size the journal does not know is of `DEFAULT_KV_TOKENS`.
    """
    replicas: list[SimulatedReplica] = []
    for pool in pools:
        profile = DEFAULT_PROFILES.get(pool.engine)
        if profile is None:
            raise FleetError(f"nothing simulates the engine `{pool.engine}` of the journal's pool `{pool.pool}`")
        chunk = pool.chunk_tokens or DEFAULT_CHUNK_TOKENS
        for name, measured in zip_longest(pool.replicas, pool.kv_tokens[: len(pool.replicas)]):
            base = kv_tokens
            if base is None and measured is not None:
                base = measured + measured - PROFILES[profile].kv_capacity_tokens(chunk, measured)
            made = _replica(pool.pool, profile, 1.0, base or DEFAULT_KV_TOKENS, chunk_tokens or chunk)
            replicas.append(replace(made, name=name))
    if not replicas:
        raise FleetError("the journal's fleet has no replicas")
    return tuple(replicas)


def _replica(pool: str, profile: str, speed: float, kv_tokens: int, chunk_tokens: int) -> SimulatedReplica:
    """One that has yet to get its name."""
    try:
        settings = SimulatorSettings(
            dialect=PROFILES[profile].engine,
            profile=profile,
            speed=speed,
            kv_tokens=kv_tokens,
            chunk_tokens=chunk_tokens,
            block_tokens=BLOCK_TOKENS,
        )
    except ValueError as error:
        raise FleetError(str(error)) from error
    return SimulatedReplica("", pool, PROFILES[profile].faster(speed), settings.limits)


def largest_prompt(replicas: Sequence[SimulatedReplica]) -> int:
    """Tokens of prompt and answer together that every replica can hold."""
    return min(one.engine().max_sequence_tokens for one in replicas)
