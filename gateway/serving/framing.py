"""Messages on a stream of bytes, each after its length: what processes of one gateway speak; does I/O."""

import asyncio
from typing import Final

_HEAD_BYTES: Final = 4


def write_framed(writer: asyncio.StreamWriter, message: bytes) -> None:
    """Send a message; does not wait."""
    writer.write(len(message).to_bytes(_HEAD_BYTES, "big") + message)


async def read_framed(reader: asyncio.StreamReader, most_bytes: int) -> bytes | None:
    """The next message; None once the other end is gone, or announces a longer one than `most_bytes`."""
    try:
        size = int.from_bytes(await reader.readexactly(_HEAD_BYTES), "big")
        return await reader.readexactly(size) if size <= most_bytes else None
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
