"""Who starts and restarts the replicas of which pool, for changes of their settings; does I/O through launchers."""

from collections.abc import Awaitable, Callable
from typing import Protocol

import msgspec

from engines.launch.launcher import Launcher, LaunchError, LaunchSpec
from engines.reports import PrefillSettings
from gateway.config import ConfigError, PoolConfig
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.launching import launcher_of, spec_of


class Launching(Protocol):
    """The launchers of all pools."""

    def launcher(self, pool: str) -> Launcher | None:
        """The pool's; None of a pool that is not there."""

    def spec(self, replica: str, settings: PrefillSettings) -> LaunchSpec:
        """How this replica is started with these settings. Raises LaunchError where nobody knows."""

    async def close(self) -> None:
        """Let go of what launchers hold."""


class ConfiguredLaunching:
    """As `[pools.launch]` says now."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._made: dict[bytes, Launcher] = {}

    def launcher(self, pool: str) -> Launcher | None:
        """The pool's; None of a pool that is not there."""
        config = self._config(pool)
        if config is None:
            return None
        key = msgspec.json.encode((config.name, config.replicas, config.launch))
        launcher = self._made.get(key)
        if launcher is None:
            launcher = self._made[key] = launcher_of(config)
        return launcher

    def spec(self, replica: str, settings: PrefillSettings) -> LaunchSpec:
        """How this replica is started with these settings. Raises LaunchError where nobody knows."""
        backend = self._gateway.backends.get(replica)
        config = None if backend is None else self._config(backend.pool)
        if backend is None or config is None:
            raise LaunchError(f"there is no replica `{replica}` any more")
        wishing = msgspec.structs.replace(config, prefill=config.prefill.wishing(settings))
        try:
            return spec_of(wishing, backend.name, backend.url)
        except ConfigError as error:
            raise LaunchError(str(error)) from error

    async def close(self) -> None:
        """Let go of what launchers hold."""
        for launcher in self._made.values():
            await launcher.close()

    def _config(self, pool: str) -> PoolConfig | None:
        return next((one for one in self._gateway.config.pools if one.name == pool), None)


def commands_of(launching: Launching) -> Callable[[Backend], Awaitable[tuple[str, ...]]]:
    """Tells the command line that a replica's process runs as; () where that is not known."""

    async def command_of(backend: Backend) -> tuple[str, ...]:
        launcher = launching.launcher(backend.pool)
        if launcher is None:
            return ()
        try:
            return (await launcher.view(backend.name)).command
        except LaunchError:
            return ()

    return command_of
