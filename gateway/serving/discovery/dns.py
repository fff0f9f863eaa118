"""Replicas by DNS: each address of a name is one; does I/O."""

import asyncio
import socket

from gateway.serving.discovery.source import DiscoveryError, url_of


class DnsSource:
    """Asks the system's resolver, which may remember answers for as long as they say."""

    def __init__(self, name: str, scheme: str) -> None:
        """`name` is HOST:PORT."""
        host, _, port = name.rpartition(":")
        self._host = host.strip("[]")
        self._port = int(port)
        self._scheme = scheme

    async def targets(self) -> set[str]:
        """One URL for each A and AAAA record."""
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise DiscoveryError(f"{self._host} cannot be resolved: {error.strerror or error}") from error
        return {url_of(self._scheme, str(address[0]), self._port) for *_, address in found}

    async def close(self) -> None:
        """Nothing is open."""
