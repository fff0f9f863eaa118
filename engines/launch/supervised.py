"""One replica under supervision: started, watched, and started again when it ends by itself; does I/O."""

import asyncio
import os
import time
from pathlib import Path
from typing import Final

from engines.launch.command import LaunchCommand
from engines.launch.kept import KeptProcess
from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState, ProcessView
from engines.launch.lock import locked, opened
from engines.launch.ports import taken_port
from engines.launch.rotated_log import RotatedLog
from engines.launch.rules import Rules
from engines.registry import dialect

_LOOK_S: Final = 0.05


class Supervised:
    """Its state, and the task that keeps it running. `lock` is a file that only its living process has locked."""

    def __init__(self, rules: Rules, log: RotatedLog, lock: Path) -> None:
        self.log = log
        self.spec: LaunchSpec | None = None
        """What it runs as, or ran as."""
        self._command = LaunchCommand((), ())
        self._rules = rules
        self._lock = lock
        self._turn = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._process: KeptProcess | None = None
        self._state = ProcessState.STOPPED
        self._restarts = 0
        self._reason = ""
        self._settled = asyncio.Event()
        """Whether the first start of a spec has come to something."""

    async def start(self, spec: LaunchSpec) -> None:
        """Run it as the spec says; nothing is done where it does. Raises LaunchError where that is hopeless."""
        async with self._turn:
            if self._keeping is None or self._keeping.done() or spec != self.spec:
                await self._begin(spec)

    async def restart(self, spec: LaunchSpec) -> None:
        """End what runs, then run it as the spec says. Raises LaunchError where that is hopeless."""
        async with self._turn:
            await self._begin(spec)

    async def stop(self) -> None:
        """End it and leave it so."""
        async with self._turn:
            await self._end()

    def view(self) -> ProcessView:
        """How it stands."""
        pid = None if self._process is None else self._process.pid
        return ProcessView(self._state, self._command.words, pid, self._restarts, self._reason)

    async def _begin(self, spec: LaunchSpec) -> None:
        try:
            command = dialect(spec.dialect).launch_command(spec)
        except ValueError as error:
            raise LaunchError(str(error)) from error
        await self._end()
        self.spec, self._command = spec, command
        self._state, self._restarts, self._reason = ProcessState.STARTING, 0, ""
        self._settled.clear()
        self._keeping = asyncio.create_task(self._keep(spec, command))
        self._keeping.add_done_callback(self._kept)
        await self._settled.wait()
        if self._state is ProcessState.FAILED:
            raise LaunchError(self._reason)

    def _kept(self, keeping: asyncio.Task[None]) -> None:
        """It is kept no more: stopped, given up, or by a fault of our own."""
        if not keeping.cancelled() and (error := keeping.exception()) is not None:
            self._state, self._reason = ProcessState.FAILED, f"it could not be supervised: {error!r}"
        self._settled.set()

    async def _end(self) -> None:
        if self._keeping is not None:
            self._keeping.cancel()
            await asyncio.wait([self._keeping])
            self._keeping = None
        self._state = ProcessState.STOPPED

    async def _keep(self, spec: LaunchSpec, command: LaunchCommand) -> None:
        """Life after life, until it ends too often in a row."""
        failures = 0
        while True:
            self._state = ProcessState.STARTING
            began = time.monotonic()
            try:
                self._reason = await self._live(spec, command)
            except LaunchError as error:  # no second try makes a program that is not there
                self._reason = str(error)
                failures = self._rules.tries
            else:
                steady = time.monotonic() - began >= self._rules.steady_s
                failures = 1 if steady else failures + 1
            self._write(self._reason)
            if failures >= self._rules.tries:
                self._state = ProcessState.FAILED
                self._settled.set()
                return
            self._state = ProcessState.BACKOFF
            self._settled.set()
            await asyncio.sleep(self._rules.pause_s(failures))
            self._restarts += 1

    async def _live(self, spec: LaunchSpec, command: LaunchCommand) -> str:
        """One process, from its start to its end; how that came about, as a sentence."""
        lock = await self._locked()
        try:
            if (taken := await asyncio.to_thread(taken_port, spec)) is not None:
                return taken
            self._write(command.shell())
            self.log.forget()
            process = await KeptProcess.spawn(command, spec.directory, self._rules.stop_s, lock, self.log.write)
        finally:
            os.close(lock)  # the keeper has it now
        self._process, self._state = process, ProcessState.RUNNING
        self._settled.set()
        try:
            ending = await process.ended()
        finally:
            await process.end()
            self._process = None
        words = self.log.last_words()
        return f"it {ending}" + (f"; its last words: {words}" if words else "")

    async def _locked(self) -> int:
        """The lock, once the process of an earlier supervisor, if there is one, has ended."""
        lock = opened(self._lock)
        try:
            while not locked(lock):  # noqa: ASYNC110 - a lock has no event
                await asyncio.sleep(_LOOK_S)
        except BaseException:
            os.close(lock)
            raise
        return lock

    def _write(self, sentence: str) -> None:
        """A line of our own in its log."""
        self.log.write(f"prefixgate {time.strftime('%Y-%m-%dT%H:%M:%S%z')}: {sentence}\n".encode())
