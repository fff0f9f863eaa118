"""The contract of a channel between gateways: a bounded log of what each has said, and a snapshot for latecomers."""

from typing import Final, Protocol

import msgspec

START: Final = ""
"""Before all that a log keeps."""
PATIENCE_S: Final = 2.0
"""For a channel's answer."""
WAIT_S: Final = 1.0
"""For news, before `read` comes back without any."""
MOST_READ: Final = 64
"""Entries in one go."""


class Entry(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One thing that was said. `age_s` is for how long the log has had it; no payload: its sender is gone."""

    position: str
    sender: str
    age_s: float
    payload: bytes


class News(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What was said up to `position`: what others did, and maybe what was said here itself."""

    position: str
    entries: list[Entry]


class Kept(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A snapshot that makes up for all entries up to `position`."""

    position: str
    payload: bytes


class ChannelError(Exception):
    """The channel does not work; the message is a sentence for operators, without secrets."""


class Channel(Protocol):
    """Where gateways meet. Each method but `close` raises ChannelError; after that `open` may be tried again.

    What is said reaches everyone who reads on from a position, in one order; who is too slow misses the oldest.
    `name` is "redis" or "workers".
    """

    name: str

    async def open(self) -> None:
        """Connect, or connect anew."""

    async def append(self, sender: str, payload: bytes) -> None:
        """Say something."""

    async def read(self, after: str) -> News:
        """What was said after this position, up to `MOST_READ` entries; waits for up to `WAIT_S` for the first."""

    async def load(self) -> Kept | None:
        """The latest snapshot."""

    async def save(self, kept: Kept) -> None:
        """Replace it."""

    async def turn(self, for_s: float) -> bool:
        """Whether it is our turn to save a snapshot: one reader has it for so many seconds."""

    async def close(self) -> None:
        """Disconnect; the channel is not used again."""
