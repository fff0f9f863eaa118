"""The parent of several workers: opens the ports, starts a process for each, and another where one ends; does I/O."""

import asyncio
import logging
import signal
import socket
import sys
import time
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Final

from gateway.config import Config, ConfigSource
from gateway.serving import listening
from gateway.serving.access import cache_secret
from gateway.serving.admin_guard import configured_guard
from gateway.serving.announcement import listening_line
from gateway.serving.experiments.place import kept_in, trials_in
from gateway.serving.journal import open_journal
from gateway.serving.membership.plan import after, first_plan
from gateway.serving.membership.refusal import PlanError
from gateway.serving.sharing.hub import Hub
from gateway.serving.tls import server_context
from gateway.serving.workers.assignments import config_of, with_drawn_salts
from gateway.serving.workers.frames import (
    Answer,
    Ask,
    Assignment,
    Follow,
    Line,
    Propose,
    Ready,
    Reread,
    Settled,
    Unusable,
    line_over,
)
from gateway.serving.workers.switchboard import Switchboard

PATIENCE_S: Final = 10.0
"""For workers to end in order, beyond what they are given to drain."""
BACKOFF_S: Final = 0.1
BACKOFF_MOST_S: Final = 5.0
TRIES: Final = 4
"""Processes of one worker that may die before they serve, in a row, before anything else does."""

_log: Final = logging.getLogger("prefixgate")

Say = Callable[[Sequence[str], str], None]
"""Tell the operator: notes, then the line that says where the gateway listens."""


@dataclass(slots=True)
class _Worker:
    """One worker over the lives of its processes. `ports` are its own sockets; a dead one's connections wait there."""

    number: int
    ports: list[socket.socket]
    process: Process | None = None
    serves: bool = False
    line: Line | None = None
    """To its process, from its assignment on; None while there is none."""
    failures: int = 0
    """Processes in a row that died before they served."""


class Supervisor:
    """Runs `config.server.workers` workers until it is told to stop.

    Raises ConfigError where the journal or the store cannot be kept, or a secret or certificate is missing, OSError
    where a port is taken.
    """

    def __init__(self, config: Config, say: Say, source: ConfigSource | None = None) -> None:
        for number in range(config.server.workers):
            open_journal(config_of(config, number))  # nothing is written yet: could it be?
        cache_secret(config)
        configured_guard(config.server)
        server_context(config.server)
        self._notices = tuple(config.notices())
        config, self._environment = with_drawn_salts(config)
        self._source = source
        self._server = config.server
        self._say = say
        self._started_at = time.time()
        self._workers = _workers_on(config)
        self._kept = ExitStack()
        self._store = self._kept.enter_context(kept_in(config))
        self._plan = first_plan(config, trials_in(self._store), time.time())
        self._switchboard = Switchboard(config.server.workers)
        self._hub = None if config.state.redis_url else Hub()
        self._said: tuple[str, ...] | None = None
        self._stopping = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        """Until SIGINT or SIGTERM, or until there is no hope; what the command exits with."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stopping.set)
        if self._source is not None:
            loop.add_signal_handler(signal.SIGHUP, self._reread)
        keeping = [loop.create_task(self._keep(worker)) for worker in self._workers]
        stopping = loop.create_task(self._stopping.wait())
        await asyncio.wait([stopping, *keeping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        self._stopping.set()
        await self._drain(keeping)
        if self._hub is not None:
            await self._hub.close()
        self._kept.close()
        return self._status

    async def _drain(self, keeping: Sequence[asyncio.Task[None]]) -> None:
        """Take no more connections; workers finish what they have begun."""
        for worker in self._workers:
            _close(worker.ports)
        for process in self._running():
            process.terminate()
        server = self._plan.config.server
        patience_s = server.drain_notice_s + server.drain_s + PATIENCE_S
        await asyncio.wait(keeping, timeout=patience_s)
        for process in self._running():
            _log.warning("the worker with pid %d did not end within %g s and is killed", process.pid, patience_s)
            process.kill()
        await asyncio.gather(*keeping)

    def _running(self) -> list[Process]:
        processes = (worker.process for worker in self._workers)
        return [one for one in processes if one is not None and one.returncode is None]

    async def _keep(self, worker: _Worker) -> None:
        """One process after the other, until the end."""
        while not self._stopping.is_set():
            try:
                process, line = await self._begin(worker)
            except OSError as error:  # no memory, no processes, no files
                await self._missed(worker, f"could not be started: {error.strerror or error}")
                continue
            if self._stopping.is_set():
                process.terminate()
            await self._attend(worker, line)
            worker.line = None
            line.close()
            status = await process.wait()
            if self._stopping.is_set():
                return
            self._switchboard.left(worker.number)
            await self._missed(worker, f"(pid {process.pid}) {_ending(status)}")

    async def _begin(self, worker: _Worker) -> tuple[Process, Line]:
        worker.serves = False
        ours, theirs = socket.socketpair()
        line, ends = await line_over(ours), [theirs]
        try:
            if self._hub is not None:
                of_hub, of_worker = socket.socketpair()
                await self._hub.attach(of_hub)
                ends.append(of_worker)
            numbers = [one.fileno() for one in (*ends, *worker.ports)]
            worker.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "gateway.serving.workers.worker",
                str(numbers[0]),
                stdin=DEVNULL,
                pass_fds=numbers,
                env=self._environment,
                start_new_session=True,  # Ctrl-C in a terminal is for the parent alone, which passes it on
            )
        except OSError:
            line.close()
            raise
        finally:
            _close(ends)
        config = config_of(self._plan.config, worker.number)
        ports, sharing = tuple(numbers[len(ends) :]), numbers[1] if len(ends) > 1 else None
        plan, store = self._plan, str(self._store)
        line.send(
            Assignment(
                worker.number,
                config,
                self._started_at,
                ports,
                sharing,
                plan.members,
                plan.trials,
                store,
                self._source,
            )
        )
        worker.line = line
        self._switchboard.begun(worker.number, worker.process.pid)
        return worker.process, line

    async def _attend(self, worker: _Worker, line: Line) -> None:
        """What a worker says, until its process has ended."""
        while (message := await line.receive()) is not None:
            match message:
                case Ask() | Answer():
                    self._switchboard.heard(worker.number, message)
                case Propose():
                    self._propose(line, message)
                case Ready():
                    worker.serves, worker.failures = True, 0
                    self._switchboard.joined(worker.number, line)
                    self._announce(message.said)
                case Unusable():
                    if self._said is None:
                        self._give_up(message.sentence, message.status)
                    else:
                        _log.error("worker %d cannot start: %s", worker.number, message.sentence)
                    return  # it ends when this is heard
                case _:
                    raise RuntimeError(f"a worker said {type(message).__name__} to its parent")

    def _propose(self, line: Line, proposal: Propose) -> None:
        """Have all workers do it, also those that do not serve yet: they take one command after the other."""
        try:
            self._plan = after(self._plan, proposal.command)
        except PlanError as error:
            line.send(Settled(proposal.number, str(error)))
            return
        for worker in self._workers:
            if worker.line is not None:
                worker.line.send(Follow(proposal.command))
        line.send(Settled(proposal.number, None))

    def _reread(self) -> None:
        """One of the workers reads the file, and has the others told what it says."""
        for worker in self._workers:
            if worker.serves and worker.line is not None:
                worker.line.send(Reread())
                return
        _log.error("the configuration is not read again: no worker serves yet")

    def _announce(self, said: tuple[str, ...]) -> None:
        """Once, when all workers serve."""
        if self._said is None and all(worker.serves for worker in self._workers):
            self._said = said
            ports, policy = self._workers[0].ports, self._plan.config.routing.policy
            urls = listening.url(self._server, ports[0]), listening.url(self._server, ports[-1])
            self._say(list(dict.fromkeys((*self._notices, *said))), listening_line(*urls, policy))

    async def _missed(self, worker: _Worker, why: str) -> None:
        """Say what became of a process, and wait a little where it never served."""
        if not worker.serves:
            worker.failures += 1
        if self._said is None and worker.failures >= TRIES:
            self._give_up(f"worker {worker.number} never comes to serve: {why}", 1)
            return
        _log.warning("worker %d %s; it is started again", worker.number, why)
        if worker.failures >= TRIES:  # its connections go to the others until it serves again
            fresh = listening.open_beside(worker.ports)
            _close(worker.ports)
            worker.ports = fresh
        if worker.failures:
            pause_s = min(BACKOFF_S * 2**worker.failures, BACKOFF_MOST_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause_s)

    def _give_up(self, sentence: str, status: int) -> None:
        if not self._stopping.is_set():
            print(f"prefixgate: {sentence}", file=sys.stderr)  # noqa: T201 - where errors of the command line go
            self._status = status
            self._stopping.set()


def _workers_on(config: Config) -> list[_Worker]:
    first = listening.open_ports(config.server)
    listening.share(first)
    more = [listening.open_beside(first) for _ in range(config.server.workers - 1)]
    return [_Worker(number, ports) for number, ports in enumerate([first, *more])]


def _close(ends: Sequence[socket.socket]) -> None:
    for end in ends:
        end.close()


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
