"""The gateway's process: two ports, one event loop, polling, and an orderly end; does I/O."""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import uvicorn

from gateway.config import Config, ConfigSource
from gateway.serving import admin, listening, main_app
from gateway.serving.admin_guard import configured_guard
from gateway.serving.discovery.finder import Discovery
from gateway.serving.experiments.guarding import Guarding
from gateway.serving.experiments.place import kept_in, trials_in
from gateway.serving.experiments.probing import Probing
from gateway.serving.framework import framework
from gateway.serving.front.connection import LINGER_S, ClientConnection
from gateway.serving.gateway import Gateway
from gateway.serving.history.history import open_history
from gateway.serving.history.recorder import Recorder
from gateway.serving.journal import open_journal
from gateway.serving.main_port import FrameworkPort, MainPort
from gateway.serving.membership.membership import Membership
from gateway.serving.membership.plan import Command, Plan, first_plan
from gateway.serving.membership.reload import Reloading
from gateway.serving.polling import Poller
from gateway.serving.prefill.auto import Auto
from gateway.serving.prefill.changes import Changes
from gateway.serving.prefill.launching import ConfiguredLaunching, Launching, commands_of
from gateway.serving.prefill.tools import Tools
from gateway.serving.shadowing.mirroring import Mirroring
from gateway.serving.sharing.channel import Channel
from gateway.serving.sharing.configured import configured_channel
from gateway.serving.tls import server_context
from gateway.serving.warming.warmer import Warmer
from gateway.serving.workers.siblings import Siblings

_log: Final = logging.getLogger("prefixgate")

BACKLOG: int = 4096
"""Connections that may wait to be taken."""


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us, since two share the process.

    `shares_port`: another gateway may listen beside it, which new connections are then left to.
    """

    shares_port = False

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what is being answered; those who are left then are told why there is no (or no more) answer."""
        if self.shares_port and listening.turn_away(sockets or []):
            await asyncio.sleep(listening.HANDSHAKE_S)
        await super().shutdown(sockets)
        connections = self.server_state.connections
        for connection in list(connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while connections:  # noqa: ASYNC110 - uvicorn's set of them has no event
                    await asyncio.sleep(0.005)


class RunningGateway:
    """A gateway that listens; `url` and `admin_url` say where."""

    def __init__(
        self,
        gateway: Gateway,
        servers: list[_Server],
        ports: Sequence[FrameworkPort],
        membership: Membership,
        reloading: Reloading,
        warmer: Warmer,
        probing: Probing,
    ) -> None:
        self.gateway = gateway
        self.membership = membership
        self.reloading = reloading
        self.warmer = warmer
        self.probing = probing
        self.url = ""
        self.admin_url = ""
        self._servers = servers
        self._ports = ports
        self._tasks: set[asyncio.Task[None]] = set()

    def stop(self) -> None:
        """Say that it ends, take new connections for `drain_notice_s` more, let requests in flight end, then close."""
        if self.gateway.closing:
            return
        self.gateway.closing = True
        for port in self._ports:
            port.leaving = True
        notice_s = self.gateway.config.server.drain_notice_s
        if notice_s:
            asyncio.get_running_loop().call_later(notice_s, self._exit)
        else:
            self._exit()

    def _exit(self) -> None:
        for server in self._servers:
            server.config.timeout_graceful_shutdown = self.gateway.config.server.drain_s  # type: ignore[assignment]
            server.should_exit = True

    def follow(self, command: Command) -> None:
        """Do what all workers are told to; one command after the other."""
        self._begin(self.membership.follow(command))

    def reload(self) -> None:
        """Read the configuration again, and log what came of it."""
        self._begin(self.reloading.reload_and_log())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a change of the fleet failed inside the gateway", exc_info=error)


@contextlib.asynccontextmanager
async def running(
    config: Config,
    *,
    seed: int | None = None,
    sockets: Sequence[socket.socket] = (),
    siblings: Siblings | None = None,
    channel: Channel | None = None,
    plan: Plan | None = None,
    source: ConfigSource | None = None,
    launching: Launching | None = None,
    store: Path | None = None,
) -> AsyncIterator[RunningGateway]:
    """Start a gateway on the configured ports (0: any free one); it ends with the block.

    One of several workers is given its `sockets`, as `listening.open_ports` makes them, its `siblings`, the `channel`
    that it shares over, the `plan` that all of them follow, and the `store` of their experiments. `source` is read
    again when that is asked for; `launching` takes the place of the configured launchers. Raises ConfigError where the
    journal or the store cannot be kept or the Redis URL makes no sense, OSError where a port is taken.
    """
    with contextlib.ExitStack() as stack:
        store = store or stack.enter_context(kept_in(config))
        plan = plan or first_plan(config, trials_in(store), time.time())
        async with _running(config, seed, sockets, siblings, channel, plan, source, store, launching) as run:
            yield run


@contextlib.asynccontextmanager
async def _running(
    config: Config,
    seed: int | None,
    sockets: Sequence[socket.socket],
    siblings: Siblings | None,
    channel: Channel | None,
    plan: Plan,
    source: ConfigSource | None,
    store: Path,
    launching: Launching | None,
) -> AsyncIterator[RunningGateway]:
    channel = channel or configured_channel(config)
    gateway = Gateway(config, seed=seed, journal=open_journal(config), siblings=siblings, plan=plan, store=store)
    tls = server_context(config.server)
    guard = configured_guard(config.server)
    sockets = sockets or listening.open_ports(config.server)
    gateway.history = history = open_history(store.parent)
    if len(sockets) == 1:
        app = framework(gateway, main_app.routes, admin.routes)
        ports: list[FrameworkPort] = [MainPort(gateway, app, guard, has_admin=True)]
    else:
        ports = [
            MainPort(gateway, framework(gateway, main_app.routes)),
            FrameworkPort(gateway, framework(gateway, admin.routes), guard),
        ]
    servers = [_server(port, tls) for port in ports]
    launching = launching or ConfiguredLaunching(gateway)
    gateway.command_of = commands_of(launching)
    poller = Poller(gateway)
    membership = Membership(gateway, poller, plan, ports)
    reloading = Reloading(gateway, membership, source)
    warmer, mirroring = Warmer(gateway), Mirroring(gateway)
    changes = Changes(Tools(gateway, membership, poller, warmer, launching))
    auto = Auto(gateway, changes)
    for server, port in zip(servers, ports, strict=True):
        server.shares_port = config.server.reuse_port
        state = port.app.state
        state.membership, state.reloading, state.warmer, state.history = membership, reloading, warmer, history
        state.changes = changes
    discovery = Discovery(gateway, membership)
    guarding, probing = Guarding(gateway, membership), Probing(gateway, membership)
    await poller.start()
    await gateway.share_over(channel)
    discovery.configure(config)
    auto.start()
    recorder = Recorder(gateway, history)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener])) for server, listener in zip(servers, sockets, strict=True)
    ]
    run = RunningGateway(gateway, servers, ports, membership, reloading, warmer, probing)
    run.url, run.admin_url = [listening.url(config.server, one) for one in (sockets[0], sockets[-1])]
    try:
        while not all(server.started for server in servers):  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0.005)
        recorder.start()
        yield run
    finally:
        run.stop()
        await asyncio.gather(*tasks)
        await recorder.close()
        await discovery.close()
        await auto.close()
        await changes.close()
        await launching.close()
        await guarding.close()
        await probing.close()
        await mirroring.close()
        await warmer.close()
        await membership.close()
        await poller.stop()
        await gateway.close()


async def serve_until_signalled(
    config: Config, announce: Callable[[RunningGateway], None], source: ConfigSource | None = None
) -> None:
    """Run until SIGINT or SIGTERM; `announce` is called once it listens.

    SIGHUP reads the `source` again; where there is none, it ends the process as it always does.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    if source is not None:
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # what it asks for is about to be done
    async with running(config, source=source) as run:
        if source is not None:
            loop.add_signal_handler(signal.SIGHUP, run.reload)
        announce(run)
        await stop.wait()


def _server(port: FrameworkPort, tls: ssl.SSLContext | None) -> _Server:
    config = uvicorn.Config(
        port.app,
        http=partial(ClientConnection, port),  # type: ignore[arg-type]  # whatever makes a protocol will do
        ws="none",
        loop="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
    )
    config.load()
    config.ssl = tls  # uvicorn's own would be made of its defaults
    return _Server(config)
