"""The way of one request from replica to replica: where it goes first, next and beside; does I/O."""

import asyncio

import msgspec

from gateway.routing.decision import Decision, Rejection, RouteRequest
from gateway.routing.facts import Cause, ReplicaBusy
from gateway.serving.attempt import Attempt
from gateway.serving.failure import AttemptLostError
from gateway.serving.gateway import Gateway
from gateway.serving.placing import Placed


class Course:
    """Asks the router with what the request has been through; whether it may is `Recourse`'s word."""

    def __init__(self, gateway: Gateway, asked: RouteRequest) -> None:
        self.asked = asked
        self._gateway = gateway
        self._tried: set[str] = set()
        self._failed: set[str] = set()  # those of them that answered, but badly; others may come back
        self._attempts = 0
        self._wait_until: float | None = None  # all of its waits together end then

    async def first(self) -> Placed:
        """Where the request goes; a Rejection only after waiting, if that may help."""
        placed = await self._gateway.placer.place(self.asked)
        if isinstance(placed.answer, Rejection):
            return await self._waited(placed.answer) or placed
        return placed

    async def following(self, failure: AttemptLostError, attempt: Attempt) -> Placed | None:
        """Where it goes after an attempt that failed before its first byte, and is given up if there is such a place.

        None when the failure is final or nobody is left; the attempt is given up too if that took waiting.
        """
        self._note(failure, attempt)
        if failure.error.overloaded and self._gateway.router.can_hold and not self.asked.begun:
            attempt.lose(Cause.OVERLOADED)  # and back to the queue, until one takes it
            self._tried.clear()
            self._failed.clear()
            return await self._gateway.placer.again(self.asked)
        if not self._gateway.recourse.again(failure, self._attempts, self._gateway.clock()):
            return None
        return await self._next(attempt, failure.cause)

    async def onward(self, asked: RouteRequest, failure: AttemptLostError, attempt: Attempt) -> Placed | None:
        """The same for a stream that broke in the middle and goes on as `asked`: best where engines are alike."""
        self.asked = asked
        self._note(failure, attempt)
        same = msgspec.structs.replace(asked, pinned_pool=asked.pinned_pool or attempt.decision.chosen.pool)
        return await self._next(attempt, Cause.CONTINUED, same)

    def may_go_on(self, failure: AttemptLostError) -> bool:
        """Whether a stream that broke in the middle may go on elsewhere."""
        return self._gateway.recourse.further(failure, self._attempts + 1, self._gateway.clock())

    def beside(self, attempt: Attempt) -> Decision | None:
        """Another replica for a request whose first one is slow, if it may have one."""
        now = self._gateway.clock()
        if not self._gateway.recourse.beside(now):
            return None
        self._tried.add(attempt.decision.chosen.replica)
        request = self._after(self._tried)
        if attempt.decision.exposure is not None and _crosses(self._gateway.router.preview(request, now)):
            return None  # who is only slow stays in its arm
        answer = self._gateway.router.route(request, now)
        if not isinstance(answer, Decision):
            return None
        self._attempts += 1
        self._tried.add(answer.chosen.replica)
        return answer

    async def _next(self, attempt: Attempt, cause: Cause, rather: RouteRequest | None = None) -> Placed | None:
        for asked in (self.asked,) if rather is None else (rather, self.asked):
            request = msgspec.structs.replace(asked, tried=frozenset(self._tried))
            answer = self._gateway.router.route(request, self._gateway.clock())
            if isinstance(answer, Decision):
                attempt.lose(cause)
                return Placed(answer)
        if not isinstance(answer, Rejection) or not self._gateway.recourse.wait_s(answer):
            return None
        if self._tried == self._failed:  # nobody can come back
            return None
        attempt.lose(cause)
        return await self._waited(answer)

    def _note(self, failure: AttemptLostError, attempt: Attempt) -> None:
        replica = attempt.decision.chosen.replica
        if failure.error.overloaded:
            self._gateway.observe(ReplicaBusy(replica, self._gateway.clock(), failure.retry_after_s))
        self._attempts += not failure.unreachable
        self._tried.add(replica)
        if failure.cause is not Cause.CONNECTION:
            self._failed.add(replica)

    def _after(self, tried: set[str]) -> RouteRequest:
        return msgspec.structs.replace(self.asked, tried=frozenset(tried))

    async def _waited(self, rejection: Rejection) -> Placed | None:
        """Where the request goes once a replica is back; None if none came in time."""
        gateway, recourse = self._gateway, self._gateway.recourse
        since = gateway.clock()
        if self._wait_until is None:
            self._wait_until = since + recourse.wait_s(rejection)
        recourse.waiting += 1
        try:
            while gateway.clock() < self._wait_until:
                await asyncio.sleep(recourse.look_s())
                placed = await gateway.placer.place(self._after(self._failed))
                if isinstance(placed.answer, Decision):
                    return Placed(placed.answer, gateway.clock() - since)
                if not recourse.wait_s(placed.answer):
                    return None
        finally:
            recourse.waiting -= 1
        return None


def _crosses(answer: Decision | Rejection) -> bool:
    return isinstance(answer, Decision) and answer.exposure is not None and answer.exposure.crossed
