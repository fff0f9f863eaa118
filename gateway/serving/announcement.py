"""What a gateway says on the terminal once it listens; pure."""

from collections.abc import Sequence

from gateway.routing.snapshot import Snapshot


def listening_line(url: str, admin_url: str, policy: str) -> str:
    """The one line on standard output, which other programs read the URLs from."""
    return f"prefixgate listens on {url}/v1 (dashboard {admin_url}/, policy {policy})"


def notes(notices: Sequence[str], snapshot: Snapshot) -> list[str]:
    """What to read before that: what the configuration asks for in vain, and for each replica whether it is up."""
    return [f"note: {notice}" for notice in notices] + [
        f"  {one.name}  {one.url}  {one.state if one.state == 'up' else f'{one.state}: {one.reason}'}"
        for one in snapshot.replicas
    ]
