"""The gateway's process: two ports, one event loop, polling, and an orderly end; does I/O."""

import asyncio
import contextlib
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from functools import partial

import uvicorn

from gateway.config import Config
from gateway.serving import admin, listening, main_app
from gateway.serving.admin_guard import configured_guard
from gateway.serving.framework import framework
from gateway.serving.front.connection import LINGER_S, ClientConnection
from gateway.serving.gateway import Gateway
from gateway.serving.journal import open_journal
from gateway.serving.main_port import FrameworkPort, MainPort
from gateway.serving.polling import Poller
from gateway.serving.sharing.channel import Channel
from gateway.serving.sharing.configured import configured_channel
from gateway.serving.tls import server_context
from gateway.serving.workers.siblings import Siblings

DRAIN_S: int = 30
BACKLOG: int = 4096
"""Connections that may wait to be taken."""


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us, since two share the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for what is being answered; those who are left then are told why there is no (or no more) answer."""
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

    def __init__(self, gateway: Gateway, servers: list[_Server], url: str, admin_url: str) -> None:
        self.gateway = gateway
        self.url = url
        self.admin_url = admin_url
        self._servers = servers

    def stop(self) -> None:
        """Take no new connections, let requests in flight end, then close."""
        self.gateway.closing = True
        for server in self._servers:
            server.should_exit = True


@contextlib.asynccontextmanager
async def running(
    config: Config,
    *,
    seed: int | None = None,
    sockets: Sequence[socket.socket] = (),
    siblings: Siblings | None = None,
    channel: Channel | None = None,
) -> AsyncIterator[RunningGateway]:
    """Start a gateway on the configured ports (0: any free one); it ends with the block.

    One of several workers is given its `sockets`, as `listening.open_ports` makes them, its `siblings`, and the
    `channel` that it shares over. Raises ConfigError where the journal cannot be kept or the Redis URL makes no sense,
    OSError where a port is taken.
    """
    channel = channel or configured_channel(config)
    gateway = Gateway(config, seed=seed, journal=open_journal(config), siblings=siblings)
    tls = server_context(config.server)
    guard = configured_guard(config.server)
    sockets = sockets or listening.open_ports(config.server)
    if len(sockets) == 1:
        app = framework(gateway, main_app.routes, admin.routes)
        ports: list[FrameworkPort] = [MainPort(gateway, app, guard, has_admin=True)]
    else:
        ports = [
            MainPort(gateway, framework(gateway, main_app.routes)),
            FrameworkPort(gateway, framework(gateway, admin.routes), guard),
        ]
    servers = [_server(port, tls) for port in ports]
    poller = Poller(gateway)
    await poller.start()
    await gateway.share_over(channel)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener])) for server, listener in zip(servers, sockets, strict=True)
    ]
    urls = [listening.url(config.server, one) for one in (sockets[0], sockets[-1])]
    run = RunningGateway(gateway, servers, *urls)
    try:
        while not all(server.started for server in servers):  # noqa: ASYNC110 - uvicorn has a flag, no event
            await asyncio.sleep(0.005)
        yield run
    finally:
        run.stop()
        await asyncio.gather(*tasks)
        await poller.stop()
        await gateway.close()


async def serve_until_signalled(config: Config, announce: Callable[[RunningGateway], None]) -> None:
    """Run until SIGINT or SIGTERM; `announce` is called once it listens."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with running(config) as run:
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
        timeout_graceful_shutdown=DRAIN_S,
    )
    config.load()
    config.ssl = tls  # uvicorn's own would be made of its defaults
    return _Server(config)
