"""The launcher of replicas that somebody else runs: it can only say what to do; pure."""

from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState, ProcessView
from engines.registry import dialect


class ExternalLauncher:
    """Observes only."""

    can_restart = False

    async def start(self, spec: LaunchSpec) -> None:
        """Say the command."""
        raise LaunchError(_told("start", spec))

    async def restart(self, spec: LaunchSpec) -> None:
        """Say the command."""
        raise LaunchError(_told("restart", spec))

    async def stop(self, name: str) -> None:
        """Say that somebody else must."""
        raise LaunchError(f"{name} is not run by prefixgate: stop it where it runs, or give its pool a [pools.launch]")

    async def view(self, name: str) -> ProcessView:  # noqa: ARG002 - the interface
        """Nothing is known of it."""
        return ProcessView(ProcessState.UNKNOWN)

    async def close(self) -> None:
        """Nothing is held."""


def _told(verb: str, spec: LaunchSpec) -> str:
    command = dialect(spec.dialect).launch_command(spec).shell()
    return f"{spec.name} is not run by prefixgate: {verb} it where it runs, as: {command}"
