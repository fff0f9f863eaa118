"""How sharing goes, for people and metrics; pure."""

from collections.abc import Sequence

import msgspec


class SharingStatus(msgspec.Struct, frozen=True):
    """How sharing goes. `backend` is "redis", "workers" or "none"; `reason` says why it is not connected.

    `sent`, `received` and `dropped` count records; `lag_s` is how old what was heard last was by then, in seconds;
    `snapshot` says in a sentence what it began with.
    """

    backend: str = "none"
    connected: bool = False
    reason: str = ""
    peers: int = 0
    sent: int = 0
    received: int = 0
    dropped: int = 0
    lag_s: float | None = None
    snapshot: str = ""

    def counted(self) -> "SharingStatus":
        """What remains of it after its process has ended."""
        return msgspec.structs.replace(self, connected=True, reason="", lag_s=None)


def merged_status(parts: Sequence[SharingStatus]) -> SharingStatus:
    """Of several workers: connected if all are; the first one's word counts for what all know alike."""
    down = next((one for one in parts if not one.connected), None)
    lags = [one.lag_s for one in parts if one.lag_s is not None]
    return msgspec.structs.replace(
        parts[0],
        connected=down is None,
        reason="" if down is None else down.reason,
        sent=sum(one.sent for one in parts),
        received=sum(one.received for one in parts),
        dropped=sum(one.dropped for one in parts),
        lag_s=max(lags, default=None),
    )
