"""A change of prefill settings as all workers know of it, and the commands that it goes by; pure data."""

import msgspec

from engines.reports import PrefillSettings


class UnderWay(msgspec.Struct, frozen=True):
    """The one change that runs, in the process with the number `worker`. `taken` is the replica that it works on.

    `before` is the wish that it replaced; `drained_before`: whether the taken replica took no requests anyway;
    `cancelled`: it is to stop where it can.
    """

    id: str
    pool: str
    worker: int
    wished: PrefillSettings
    before: PrefillSettings
    taken: str | None = None
    drained_before: bool = False
    cancelled: bool = False


class BeginChange(msgspec.Struct, frozen=True, tag=True):
    """A pool's wish is another one from now on, and its replicas are brought to it, one after the other."""

    id: str
    pool: str
    worker: int
    wished: PrefillSettings


class TakeReplica(msgspec.Struct, frozen=True, tag=True):
    """The change works on this replica, which takes no new requests until it is given back."""

    id: str
    name: str


class GiveBack(msgspec.Struct, frozen=True, tag=True):
    """The change has done with the replica that it took."""

    id: str


class CancelChange(msgspec.Struct, frozen=True, tag=True):
    """The change is to stop at the next step where a replica is not left half done."""

    id: str


class EndChange(msgspec.Struct, frozen=True, tag=True):
    """The change is over. Unless it is `kept`, the wish is again what it was before."""

    id: str
    kept: bool


ChangeCommand = BeginChange | TakeReplica | GiveBack | CancelChange | EndChange
