"""Where the configuration came from, so that it can be read again: a file, and what the command line overrides."""

from pathlib import Path
from typing import Any

import msgspec

from gateway.config.file import Config, build, load


class ConfigSource(msgspec.Struct, frozen=True):
    """A file, with the [server] keys and the policy that the command line named instead."""

    path: str
    server: dict[str, Any] = {}
    policy: str | None = None

    def load(self) -> Config:
        """Read it (again). Raises ConfigError."""
        return overridden(load(Path(self.path)), self.server, self.policy)


def overridden(config: Config, server: dict[str, Any], policy: str | None) -> Config:
    """The configuration with these [server] keys and this policy instead. Raises ConfigError."""
    if not server and policy is None:
        return config
    data = msgspec.to_builtins(config)
    if "port" in server and config.server.admin_port is not None and "admin_port" not in server:
        server = {"admin_port": config.server.admin_port, **server}
    data["server"].update(server)
    if policy is not None:
        data["routing"]["policy"] = policy
    return build(data)
