"""What a worker and the hub say to each other, and the wire on which they say it; does I/O."""

import asyncio
from typing import Final

import msgspec

from gateway.serving.framing import read_framed, write_framed
from gateway.serving.sharing.channel import Kept, News

_MOST_BYTES: Final = 1 << 28


class Append(msgspec.Struct, array_like=True, tag=0, frozen=True, gc=False):
    """A worker says something to all; there is no answer."""

    sender: str
    payload: bytes


class Save(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """A worker has a snapshot to keep; there is no answer."""

    kept: Kept


class Read(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """What was said after this position? The answer is `Told`."""

    number: int
    after: str


class Load(msgspec.Struct, array_like=True, tag=3, frozen=True, gc=False):
    """Which snapshot is kept? The answer is `Snapshot`."""

    number: int


class Turn(msgspec.Struct, array_like=True, tag=4, frozen=True, gc=False):
    """May I save one? The answer is `TurnTaken`."""

    number: int
    for_s: float


class Told(msgspec.Struct, array_like=True, tag=5, frozen=True, gc=False):
    """This was said."""

    number: int
    news: News


class Snapshot(msgspec.Struct, array_like=True, tag=6, frozen=True, gc=False):
    """This one is kept."""

    number: int
    kept: Kept | None


class TurnTaken(msgspec.Struct, array_like=True, tag=7, frozen=True, gc=False):
    """You may, or another one does."""

    number: int
    yours: bool


Frame = Append | Save | Read | Load | Turn | Told | Snapshot | TurnTaken

_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final[msgspec.msgpack.Decoder[Frame]] = msgspec.msgpack.Decoder(Frame)


class Wire:
    """One end of a pair of sockets: frames of MessagePack, each after its length."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, frame: Frame) -> None:
        """Say something; waits while the other end is too slow. Raises ConnectionError once it is gone."""
        write_framed(self._writer, _ENCODER.encode(frame))
        await self._writer.drain()

    async def receive(self) -> Frame | None:
        """What the other end says next; None once it is gone, or says what is no frame."""
        message = await read_framed(self._reader, _MOST_BYTES)
        try:
            return None if message is None else _DECODER.decode(message)
        except msgspec.MsgspecError:
            return None

    def close(self) -> None:
        """Hang up."""
        self._writer.close()
