"""The channel of workers of one gateway, without Redis: a worker's end of the hub; does I/O."""

import asyncio
import socket
from itertools import count

from gateway.serving.sharing.channel import PATIENCE_S, WAIT_S, ChannelError, Kept, News
from gateway.serving.sharing.frames import Append, Frame, Load, Read, Save, Snapshot, Told, Turn, TurnTaken, Wire

_GONE = "the process that started this worker is gone"


class EmbeddedChannel:
    """A `Channel` over one end of a pair of sockets, whose other end is attached to the `Hub`."""

    name = "workers"

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._wire: Wire | None = None
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Frame]] = {}
        self._listening: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Connected from birth; once it is lost, so is the parent."""
        if self._wire is None:
            self._wire = Wire(*await asyncio.open_unix_connection(sock=self._end))
            self._listening = asyncio.create_task(self._listen(self._wire))
        elif self._listening is None or self._listening.done():
            raise ChannelError(_GONE)

    async def append(self, sender: str, payload: bytes) -> None:
        """Say something."""
        await self._say(Append(sender, payload))

    async def read(self, after: str) -> News:
        """What was said after this position."""
        number = next(self._numbers)
        answer = await self._ask(number, Read(number, after), WAIT_S + PATIENCE_S)
        return answer.news if isinstance(answer, Told) else News(after, [])

    async def load(self) -> Kept | None:
        """The latest snapshot."""
        number = next(self._numbers)
        answer = await self._ask(number, Load(number))
        return answer.kept if isinstance(answer, Snapshot) else None

    async def save(self, kept: Kept) -> None:
        """Replace it."""
        await self._say(Save(kept))

    async def turn(self, for_s: float) -> bool:
        """Whether it is our turn to save one."""
        number = next(self._numbers)
        answer = await self._ask(number, Turn(number, for_s))
        return isinstance(answer, TurnTaken) and answer.yours

    async def close(self) -> None:
        """Hang up."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.gather(self._listening, return_exceptions=True)
        if self._wire is not None:
            self._wire.close()
        else:
            self._end.close()

    async def _say(self, frame: Frame) -> None:
        if self._wire is None or self._listening is None or self._listening.done():
            raise ChannelError(_GONE)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._wire.send(frame)
        except ConnectionError as error:
            raise ChannelError(_GONE) from error
        except TimeoutError as error:
            raise ChannelError("the process that started this worker does not listen") from error

    async def _ask(self, number: int, frame: Frame, patience_s: float = PATIENCE_S) -> Frame:
        answer: asyncio.Future[Frame] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            await self._say(frame)
            async with asyncio.timeout(patience_s):
                return await answer
        except TimeoutError as error:
            raise ChannelError("the process that started this worker does not answer") from error
        finally:
            del self._asked[number]

    async def _listen(self, wire: Wire) -> None:
        try:
            while isinstance(frame := await wire.receive(), Told | Snapshot | TurnTaken):
                asked = self._asked.get(frame.number)
                if asked is not None and not asked.done():
                    asked.set_result(frame)
        finally:
            for asked in self._asked.values():
                if not asked.done():
                    asked.set_exception(ChannelError(_GONE))
