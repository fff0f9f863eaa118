"""Where a request goes: the router's answer, waited for while the router holds it; does I/O."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from gateway.routing.decision import Decision, Held, Rejection, RouteRequest
from gateway.routing.facts import AttemptFailed, Cause, Withdrawn
from gateway.routing.router import Router

Answer = Decision | Rejection


class Placed(NamedTuple):
    """The answer, and for how long (seconds) the request was held before it."""

    answer: Answer
    held_s: float = 0.0


class Placer:
    """Lets held requests wait, and tells them where to go as soon as the router knows."""

    def __init__(self, router: Router, clock: Callable[[], float]) -> None:
        self._router = router
        self._clock = clock
        self._waiting: dict[int, asyncio.Future[Answer]] = {}  # by ticket
        self._timer: asyncio.TimerHandle | None = None

    async def place(self, request: RouteRequest) -> Placed:
        """The router's answer; a held request whose task is cancelled leaves no trace."""
        asked_at = self._clock()
        return await self._placed(self._router.route(request, asked_at), asked_at)

    async def again(self, request: RouteRequest) -> Placed:
        """The same for a request that an engine refused as it has too much to do: it waits until one takes it."""
        asked_at = self._clock()
        return await self._placed(self._router.hold(request, asked_at), asked_at)

    async def _placed(self, answer: Decision | Rejection | Held, asked_at: float) -> Placed:
        if not isinstance(answer, Held):
            return Placed(answer)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[answer.ticket] = future
        self.look()  # its turn may be now, and others may have lost their place to it
        try:
            return Placed(await future, self._clock() - asked_at)
        except asyncio.CancelledError:
            self._gone(answer.ticket, future)
            raise

    def look(self) -> None:
        """Something has happened: some of those who wait may have their answer."""
        if not self._router.holds:
            return
        for ticket, answer in self._router.release(self._clock()):
            future = self._waiting.pop(ticket)
            if not future.done():
                future.set_result(answer)
            elif isinstance(answer, Decision):  # its client left in this very moment
                self._router.observe(AttemptFailed(ticket, self._clock(), Cause.CLIENT_GONE))
        self._look_later()

    def _gone(self, ticket: int, future: "asyncio.Future[Answer]") -> None:
        if self._waiting.pop(ticket, None) is not None:
            self._router.observe(Withdrawn(ticket, self._clock()))
        elif future.done() and not future.cancelled() and isinstance(future.result(), Decision):
            self._router.observe(AttemptFailed(ticket, self._clock(), Cause.CLIENT_GONE))

    def _look_later(self) -> None:
        """Queues shorten by themselves, so look again soon."""
        look_at = self._router.look_at(self._clock())
        if look_at is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(look_at - self._clock(), self._timed)

    def _timed(self) -> None:
        self._timer = None
        self.look()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
