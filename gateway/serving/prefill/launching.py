"""What a change asks of whoever launches replicas; does I/O through them."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from engines.launch.launcher import Launcher, LaunchError, LaunchSpec
from engines.reports import PrefillSettings
from gateway.serving.gateway import Backend


class Launching(Protocol):
    """The launchers of all pools that have one."""

    def launcher(self, pool: str) -> Launcher | None:
        """The pool's; None where its replicas are started by somebody else."""

    def spec(self, replica: str, settings: PrefillSettings) -> LaunchSpec:
        """How this replica is started with these settings. Raises LaunchError where nobody knows."""


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
