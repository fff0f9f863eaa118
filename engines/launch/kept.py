"""One engine process, run by a keeper of its own; does I/O."""

import asyncio
import contextlib
import os
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from typing import Final

from engines.launch.command import LaunchCommand
from engines.launch.launcher import LaunchError

_KEEPER: Final = str(Path(__file__).with_name("keeper.py"))
_CHUNK: Final = 1 << 16
_LAST_OUTPUT_S: Final = 1.0


class KeptProcess:
    """`pid` is the engine's own; it leads a process group."""

    def __init__(self, keeper: asyncio.subprocess.Process, pid: int, output: asyncio.Task[None]) -> None:
        self.pid = pid
        self._keeper = keeper
        self._output = output
        self._ending = asyncio.create_task(self._watch())

    @classmethod
    async def spawn(
        cls, command: LaunchCommand, directory: str, stop_s: float, lock: int, write: Callable[[bytes], None]
    ) -> "KeptProcess":
        """Start it. The keeper holds the descriptor `lock` until all of it has ended. Raises LaunchError."""
        if directory and not Path(directory).is_dir():
            raise LaunchError(f"{directory} is no folder that it could run in")
        try:
            keeper = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", _KEEPER, str(stop_s), *command.words),
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                cwd=directory or None,
                env={**os.environ, **command.env},
                pass_fds=(lock,),
                start_new_session=True,  # Ctrl-C in a terminal is for the supervisor alone
            )
        except (OSError, ValueError) as error:
            raise LaunchError(f"{command.program[0]} cannot be started: {error}") from error
        lifeline, reports, output = keeper.stdin, keeper.stdout, keeper.stderr
        if lifeline is None or reports is None or output is None:
            raise RuntimeError("a subprocess lacks the pipes that it was asked for")
        pump = asyncio.create_task(_pump(output, write))
        try:
            word, _, rest = (await reports.readline()).decode().strip().partition(" ")
            if word != "pid":
                await keeper.wait()
                await pump
                raise LaunchError(f"{command.program[0]} cannot be started: {rest or 'its keeper ended'}")
        except asyncio.CancelledError:
            lifeline.close()
            raise
        return cls(keeper, int(rest), pump)

    async def ended(self) -> str:
        """Wait for its end; how it ended, as a few words."""
        return await asyncio.shield(self._ending)

    async def end(self) -> None:
        """End its whole process group, and wait for it."""
        if self._keeper.stdin is not None:
            self._keeper.stdin.close()
        await self.ended()

    async def _watch(self) -> str:
        said = b"" if self._keeper.stdout is None else await self._keeper.stdout.readline()
        await self._keeper.wait()
        word, _, status = said.decode().strip().partition(" ")
        if word != "ended":  # somebody killed the keeper; the engine died with it, and its children do now
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
        await asyncio.wait([self._output], timeout=_LAST_OUTPUT_S)
        self._output.cancel()
        return _ending(int(status)) if word == "ended" else "lost its keeper"


async def _pump(pipe: asyncio.StreamReader, write: Callable[[bytes], None]) -> None:
    while output := await pipe.read(_CHUNK):
        write(output)


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
