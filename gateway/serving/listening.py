"""Listening sockets: one for clients, one for operators, and more on the same ports for more workers; does I/O."""

import socket
from collections.abc import Sequence

from gateway.config import ServerConfig


def open_ports(server: ServerConfig) -> list[socket.socket]:
    """The main port, and the admin port unless it is the same. Raises OSError where one is taken."""
    first = _bound(server.host, server.port)
    if server.admin == server.port != 0:
        return [first]
    try:
        return [first, _bound(server.host, server.admin)]
    except OSError:
        first.close()
        raise


def share(ports: Sequence[socket.socket]) -> None:
    """Let others open them too. They were bound alone, so a second gateway is told that the port is taken."""
    for port in ports:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def open_beside(ports: Sequence[socket.socket]) -> list[socket.socket]:
    """Further sockets on shared ports; the kernel spreads connections over those that listen. Raises OSError."""
    return [_bound(*port.getsockname()[:2], shared=True) for port in ports]


def url(server: ServerConfig, port: socket.socket) -> str:
    """Where clients find it."""
    shown = f"[{server.host}]" if ":" in server.host else server.host
    return f"{'http' if server.tls_cert is None else 'https'}://{shown}:{port.getsockname()[1]}"


def _bound(host: str, port: int, *, shared: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Naming the protocol makes asyncio switch Nagle off; uvloop does so always.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError:
        listener.close()
        raise
    return listener
