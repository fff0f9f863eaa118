"""`[[pools]]`: the engines, their replicas and how each pool is read and tuned; pure."""

import math
import re
from typing import Final
from urllib.parse import urlsplit

import msgspec

from engines.registry import DIALECTS
from engines.reports import PrefillSettings
from gateway.config.discovery import DiscoveryConfig, check_discovery
from gateway.config.launch import LaunchConfig, check_launch
from gateway.config.section import Section, one_of, require
from gateway.routing.replica import PoolSpec, ReplicaSpec

TOKENIZER: Final = "tokenizer:"
MOST_WARM_FAMILIES: Final = 1000
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLAIN_URL: Final = re.compile(r"[!\"$->A-~]+")  # printable ASCII, no query, fragment or credentials


class PrefillConfig(Section, frozen=True):
    """`[pools.prefill]`: the wished chunked-prefill settings."""

    chunk_tokens: int | None = None
    long_prefill_threshold: int | None = None
    max_prefill_tokens: int | None = None
    mixed_chunk: bool | None = None

    def settings(self) -> PrefillSettings:
        """In the dialects' words."""
        return PrefillSettings(
            self.chunk_tokens, self.long_prefill_threshold, self.max_prefill_tokens, self.mixed_chunk
        )


class EventsConfig(Section, frozen=True):
    """`[pools.events]`: where the replicas publish KV-cache events.

    `mode` "auto" takes the ports given here, on the replica's own host, and without them what each replica says of
    itself; "off" listens to none. Data-parallel ranks use `ranks` consecutive ports from each.
    """

    mode: str = "auto"
    port: int | None = None
    replay_port: int | None = None
    topic: str = ""
    ranks: int = 1


class PoolConfig(Section, frozen=True):
    """`[[pools]]`: replicas with one engine, model and settings, listed here or discovered.

    `usd_per_gpu_hour` is what a GPU costs, for the cost of an experiment's arms.

    `model` None takes the names that the replicas report. `api_key_env` names the environment variable
    whose value the engines want as their bearer token. `tokens` says how prompts become token ids: "none" (the
    prefix chain is of text), "tokenizer:PATH" (a folder with tokenizer.json and chat template, or that file), or
    "engine" (the replicas' own /tokenize). `warm_families` of the prefix families in most use are prefilled at a
    replica that has started again, and elsewhere before one is drained. With `pinned_only` the pool gets copies of
    shadows, and requests that name it, but nothing else. For https:// replicas: PEM files of the authority that signed
    their certificates and of the certificate that we show them, and whether theirs is looked at.
    """

    name: str
    engine: str
    replicas: list[str] = msgspec.field(default_factory=list)
    model: str | None = None
    gpus_per_replica: int = 1
    usd_per_gpu_hour: float | None = None
    prefill: PrefillConfig = PrefillConfig()
    api_key_env: str | None = None
    tokens: str = "none"
    events: EventsConfig = EventsConfig()
    discovery: DiscoveryConfig | None = None
    launch: LaunchConfig = LaunchConfig()
    warm_families: int = 0
    pinned_only: bool = False
    tls_ca: str | None = None
    tls_client_cert: str | None = None
    tls_client_key: str | None = None
    tls_verify: bool = True

    @property
    def encoding(self) -> str:
        """The name of the token ids that this pool's prompts become; "" where prefix chains are of text.

        Pools with the same tokenizer share it; engines' own renderings differ, so each pool has its own there.
        """
        if self.tokens == "none":
            return ""
        return f"engine:{self.name}" if self.tokens == "engine" else self.tokens

    def spec(self) -> PoolSpec:
        """As the router wants it; replicas are named after the pool and numbered from 0."""
        replicas = tuple(
            ReplicaSpec(f"{self.name}-{number}", url.rstrip("/")) for number, url in enumerate(self.replicas)
        )
        return PoolSpec(self.name, self.model, replicas, self.prefill.settings(), self.encoding, self.pinned_only)


def check_pools(pools: list[PoolConfig]) -> None:
    """What types cannot say. Raises ConfigError."""
    require(bool(pools), "there must be at least one [[pools]]")
    names: set[str] = set()
    urls: set[str] = set()
    for pool in pools:
        where = f"pool `{pool.name}`"
        require(bool(NAME.fullmatch(pool.name)), f"{where}: a name is letters, digits, `.`, `_` and `-`")
        require(pool.name not in names, f"{where}: there are two of that name")
        names.add(pool.name)
        one_of(f"{where}: engine", pool.engine, list(DIALECTS))
        listed = bool(pool.replicas) or pool.discovery is not None
        require(listed, f"{where}: replicas must list at least one URL, unless there is a [pools.discovery]")
        if pool.discovery is not None:
            check_discovery(where, pool.discovery)
        warm = 0 <= pool.warm_families <= MOST_WARM_FAMILIES
        require(warm, f"{where}: warm_families must be between 0 (none) and {MOST_WARM_FAMILIES}")
        require(pool.gpus_per_replica >= 1, f"{where}: gpus_per_replica must be at least 1")
        price = pool.usd_per_gpu_hour
        priced = price is None or (math.isfinite(price) and price >= 0)
        require(priced, f"{where}: usd_per_gpu_hour must not be negative")
        for setting in pool.prefill.__struct_fields__:
            value = getattr(pool.prefill, setting)
            require(value is None or value > 0 or value is False, f"{where}: prefill.{setting} must be above 0")
        check_launch(where, pool.launch, len(pool.replicas))
        _check_tokens(where, pool)
        _check_tls(where, pool)
        for url in pool.replicas:
            check_url(where, url)
            require(url.rstrip("/") not in urls, f"{where}: {url} is listed twice")
            urls.add(url.rstrip("/"))


def _check_tokens(where: str, pool: PoolConfig) -> None:
    path = pool.tokens.removeprefix(TOKENIZER)
    known = pool.tokens in ("none", "engine") or (path != pool.tokens and bool(path))
    require(known, f'{where}: tokens must be "none", "engine" or "tokenizer:PATH", not "{pool.tokens}"')
    events = pool.events
    one_of(f"{where}: events.mode", events.mode, ["auto", "off"])
    require(1 <= events.ranks <= 1024, f"{where}: events.ranks must be between 1 and 1024")
    for name in ("port", "replay_port"):
        port = getattr(events, name)
        last = port is None or 0 < port <= 65536 - events.ranks
        require(last, f"{where}: events.{name} must leave room for {events.ranks} ports up to 65535")


def _check_tls(where: str, pool: PoolConfig) -> None:
    paired = (pool.tls_client_cert is None) == (pool.tls_client_key is None)
    require(paired, f"{where}: tls_client_cert and tls_client_key go together")
    require(pool.tls_verify or pool.tls_ca is None, f"{where}: with tls_verify = false nobody looks at tls_ca")
    wished = not pool.tls_verify or (pool.tls_ca, pool.tls_client_cert) != (None, None)
    plain = bool(pool.replicas) and not any(url.startswith("https://") for url in pool.replicas)
    require(not (wished and plain), f"{where}: tls_… settings are for https:// replicas, and it has none")


def pool_notices(pools: list[PoolConfig]) -> list[str]:
    """What an operator should know: sentences."""
    return [
        f"pool `{pool.name}`: certificates of its replicas are not looked at (tls_verify = false)"
        for pool in pools
        if not pool.tls_verify
    ]


def check_url(where: str, url: str) -> None:
    """Raises ConfigError unless a replica could be there."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    plain = _PLAIN_URL.fullmatch(url) is not None
    require(good and plain, f"{where}: {url!r} is not an http(s)://host:port URL")
