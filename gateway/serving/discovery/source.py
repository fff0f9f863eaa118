"""A source of replicas' URLs, and what all sources share; pure but for the sources themselves."""

from ipaddress import IPv6Address
from typing import Protocol


class DiscoveryError(Exception):
    """The source cannot be asked, or its answer cannot be read; the message is the reason in a few words."""


class Source(Protocol):
    """Somebody who knows where a pool's replicas are."""

    async def targets(self) -> set[str]:
        """The URLs of all of them, now. Raises DiscoveryError."""

    async def close(self) -> None:
        """Ask no more."""


def url_of(scheme: str, host: str, port: int) -> str:
    """The base URL of a replica at an address or name."""
    try:
        shown = f"[{IPv6Address(host)}]"
    except ValueError:
        shown = host
    return f"{scheme}://{shown}:{port}"
