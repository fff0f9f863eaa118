"""Keeps the local replicas of one pool running, and does what it is told over a Unix socket; does I/O."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import msgspec

from engines.launch.launcher import LaunchError, LaunchSpec
from engines.launch.lock import locked, opened
from engines.launch.messages import (
    ASKS,
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
from engines.launch.rotated_log import RotatedLog
from engines.launch.rules import Rules
from engines.launch.state import Memory, Remembered
from engines.launch.supervised import Supervised


def socket_in(run_dir: Path) -> Path:
    """Where a supervisor listens."""
    return run_dir / "supervisor.sock"


class Supervisor:
    """`declared` are the replicas as the configuration has them; no others are known here."""

    def __init__(self, declared: Sequence[LaunchSpec], run_dir: Path, log_dir: Path, rules: Rules) -> None:
        self._declared = {spec.name: spec for spec in declared}
        self._run_dir = run_dir
        self._memory = Memory(run_dir)
        self._replicas = {
            name: Supervised(
                rules,
                RotatedLog(log_dir / f"{name}.log", max_bytes=rules.log_bytes, keep=rules.log_keep),
                run_dir / f"{name}.lock",
            )
            for name in self._declared
        }
        self._asking: set[asyncio.Task[None]] = set()
        self.over = asyncio.Event()
        """Set when it is to end."""

    async def resume(self, name: str) -> None:
        """Start a replica with the settings that were last applied, unless it was stopped. Raises LaunchError."""
        remembered = self._memory.recall(self._declared[name])
        if not remembered.stopped:
            await self._replicas[name].start(remembered.applied)

    async def begin(self, name: str) -> None:
        """The same, also when it was stopped. Raises LaunchError."""
        replica = self._replica(name)
        applied = self._memory.recall(self._declared[name]).applied
        self._remember(applied)
        await replica.start(applied)

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Listen; when the block ends, so do all replicas. Raises LaunchError where another one has this folder."""
        with _owned(self._run_dir):
            path = socket_in(self._run_dir)
            path.unlink(missing_ok=True)
            try:
                server = await asyncio.start_unix_server(self._attend, path, limit=LIMIT)
            except OSError as error:
                raise LaunchError(f"{path} cannot be listened on: {error.strerror or error}") from error
            path.chmod(0o600)
            try:
                yield
            finally:
                self.over.set()
                await asyncio.gather(*(replica.stop() for replica in self._replicas.values()))
                path.unlink(missing_ok=True)
                server.close()
                for task in self._asking:
                    task.cancel()
                await asyncio.gather(*self._asking, return_exceptions=True)

    async def _attend(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One ask, one answer; who looks on is answered to the end."""
        task = asyncio.current_task()
        if task is not None:
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)
        with contextlib.suppress(ConnectionError, asyncio.CancelledError), contextlib.closing(writer):
            line = await reader.readline()
            try:
                answer = await self._answer(ASKS.decode(line))
            except LaunchError as error:
                answer = Answer(os.getpid(), str(error))
            except msgspec.MsgspecError as error:
                answer = Answer(os.getpid(), f"that was not understood: {error}")
            writer.write(line_of(answer))
            await writer.drain()

    async def _answer(self, ask: Ask) -> Answer:
        if self.over.is_set() and isinstance(ask, Start | Restart | Begin):
            raise LaunchError("the supervisor is ending")
        match ask:
            case Start(spec):
                self._remember(spec)
                await self._replica(spec.name).start(spec)
            case Restart(spec):
                self._remember(spec)
                await self._replica(spec.name).restart(spec)
            case Begin(name):
                await self.begin(name)
            case Stop(name):
                replica = self._replica(name)
                declared = self._declared[name]
                self._keep(Remembered(declared, replica.spec or declared, stopped=True))
                await replica.stop()
            case Tail(name, count):
                return Answer(os.getpid(), lines=self._replica(name).log.tail(count))
            case Shutdown():
                self.over.set()
            case Views():
                pass
        return Answer(os.getpid(), views={name: replica.view() for name, replica in self._replicas.items()})

    def _remember(self, spec: LaunchSpec) -> None:
        self._replica(spec.name)
        self._keep(Remembered(self._declared[spec.name], spec))

    def _keep(self, remembered: Remembered) -> None:
        try:
            self._memory.keep(remembered)
        except OSError as error:
            raise LaunchError(f"{self._run_dir} cannot be written: {error.strerror or error}") from error

    def _replica(self, name: str) -> Supervised:
        if name not in self._replicas:
            raise LaunchError(f"no replica `{name}` is supervised here; there are: {', '.join(self._replicas)}")
        return self._replicas[name]


@contextlib.contextmanager
def _owned(run_dir: Path) -> Iterator[None]:
    """Nobody else has the folder meanwhile."""
    lock = opened(run_dir / "supervisor.lock")
    try:
        if not locked(lock):
            raise LaunchError(f"another supervisor has {run_dir}: give this one another run_dir")
        yield
    finally:
        os.close(lock)
