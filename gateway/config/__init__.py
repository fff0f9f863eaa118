"""The configuration: one TOML file, a module for each group of its tables."""

from gateway.config.changes import Changes, changes
from gateway.config.file import Config, build, load, parse
from gateway.config.pools import TOKENIZER, EventsConfig, PoolConfig
from gateway.config.section import ConfigError, nearest
from gateway.config.server import ServerConfig, TimeoutsConfig
from gateway.config.source import ConfigSource
from gateway.config.storage import JournalConfig
from gateway.config.tenants import AuthConfig, TenantConfig

__all__ = [
    "TOKENIZER",
    "AuthConfig",
    "Changes",
    "Config",
    "ConfigError",
    "ConfigSource",
    "EventsConfig",
    "JournalConfig",
    "PoolConfig",
    "ServerConfig",
    "TenantConfig",
    "TimeoutsConfig",
    "build",
    "changes",
    "load",
    "nearest",
    "parse",
]
