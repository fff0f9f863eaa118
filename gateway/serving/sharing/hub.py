"""The hub: the channel of workers of one gateway, kept in the memory of the process that started them; does I/O."""

import asyncio
import socket
import time
from collections import deque
from contextlib import suppress
from itertools import islice
from typing import Final

from gateway.serving.sharing.channel import MOST_READ, WAIT_S, Entry, Kept, News
from gateway.serving.sharing.frames import Append, Load, Read, Save, Snapshot, Told, Turn, TurnTaken, Wire

MOST_ENTRIES: Final = 4096
MOST_BYTES: Final = 32 * 1024 * 1024


class Hub:
    """The log, the snapshot, and a task for each worker that asks for them; all on the parent's event loop."""

    def __init__(self) -> None:
        self._log: deque[tuple[float, str, bytes]] = deque()  # when, who, what
        self._first = 1  # the position of the oldest
        self._bytes = 0
        self._kept: Kept | None = None
        self._taken_until = 0.0
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def attach(self, end: socket.socket) -> None:
        """Serve the worker at the other end of this pair of sockets, until it hangs up."""
        wire = Wire(*await asyncio.open_unix_connection(sock=end))
        task = asyncio.get_running_loop().create_task(self._serve(wire))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Serve nobody any longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, wire: Wire) -> None:
        """One worker: each question has its answer, but for what it says, which has none."""
        senders: set[str] = set()
        reading: asyncio.Task[None] | None = None
        try:
            while (asked := await wire.receive()) is not None:
                match asked:
                    case Append():
                        senders.add(asked.sender)
                        self._append(asked.sender, asked.payload)
                    case Read():
                        reading = asyncio.create_task(self._tell(wire, asked, senders))
                    case Load():
                        await wire.send(Snapshot(asked.number, self._kept))
                    case Save():
                        self._kept = asked.kept
                    case Turn():
                        await wire.send(TurnTaken(asked.number, self._turn(asked.for_s)))
                    case _:
                        return
        except ConnectionError:
            pass  # it hung up
        finally:
            if reading is not None:
                reading.cancel()
            wire.close()
            for sender in senders:
                self._append(sender, b"")

    async def _tell(self, wire: Wire, asked: Read, senders: set[str]) -> None:
        """What others have said, as soon as there is any; what the worker said itself it knows."""
        news = self._since(int(asked.after or 0), senders)
        with suppress(TimeoutError):
            async with asyncio.timeout(WAIT_S):
                while not news.entries:
                    await self._news.wait()
                    news = self._since(int(news.position), senders)
        with suppress(ConnectionError):
            await wire.send(Told(asked.number, news))

    def _since(self, after: int, senders: set[str]) -> News:
        now, entries = time.monotonic(), []
        position = max(after, self._first - 1)
        for when, who, what in islice(self._log, position + 1 - self._first, None):
            position += 1
            if who not in senders:
                entries.append(Entry(str(position), who, now - when, what))
                if len(entries) == MOST_READ:
                    break
        return News(str(position), entries)

    def _append(self, sender: str, payload: bytes) -> None:
        self._log.append((time.monotonic(), sender, payload))
        self._bytes += len(payload)
        while len(self._log) > MOST_ENTRIES or self._bytes > MOST_BYTES:
            self._bytes -= len(self._log.popleft()[2])
            self._first += 1
        self._news.set()
        self._news.clear()

    def _turn(self, for_s: float) -> bool:
        now = time.monotonic()
        if now < self._taken_until:
            return False
        self._taken_until = now + for_s
        return True
