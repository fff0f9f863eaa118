"""Listening sockets: one for clients, one for operators, and more on the same ports for more workers; does I/O."""

import socket
import sys
from collections.abc import Sequence
from ctypes import addressof, create_string_buffer
from struct import pack
from typing import Final

from gateway.config import ServerConfig

HANDSHAKE_S: Final = 0.2
"""For connections whose first packet has come to come whole, and be accepted."""
_SO_ATTACH_FILTER: Final = 26
_DROP_SYN: Final = (
    (0x30, 0, 0, 13),  # load the byte of flags in the TCP header
    (0x54, 0, 0, 0x12),  # SYN and ACK of it
    (0x15, 0, 1, 0x02),  # is it SYN alone?
    (0x06, 0, 0, 0),  # then drop it
    (0x06, 0, 0, 0xFFFFFFFF),  # else take it whole
)
"""A classic BPF program, as Linux' socket(7) takes it: code, jump if true, jump if false, operand."""


def open_ports(server: ServerConfig) -> list[socket.socket]:
    """The main port, and the admin port unless it is the same. Raises OSError where one is taken.

    With `reuse_port` one that another gateway has opened likewise is not taken.
    """
    first = _bound(server.host, server.port, shared=server.reuse_port)
    if server.admin == server.port != 0:
        return [first]
    try:
        return [first, _bound(server.host, server.admin, shared=server.reuse_port)]
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


def turn_away(listeners: Sequence[socket.socket]) -> bool:
    """Have the kernel drop the first packet of each new connection to these; whether it does.

    What a listener has not accepted when it closes is reset, so of those that share a port one must not be given any
    more before it closes. Who is dropped sends again after a second, and then comes to another listener. Handshakes
    under way go on.
    """
    if not sys.platform.startswith("linux"):
        return False
    program = b"".join(pack("=HBBI", *step) for step in _DROP_SYN)
    kept = create_string_buffer(program, len(program))
    try:
        for listener in listeners:
            listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, pack("@HP", len(_DROP_SYN), addressof(kept)))
    except OSError:  # a sandbox without it
        return False
    return True


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
