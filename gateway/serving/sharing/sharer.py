"""The sharer: tells other gateways what ours learns, and our router what they do, beside all requests; does I/O."""

import asyncio
import logging
import secrets
from collections.abc import Callable
from typing import Final

import msgspec

from gateway.routing import knowledge
from gateway.routing.batch import Batch, decoded, encoded
from gateway.routing.facts import Fact, PeerGone, PeerHeard, PeersSilent
from gateway.routing.router import Router
from gateway.serving.sharing.channel import START, Channel, ChannelError, Entry, Kept
from gateway.serving.sharing.status import SharingStatus
from gateway.tenancy.tenancy import Tenancy

TELL_EVERY_S: Final = 0.02
"""Between two batches; what comes after a pause is told at once."""
ALIVE_EVERY_S: Final = 2.0
SILENCE_S: Final = 10.0
"""Without a word of a peer, after which it is taken to be gone."""
KEEP_EVERY_S: Final = 30.0
PATIENCE_S: Final = 2.0
"""For a start with others' knowledge, before a gateway starts without."""
_BACKOFF_S: Final = (0.2, 5.0)
_RECENT_S: Final = 1.0
_GOODBYE: Final = b""

_log: Final = logging.getLogger("prefixgate")


class Sharer:
    """Moves batches between a router and a channel. A channel that is down or slow costs knowledge and nothing else:
    what waits to be told is bounded in the router's outbox, and what was not told is counted.
    """

    def __init__(
        self,
        channel: Channel,
        router: Router,
        observe: Callable[[Fact], None],
        clock: Callable[[], float],
        tenancy: Tenancy | None = None,
    ) -> None:
        """`tenancy`: whose use of their limits is told too."""
        self.tenancy = tenancy
        self._channel = channel
        self._router = router
        self._observe = observe
        self._clock = clock
        self._something = asyncio.Event()  # to tell
        self._outbox = router.tell_peers(secrets.token_hex(8), self._something.set)
        self._position = START
        self._reason = "it is being connected"
        self._connected = False
        self._sent = self._received = self._dropped = 0
        self._lag_s: float | None = None
        self._snapshot = ""
        self._stopping = False
        self._caught_up = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def status(self) -> SharingStatus:
        """As of now."""
        return SharingStatus(
            self._channel.name,
            self._connected,
            "" if self._connected else self._reason,
            self._router.peers,
            self._sent,
            self._received,
            self._dropped + self._outbox.dropped,
            self._lag_s,
            self._snapshot,
        )

    @property
    def notices(self) -> list[str]:
        """What an operator should know now."""
        return [] if self._connected else [f"nothing is shared with other gateways: {self._reason}"]

    async def start(self) -> None:
        """Begin, with what others know if they tell it soon enough."""
        self._tasks = [asyncio.create_task(self._run()), asyncio.create_task(self._watch())]
        for task in self._tasks:
            task.add_done_callback(_say_why)
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._caught_up.wait()
        except TimeoutError:
            _log.warning("sharing: started without what others know: %s", self._reason or "they have much to tell")

    async def stop(self) -> None:
        """Say the last things and goodbye, and disconnect."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._connected:
            try:
                await self._tell_all()
                await self._channel.append(self._outbox.sender, _GOODBYE)
            except ChannelError:
                pass  # others will notice the silence
        await self._channel.close()

    async def _run(self) -> None:
        """For ever: connected, or trying to be."""
        least, most = _BACKOFF_S
        wait_s = least
        while True:
            try:
                await self._channel.open()
                if not self._snapshot:
                    await self._begin()
                self._say_up()
                wait_s = least
                async with asyncio.TaskGroup() as tasks:
                    for work in (self._tell(), self._hear(), self._keep()):
                        tasks.create_task(work)
            except* ChannelError as errors:
                self._say_down(errors.exceptions[0])
            if self._stopping:  # what is cancelled may end as an error
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, most)

    async def _begin(self) -> None:
        """With the knowledge that others have left, if there is any; what was said since then follows."""
        kept = await self._channel.load()
        if kept is None:
            self._snapshot = "there was none to begin with"
            return
        try:
            self._router.begin_with(knowledge.decoded(kept.payload, self._router.block_bytes))
        except knowledge.UnreadableError as error:
            self._snapshot = f"the one that was kept is of no use: {error}"
        else:
            self._position = kept.position
            self._snapshot = "began with one that was kept"

    async def _tell(self) -> None:
        while True:
            try:
                async with asyncio.timeout(ALIVE_EVERY_S):
                    while not len(self._outbox):
                        await self._something.wait()
                        self._something.clear()
            except TimeoutError:
                await self._append(self._outbox.alive(self._clock()))
            await self._tell_all()
            await asyncio.sleep(TELL_EVERY_S)

    async def _tell_all(self) -> None:
        while (batch := self._outbox.take(self._clock())) is not None:
            await self._append(batch)
        if self.tenancy is not None and self.tenancy.has_news:
            await self._append(self._outbox.alive(self._clock()))

    async def _append(self, batch: Batch) -> None:
        if self.tenancy is not None:
            batch = msgspec.structs.replace(batch, uses=self.tenancy.unsaid())
        arrived = False
        try:
            await self._channel.append(batch.sender, encoded(batch))
            arrived = True
        finally:
            if arrived:
                self._sent += len(batch.records)
            else:
                self._dropped += len(batch.records)

    async def _hear(self) -> None:
        while True:
            news = await self._channel.read(self._position)
            now = self._clock()
            for entry in news.entries:
                self._take(entry, now - entry.age_s)
                self._position = entry.position
                await asyncio.sleep(0)  # requests come first
            self._position = news.position
            if not news.entries or news.entries[-1].age_s < _RECENT_S:
                self._caught_up.set()

    def _take(self, entry: Entry, at: float) -> None:
        self._lag_s = self._clock() - at
        if entry.sender == self._outbox.sender:
            return
        if entry.payload == _GOODBYE:
            self._observe(PeerGone(at, entry.sender))
            if self.tenancy is not None:
                self.tenancy.gone(entry.sender)
            return
        try:
            batch = decoded(entry.payload)
        except msgspec.MsgspecError:
            self._dropped += 1
            return
        self._received += len(batch.records)
        self._observe(PeerHeard(at, batch))
        if self.tenancy is not None:
            self.tenancy.hear(batch.sender, batch.number, batch.uses, at, self._clock())

    async def _keep(self) -> None:
        """Leave what is known for those who come later; one of us at a time does."""
        while True:
            await asyncio.sleep(KEEP_EVERY_S)
            if await self._channel.turn(KEEP_EVERY_S / 2):
                payload = knowledge.encoded(self._router.knowledge())
                await self._channel.save(Kept(self._position, payload))

    async def _watch(self) -> None:
        """Peers that say nothing are gone, or we are cut off from them."""
        while True:
            await asyncio.sleep(ALIVE_EVERY_S)
            now = self._clock()
            self._observe(PeersSilent(now, now - SILENCE_S))
            if self.tenancy is not None:
                self.tenancy.lapse(now - SILENCE_S)

    def _say_up(self) -> None:
        if self._reason and self._sent:
            _log.warning("sharing: connected again")
        self._connected, self._reason = True, ""

    def _say_down(self, error: Exception) -> None:
        """Once for each outage."""
        if not self._stopping and (self._connected or self._reason != str(error)):
            _log.warning("sharing: %s; this gateway goes on with what it knows itself", error)
        self._connected, self._reason = False, str(error)


def _say_why(task: asyncio.Task[None]) -> None:
    """Sharing ends only when it is stopped; anything else is a bug of ours, and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("sharing has ended", exc_info=error)
