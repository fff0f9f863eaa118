"""The file: its tables together, read and checked whole before anything uses them; reads it, otherwise pure."""

import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from gateway.config.experiments import ExperimentConfig, check_experiments, experiment_notices
from gateway.config.health import HealthConfig, check_health
from gateway.config.launch_specs import check_launches
from gateway.config.log import LogConfig, check_log
from gateway.config.pools import PoolConfig, check_pools, pool_notices
from gateway.config.queue import QueueConfig, check_queue
from gateway.config.retry import RetryConfig, check_retry
from gateway.config.routing import PollingConfig, RoutingConfig, check_routing
from gateway.config.section import ConfigError, Section, nearest
from gateway.config.server import ServerConfig, TimeoutsConfig, check_seconds, check_server, server_notices
from gateway.config.shadows import ShadowConfig, check_shadows, shadow_notices
from gateway.config.storage import JournalConfig, StateConfig, check_journal, check_state
from gateway.config.tenants import AuthConfig, TenantConfig, check_tenants, tenant_notices
from gateway.config.tracing import TracingConfig, check_tracing


class Config(Section, frozen=True):
    """The whole file."""

    pools: list[PoolConfig]
    server: ServerConfig = ServerConfig()
    routing: RoutingConfig = RoutingConfig()
    queue: QueueConfig = QueueConfig()
    timeouts: TimeoutsConfig = TimeoutsConfig()
    retry: RetryConfig = RetryConfig()
    polling: PollingConfig = PollingConfig()
    health: HealthConfig = HealthConfig()
    experiments: list[ExperimentConfig] = msgspec.field(default_factory=list)
    shadows: list[ShadowConfig] = msgspec.field(default_factory=list)
    state: StateConfig = StateConfig()
    journal: JournalConfig = JournalConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()
    auth: AuthConfig = AuthConfig()
    tenants: list[TenantConfig] = msgspec.field(default_factory=list)

    def notices(self) -> list[str]:
        """What the file asks for that this version does not do yet, and what is less safe than it might be."""
        notices = server_notices(self.server) + tenant_notices(self.auth, self.tenants) + pool_notices(self.pools)
        apart = [pool.name for pool in self.pools if pool.pinned_only]
        shadows = shadow_notices(self.shadows, apart, keeps_streams=self.retry.continue_streams)
        return notices + experiment_notices(self.experiments) + shadows


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


def _refuse_unknown(data: Any, section: type[Section], where: str) -> None:
    """Name the first unknown key and the nearest valid one, section by section."""
    if not isinstance(data, dict):
        return
    hints = get_type_hints(section)
    fields = dict(zip(section.__struct_encode_fields__, section.__struct_fields__, strict=True))
    for key, value in data.items():
        if key not in fields:
            place = f"in [{where}]" if where else "at the top level"
            raise ConfigError(f"unknown key `{key}` {place}{nearest(key, list(fields))}")
        place = f"{where}.{key}" if where else key
        hint = hints[fields[key]]
        for inner in _parts(hint):
            if isinstance(inner, type) and issubclass(inner, Section):
                for item in _tables(value, hint):
                    _refuse_unknown(item, inner, place)


def _parts(hint: Any) -> Iterator[Any]:
    """A type and all that it is made of."""
    yield hint
    for inner in get_args(hint):
        yield from _parts(inner)


def _tables(value: Any, hint: Any) -> Iterable[Any]:
    """The tables of that type which a value holds: itself, a list's items, or what names of the file's stand for."""
    if isinstance(value, list):
        return value
    if isinstance(value, dict) and get_origin(hint) is dict:
        return value.values()
    return [value]


def _check(config: Config) -> None:
    """What types cannot say."""
    check_server(config.server)
    check_routing(config.routing)
    check_retry(config.retry)
    check_queue(config.queue)
    check_seconds("timeouts", config.timeouts)
    check_seconds("polling", config.polling)
    check_health(config.health)
    check_journal(config.journal)
    check_log(config.log)
    check_tracing(config.tracing)
    check_state(config.state)
    check_pools(config.pools)
    check_launches(config.pools)
    check_tenants(config.auth, config.tenants, [pool.name for pool in config.pools])
    check_experiments(config.experiments, config.pools)
    check_shadows(config.shadows, [pool.name for pool in config.pools], [one.name for one in config.tenants])
