"""The gateway's process: two ports, one event loop, polling, and an orderly end; does I/O."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator

import uvicorn

from gateway.config import Config
from gateway.serving import admin, main_app
from gateway.serving.framework import framework
from gateway.serving.gateway import Gateway
from gateway.serving.journal import open_journal
from gateway.serving.polling import Poller

DRAIN_S: int = 30


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to us, since two share the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


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
async def running(config: Config, *, seed: int | None = None) -> AsyncIterator[RunningGateway]:
    """Start a gateway on the configured ports (0: any free one); it ends with the block.

    Raises ConfigError where the journal cannot be kept, OSError where a port is taken.
    """
    gateway = Gateway(config, seed=seed, journal=open_journal(config))
    host, port, admin_port = config.server.host, config.server.port, config.server.admin
    sockets = [_listen(host, port)]
    if admin_port == port != 0:
        apps: list[object] = [main_app.MainApp(gateway, framework(gateway, main_app.routes, admin.routes))]
    else:
        sockets += _listen_beside(sockets[0], host, admin_port)
        apps = [main_app.MainApp(gateway, framework(gateway, main_app.routes)), framework(gateway, admin.routes)]
    servers = [_server(app) for app in apps]
    poller = Poller(gateway)
    await poller.start()
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener])) for server, listener in zip(servers, sockets, strict=True)
    ]
    run = RunningGateway(gateway, servers, _url(host, sockets[0]), _url(host, sockets[-1]))
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


def _server(app: object) -> _Server:
    return _Server(
        uvicorn.Config(
            app,  # type: ignore[arg-type]
            http="httptools",
            loop="none",
            lifespan="off",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_S,
        )
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Naming the protocol makes asyncio switch Nagle off; uvloop does so always.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener


def _listen_beside(first: socket.socket, host: str, port: int) -> list[socket.socket]:
    try:
        return [_listen(host, port)]
    except OSError:
        first.close()
        raise


def _url(host: str, listener: socket.socket) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"http://{shown}:{listener.getsockname()[1]}"
