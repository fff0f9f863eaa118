"""The launcher of replicas on this host: it asks their supervisor, a process of its own; does I/O."""

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from engines.launch.launcher import LaunchError, LaunchSpec, ProcessView
from engines.launch.messages import (
    ANSWERS,
    LIMIT,
    Answer,
    Ask,
    Begin,
    Restart,
    Shutdown,
    Start,
    Stop,
    Tail,
    Views,
    line_of,
)
from engines.launch.supervisor import socket_in

_PATIENCE_S: Final = 30.0
"""For an answer, beyond what ending a process may take."""


class NoSupervisorError(LaunchError):
    """Nobody listens there."""


class LocalLauncher:
    """`pool` is for messages, `stop_s` what a process has to end. It opens a connection for each ask."""

    can_restart = True

    def __init__(self, pool: str, run_dir: Path, stop_s: float) -> None:
        self._pool = pool
        self._socket = socket_in(run_dir)
        self._patience_s = stop_s + _PATIENCE_S

    async def start(self, spec: LaunchSpec) -> None:
        """Start it, or start it again where it runs otherwise than the spec says."""
        await self._ask(Start(spec))

    async def restart(self, spec: LaunchSpec) -> None:
        """End its process group and start it as the spec says."""
        await self._ask(Restart(spec))

    async def begin(self, name: str) -> None:
        """Start it with the settings that were last applied, also when it was stopped."""
        await self._ask(Begin(name))

    async def stop(self, name: str) -> None:
        """End it and leave it so, also when the supervisor is started again."""
        await self._ask(Stop(name))

    async def view(self, name: str) -> ProcessView:
        """How its process stands."""
        views = await self.views()
        if name not in views:
            raise LaunchError(f"the supervisor of pool `{self._pool}` knows no replica `{name}`: start it again")
        return views[name]

    async def views(self) -> dict[str, ProcessView]:
        """How all processes stand, by replica."""
        return (await self._ask(Views())).views

    async def tail(self, name: str, lines: int) -> list[str]:
        """The last lines that it printed."""
        return (await self._ask(Tail(name, lines))).lines

    async def supervisor(self) -> int:
        """The supervisor's process id."""
        return (await self._ask(Views())).pid

    async def shutdown(self) -> int:
        """End all replicas and the supervisor; returns its process id before it has ended."""
        return (await self._ask(Shutdown())).pid

    async def close(self) -> None:
        """Nothing is held."""

    async def _ask(self, ask: Ask) -> Answer:
        try:
            async with asyncio.timeout(self._patience_s):
                reader, writer = await asyncio.open_unix_connection(self._socket, limit=LIMIT)
                try:
                    writer.write(line_of(ask))  # not drained: one that ends has answered and left by then
                    line = await reader.readline()
                finally:
                    writer.close()
            if not line:
                raise ConnectionResetError
            answer = ANSWERS.decode(line)
        except (FileNotFoundError, NotADirectoryError, ConnectionError) as error:  # or one that is ending
            raise NoSupervisorError(
                f"pool `{self._pool}` has no supervisor (none answers at {self._socket}): "
                f"start it with `prefixgate engine launch --pool {self._pool} --config FILE`"
            ) from error
        except TimeoutError as error:
            raise LaunchError(f"the supervisor of pool `{self._pool}` does not answer") from error
        except (OSError, msgspec.MsgspecError) as error:
            raise LaunchError(f"the supervisor of pool `{self._pool}` cannot be asked: {error}") from error
        if answer.refusal:
            raise LaunchError(answer.refusal)
        return answer
