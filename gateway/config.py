"""The configuration: one TOML file, checked whole before anything uses it; reads that file, otherwise pure."""

import difflib
import math
import re
import tomllib
from pathlib import Path
from typing import Any, Final, get_args, get_type_hints
from urllib.parse import urlsplit

import msgspec

from engines.registry import DIALECTS
from engines.reports import PrefillSettings
from gateway.routing.chain import DEFAULT_BLOCK_BYTES
from gateway.routing.fleet import PoolSpec, ReplicaSpec
from gateway.routing.holding import DEFAULT_HOLD_MS
from gateway.routing.policies import POLICIES

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLAIN_URL: Final = re.compile(r"[!\"$->A-~]+")  # printable ASCII, no query, fragment or credentials
TOKENIZER: Final = "tokenizer:"
LEAST_JOURNAL_BYTES: Final = 64 * 1024
MOST_WORKERS: Final = 256
UNITS: Final = ("prefix-family", "session", "tenant", "request")


class ConfigError(Exception):
    """The configuration cannot be used; the message names the place and what to do."""


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A table of the file."""


class ServerConfig(_Section, frozen=True):
    """`[server]`: where clients and operators connect.

    `admin_port` (dashboard, admin API, /metrics) is `port` + 1 unless given; it may equal `port`. `workers` are
    processes that share the ports.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    admin_port: int | None = None
    max_body_bytes: int = 16 * 1024 * 1024
    workers: int = 1

    @property
    def admin(self) -> int:
        """The admin port in use (0, any free port, stays 0)."""
        if self.admin_port is not None:
            return self.admin_port
        return self.port + 1 if self.port else 0


class RoutingConfig(_Section, frozen=True):
    """`[routing]`: the policy, the blocks of the prefix chain, how many replicas to try, when to hold."""

    policy: str = "ttft"
    block_bytes: int = DEFAULT_BLOCK_BYTES
    max_attempts: int = 3
    hold_ms: float = DEFAULT_HOLD_MS
    """Prefill queued at a request's best replica above which it is held; 0: never."""


class TimeoutsConfig(_Section, frozen=True):
    """`[timeouts]`: seconds for a connection to an engine, its first byte, and between its bytes; then for clients.

    A client has `client_head_s` for the head of a request and `client_body_s` for all of its body, or to take what it
    is sent once it is behind; a connection without a request stays open for `client_idle_s`.
    """

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 300.0
    client_head_s: float = 15.0
    client_body_s: float = 120.0
    client_idle_s: float = 75.0


class PollingConfig(_Section, frozen=True):
    """`[polling]`: seconds between looks at a replica, and how long one look may take."""

    interval_s: float = 1.0
    timeout_s: float = 3.0


class PrefillConfig(_Section, frozen=True):
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


class EventsConfig(_Section, frozen=True):
    """`[pools.events]`: where the replicas publish KV-cache events.

    `mode` "auto" takes the ports given here, on the replica's own host, and without them what each replica says of
    itself; "off" listens to none. Data-parallel ranks use `ranks` consecutive ports from each.
    """

    mode: str = "auto"
    port: int | None = None
    replay_port: int | None = None
    topic: str = ""
    ranks: int = 1


class PoolConfig(_Section, frozen=True):
    """`[[pools]]`: replicas with one engine, model and settings.

    `model` None takes the names that the replicas report. `api_key_env` names the environment variable
    whose value the engines want as their bearer token. `tokens` says how prompts become token ids: "none" (the
    prefix chain is of text), "tokenizer:PATH" (a folder with tokenizer.json and chat template, or that file), or
    "engine" (the replicas' own /tokenize).
    """

    name: str
    engine: str
    replicas: list[str]
    model: str | None = None
    gpus_per_replica: int = 1
    prefill: PrefillConfig = PrefillConfig()
    api_key_env: str | None = None
    tokens: str = "none"
    events: EventsConfig = EventsConfig()

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
        return PoolSpec(self.name, self.model, replicas, self.prefill.settings(), self.encoding)


class ExperimentConfig(_Section, frozen=True):
    """`[[experiments]]`: a split of traffic between pools; `arms` maps a pool's name to its weight."""

    name: str
    arms: dict[str, float]
    unit: str = "prefix-family"


class StateConfig(_Section, frozen=True):
    """`[state]`: the Redis over which several gateways share what they learn; None: they do not."""

    redis_url: str | None = None


class JournalConfig(_Section, frozen=True):
    """`[journal]`: the file that gets one line for each ended request; None writes none.

    `salt_env` names the environment variable that holds the secret of its hashes; without one each process draws its
    own. A file of `max_bytes` is renamed, and `keep` old ones stay.
    """

    path: str | None = None
    salt_env: str | None = None
    max_bytes: int = 256 * 1024 * 1024
    keep: int = 3


class Config(_Section, frozen=True):
    """The whole file."""

    pools: list[PoolConfig]
    server: ServerConfig = ServerConfig()
    routing: RoutingConfig = RoutingConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    polling: PollingConfig = PollingConfig()
    experiments: list[ExperimentConfig] = []
    state: StateConfig = StateConfig()
    journal: JournalConfig = JournalConfig()

    def notices(self) -> list[str]:
        """What the file asks for that this version does not do yet."""
        notices = []
        if self.experiments:
            notices.append("[[experiments]] are read but not run by this version: traffic is not split")
        return notices


def load(path: Path) -> Config:
    """Read and check a file. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return parse(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse(text: str) -> Config:
    """Check a TOML text. Raises ConfigError."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not valid TOML: {error}") from error
    return build(data)


def build(data: dict[str, Any]) -> Config:
    """Check the tables of a file. Raises ConfigError."""
    _refuse_unknown(data, Config, "")
    try:
        config = msgspec.convert(data, Config)
    except msgspec.ValidationError as error:
        raise ConfigError(str(error).replace("`$.", "`").replace("Object missing required", "missing")) from error
    _check(config)
    return config


def nearest(word: str, valid: list[str]) -> str:
    """ "; did you mean `x`?" for the nearest valid word, else the list of all."""
    close = difflib.get_close_matches(word, valid, n=1, cutoff=0.5)
    return f"; did you mean `{close[0]}`?" if close else f"; valid: {', '.join(sorted(valid))}"


def _refuse_unknown(data: Any, section: type[_Section], where: str) -> None:
    """Name the first unknown key and the nearest valid one, section by section."""
    if not isinstance(data, dict):
        return
    hints = get_type_hints(section)
    for key, value in data.items():
        if key not in section.__struct_fields__:
            place = f"in [{where}]" if where else "at the top level"
            raise ConfigError(f"unknown key `{key}` {place}{nearest(key, list(section.__struct_fields__))}")
        for inner in (hints[key], *get_args(hints[key])):
            if isinstance(inner, type) and issubclass(inner, _Section):
                for item in value if isinstance(value, list) else [value]:
                    _refuse_unknown(item, inner, f"{where}.{key}" if where else key)


def _check(config: Config) -> None:
    """What types cannot say."""
    server, routing = config.server, config.routing
    _one_of("[routing] policy", routing.policy, list(POLICIES))
    for name, port in (("port", server.port), ("admin_port", server.admin)):
        _require(0 <= port <= 65535, f"[server] {name} must be between 0 and 65535, not {port}")
    _require(1 <= server.workers <= MOST_WORKERS, f"[server] workers must be between 1 and {MOST_WORKERS}")
    _require(server.max_body_bytes > 0, "[server] max_body_bytes must be above 0")
    _require(16 <= routing.block_bytes <= 65536, "[routing] block_bytes must be between 16 and 65536")
    _require(0 <= routing.hold_ms <= 60_000, "[routing] hold_ms must be between 0 (hold nothing) and 60000")
    _require(routing.max_attempts >= 1, "[routing] max_attempts must be at least 1")
    for table, limits in (("timeouts", config.timeouts), ("polling", config.polling)):
        for name in limits.__struct_fields__:
            _require(0 < getattr(limits, name) < math.inf, f"[{table}] {name} must be above 0 and finite")
    _check_journal(config.journal)
    _check_redis(config.state.redis_url)
    _require(bool(config.pools), "there must be at least one [[pools]]")
    _check_pools(config.pools)
    for experiment in config.experiments:
        where = f"experiment `{experiment.name}`"
        _one_of(f"{where}: unit", experiment.unit, list(UNITS))
        for arm, weight in experiment.arms.items():
            _one_of(f"{where}: arm", arm, [pool.name for pool in config.pools])
            _require(weight >= 0, f"{where}: the weight of `{arm}` must not be negative")


def _check_journal(journal: JournalConfig) -> None:
    _require(journal.path is not None or journal == JournalConfig(), "[journal] needs a path")
    for name in ("path", "salt_env"):
        _require(getattr(journal, name) != "", f"[journal] {name} must not be empty")
    _require(journal.max_bytes >= LEAST_JOURNAL_BYTES, f"[journal] max_bytes must be at least {LEAST_JOURNAL_BYTES}")
    _require(0 <= journal.keep <= 1000, "[journal] keep must be between 0 and 1000")


def _check_redis(url: str | None) -> None:
    if url is not None:
        scheme, _, rest = url.partition("://")
        _require(scheme in ("redis", "rediss", "unix") and bool(rest), "[state] redis_url must be redis://HOST:PORT")


def _check_pools(pools: list[PoolConfig]) -> None:
    names: set[str] = set()
    urls: set[str] = set()
    for pool in pools:
        where = f"pool `{pool.name}`"
        _require(bool(_NAME.fullmatch(pool.name)), f"{where}: a name is letters, digits, `.`, `_` and `-`")
        _require(pool.name not in names, f"{where}: there are two of that name")
        names.add(pool.name)
        _one_of(f"{where}: engine", pool.engine, list(DIALECTS))
        _require(bool(pool.replicas), f"{where}: replicas must list at least one URL")
        _require(pool.gpus_per_replica >= 1, f"{where}: gpus_per_replica must be at least 1")
        for setting in pool.prefill.__struct_fields__:
            value = getattr(pool.prefill, setting)
            _require(value is None or value > 0 or value is False, f"{where}: prefill.{setting} must be above 0")
        _check_tokens(where, pool)
        for url in pool.replicas:
            _check_url(where, url)
            _require(url.rstrip("/") not in urls, f"{where}: {url} is listed twice")
            urls.add(url.rstrip("/"))


def _check_tokens(where: str, pool: PoolConfig) -> None:
    path = pool.tokens.removeprefix(TOKENIZER)
    known = pool.tokens in ("none", "engine") or (path != pool.tokens and bool(path))
    _require(known, f'{where}: tokens must be "none", "engine" or "tokenizer:PATH", not "{pool.tokens}"')
    events = pool.events
    _one_of(f"{where}: events.mode", events.mode, ["auto", "off"])
    _require(1 <= events.ranks <= 1024, f"{where}: events.ranks must be between 1 and 1024")
    for name in ("port", "replay_port"):
        port = getattr(events, name)
        last = port is None or 0 < port <= 65536 - events.ranks
        _require(last, f"{where}: events.{name} must leave room for {events.ranks} ports up to 65535")


def _check_url(where: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    plain = _PLAIN_URL.fullmatch(url) is not None
    _require(good and plain, f"{where}: {url!r} is not an http(s)://host:port URL")


def _one_of(what: str, word: str, valid: list[str]) -> None:
    _require(word in valid, f"{what} `{word}` is not known{nearest(word, valid)}")


def _require(good: bool, message: str) -> None:
    if not good:
        raise ConfigError(message)
