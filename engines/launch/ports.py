"""Whether the ports that a replica is to listen on are free; does I/O."""

import errno
import socket

from engines.launch.launcher import LaunchError, LaunchSpec


def taken_port(spec: LaunchSpec) -> str | None:
    """One sentence on the first port that another process listens on; None: all are free.

    Raises LaunchError where the host is no address of this one.
    """
    wanted = [(spec.host, spec.port)] + [("", port) for port in spec.event_ports or ()]
    for host, port in wanted:
        if _is_taken(host, port):
            return f"port {port} of {host or 'this host'} is taken by another process"
    return None


def _is_taken(host: str, port: int) -> bool:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except socket.gaierror as error:
        raise LaunchError(f"{host} cannot be resolved: {error.strerror}") from error
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                raise LaunchError(f"{host} is no address of this host, where the launcher is") from None
            return error.errno == errno.EADDRINUSE
    return False
