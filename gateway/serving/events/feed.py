"""One rank's KV-cache events: subscribed to, made up for when some were missed, turned into facts; does I/O."""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import closing
from typing import Final
from urllib.parse import urlsplit

from engines.cache_events import EventSource
from engines.dialect import Dialect
from gateway.routing.facts import Fact
from gateway.serving.events.intake import EventIntake, FeedStatus
from gateway.serving.events.replay import PATIENCE_S, ReplayLine
from gateway.serving.events.sockets import Context, Frames, Subscription, Turn, needs_ipv6

_log: Final = logging.getLogger("prefixgate")

REOPEN_S: Final = 30.0
"""Without a connection, before the socket is replaced: ZMQ gives up on a peer that broke its protocol."""
FIRST_WAIT_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
"""After a bug of ours, before the feed starts anew: doubled from the first to the longest."""
SHORTEST_IDLE_S: Final = 0.002
LONGEST_IDLE_S: Final = 60.0


class EventFeed:
    """One source of one replica, listened to until it is closed. `interval_s` is the poll interval.

    What the router believes of the rank is never stale for longer than that: a break or a gap fences it off at
    once, and a lost tail, which no number shows, is asked for after a quiet interval (see `stir`).
    """

    def __init__(
        self,
        context: Context,
        replica: str,
        source: EventSource,
        dialect: Dialect,
        observe: Callable[[Fact], None],
        clock: Callable[[], float],
        *,
        interval_s: float,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.source = source
        self.intake = EventIntake(replica, source.rank, dialect.read_events, observe, clock)
        self._context = context
        self._clock = clock
        self._interval_s = interval_s
        self._patience_s = patience_s
        self._connection: Subscription | None = None
        self._replay: ReplayLine | None = None
        self._greeted = False  # whether the intake knows of the connection
        self._is_back = False  # whether there is somebody to connect to, so that waiting is a waste
        self._breaks = 0
        self._down_since = clock()
        self._checked_at = clock()
        self._checks_due = 0
        self._task = asyncio.create_task(self._run(), name=f"events of {replica}, rank {source.rank}")

    def status(self) -> FeedStatus:
        """How the feed stands."""
        return self.intake.status(self.source.endpoint, replays=self.source.replay_endpoint is not None)

    def stir(self) -> None:
        """The engine did something: quiet is not proof that nothing was published.

        It earns two checks, since what it did may be published a moment later.
        """
        self._checks_due = 2
        self._wake()

    def restarted(self) -> None:
        """The replica's process is a new one, and there: a connection that is being tried is tried at once."""
        self._is_back = True
        self.begin_anew("the engine restarted")

    def begin_anew(self, reason: str) -> None:
        """What is known is worth nothing: forget it, and have the history read where it can be."""
        self._greeted = False
        self.intake.lost(reason)
        self._wake()

    async def close(self) -> None:
        """Listen no more; what is known of the rank is forgotten."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self.intake.lost("no longer listened to")

    def _wake(self) -> None:
        if self._connection is not None:
            self._connection.bell.ring()

    async def _run(self) -> None:
        """The border: whatever goes wrong here must neither end the feed nor leave the router believing it."""
        wait_s = 0.0
        while True:
            began_at = self._clock()
            try:
                if wait_s:
                    self.intake.lost("an error of the gateway's own")
                    await asyncio.sleep(wait_s)
                await self._listen()
                wait_s = 0.0
            except Exception:
                lasted = self._clock() - began_at > 2 * LONGEST_WAIT_S
                wait_s = FIRST_WAIT_S if lasted or not wait_s else min(2 * wait_s, LONGEST_WAIT_S)
                _log.exception("%s: starting anew in %.0f s", self._task.get_name(), wait_s)

    async def _listen(self) -> None:
        """One socket, until it is time for a fresh one."""
        source, context = self.source, self._context
        ipv6 = await needs_ipv6(urlsplit(source.endpoint).hostname or "")
        if source.replay_endpoint is not None:
            self._replay = ReplayLine(context, source.replay_endpoint, ipv6, self._patience_s)
        with closing(Subscription(context, source.endpoint, source.topic, ipv6=ipv6)) as connection:
            self._connection = connection
            self._breaks, self._greeted, self._is_back = 0, False, False
            self._down_since = self._clock()
            turn = Turn()
            try:
                while connection.connected or self._clock() < self._reopen_at():
                    messages = connection.receive()
                    if self._broke(connection):
                        messages = []  # what is missing after them, nobody knows; a replay will say
                    await self._follow(connection)
                    await self._take(connection, messages, turn)
                    if connection.drained:
                        await self._check(connection)
                        await connection.bell.wait(self._idle_s(connection))
                        turn.begin()
            finally:
                self._connection = None

    async def _follow(self, connection: Subscription) -> None:
        """Act on what became of the connection."""
        if not connection.connected:
            if self.intake.state == "fenced" and self._clock() >= self._down_since + self._interval_s:
                self.intake.lost("the connection is gone")
        elif not self._greeted:
            self._greeted, self._is_back = True, False
            self._checks_due = max(self._checks_due, 1)  # a subscription takes effect after it is connected
            self.intake.connected()
            await self._repair(connection)

    async def _check(self, connection: Subscription) -> None:
        """Act on quiet, when all that came has been taken."""
        if self._clock() >= self._check_at():
            self._checks_due -= 1
            self.intake.check()
            await self._repair(connection)

    async def _take(self, connection: Subscription, messages: list[Frames], turn: Turn) -> None:
        for frames in messages:
            if self.intake.state != "live":  # cut off or restarted meanwhile: they will be asked for again
                return
            self.intake.take(frames)
            self._checks_due = max(self._checks_due, 1)
            if self.intake.repair is not None:
                await self._repair(connection)
            if turn.over:
                await turn.pass_on()

    async def _repair(self, connection: Subscription) -> None:
        """Ask for what is missing, as long as the intake wants it."""
        while self.intake.repair is not None:
            if self._replay is None:
                self.intake.give_up("nothing can be asked for again")
                return
            end = await self._replay.ask(self.intake.ask_from(), self.intake.take_replayed, self._is_overtaken)
            if not self._broke(connection):
                self.intake.replay_ended(end)
            self._checked_at = self._clock()

    def _is_overtaken(self) -> bool:
        """Whether a replay is of no use any more: the connection broke, or the process is a new one."""
        connection = self._connection
        if connection is None or self.intake.repair is None:
            return True
        connection.look()
        return connection.breaks != self._breaks

    def _broke(self, connection: Subscription) -> bool:
        """Whether the connection broke since this was asked last; then what it brought is dropped."""
        if connection.breaks == self._breaks:
            return False
        self._breaks = connection.breaks
        self._greeted = False
        self._down_since = self._clock()
        self.intake.disconnected()
        connection.drop()
        return True

    def _check_at(self) -> float:
        """When a replay has to say whether the last message seen is the last one."""
        if not self._checks_due or self._replay is None or self.intake.mute or self.intake.state != "live":
            return math.inf
        heard_at = self.intake.last_event_at
        return max(self._checked_at, self._checked_at if heard_at is None else heard_at) + self._interval_s

    def _reopen_at(self) -> float:
        """When to replace a socket that has no connection."""
        return self._down_since + (0.0 if self._is_back else REOPEN_S)

    def _idle_s(self, connection: Subscription) -> float:
        """Until something is due though nothing comes."""
        due = self._check_at() if self._greeted else -math.inf
        if not connection.connected:
            due = self._reopen_at()
            if self.intake.state == "fenced":
                due = min(due, self._down_since + self._interval_s)
        return min(max(due - self._clock(), SHORTEST_IDLE_S), LONGEST_IDLE_S)
