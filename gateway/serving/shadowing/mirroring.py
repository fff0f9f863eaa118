"""Sends copies to their pool while that has nothing better to do, and measures what comes; does I/O.

A copy is a request of ours: routed and booked as any other, so that predictions stay right, counted in no figures but
the shadow's own, and tried once.
"""

import asyncio
import logging
from functools import partial
from itertools import count
from secrets import token_hex
from typing import Any, Final

import msgspec

from gateway.routing.decision import Decision, Held, Priority, RejectionReason, RouteRequest
from gateway.routing.facts import Fact, Finished, Outcome, Withdrawn
from gateway.serving.attempting import Sending
from gateway.serving.errand import run_errand
from gateway.serving.failure import AttemptLostError
from gateway.serving.gateway import Gateway
from gateway.serving.shadowing.mirror import Copied, Mirror
from gateway.serving.shadowing.shadows import Line
from gateway.serving.shadowing.tally import Fate

PATIENCE_S: Final = 5.0
"""A copy that waited longer would meet another load than its request did."""
_UNSERVED: Final = frozenset(
    (RejectionReason.MODEL_NOT_FOUND, RejectionReason.MODEL_REQUIRED, RejectionReason.UNKNOWN_PIN)
)

_log: Final = logging.getLogger("prefixgate")


class Mirroring:
    """The sender of one process's shadows."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._tasks: set[asyncio.Task[Any]] = set()
        self._run = token_hex(4)
        self._numbers = count(1)
        gateway.shadows.sender = self

    def send(self, line: Line) -> None:
        """Begin as many copies as may be in flight."""
        if self._gateway.closing:
            return
        while (mirror := line.next()) is not None:
            line.inflight.add(mirror)
            mirror.task = asyncio.create_task(self._mirror(line, mirror))
            self._tasks.add(mirror.task)
            mirror.task.add_done_callback(partial(self._ended, line, mirror))

    def settle(self, line: Line, mirror: Mirror) -> None:
        """Count the pair; texts are compared beside, as reading them takes a while."""
        if mirror.own.outcome is not Outcome.COMPLETED or mirror.copy.outcome is not Outcome.COMPLETED:
            return
        line.tally.pair(mirror.own, mirror.copy)
        if mirror.own_said is not None:
            task = asyncio.create_task(self._compare(line, mirror))
            self._tasks.add(task)
            task.add_done_callback(self._compared)

    async def close(self) -> None:
        """Send no more, and break off what is in flight."""
        self._gateway.shadows.sender = None
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _mirror(self, line: Line, mirror: Mirror) -> None:
        """One copy, from its turn to its end."""
        copied, mirror.copied = mirror.copied, None
        if copied is None or self._gateway.clock() - mirror.offered_at > PATIENCE_S:
            line.tally.count(Fate.DROPPED_FULL)
            return
        placed = self._placed(line, copied)
        if not isinstance(placed, Decision):
            line.tally.count(placed)
            return
        if mirror.copy_said is not None and not _is_greedy(copied.body):
            mirror.copy_said = mirror.own_said = None  # two samples differ by chance
        line.tally.count(Fate.MIRRORED)

        def observe(fact: Fact) -> None:
            self._gateway.observe(fact)
            mirror.copy_learn(fact)
            if isinstance(fact, Finished) and mirror.copy.ttft_s is not None:
                line.tally.first_token(mirror.copy.ttft_s)

        sending = Sending(
            copied.endpoint, copied.headers, copied.body, copied.request, placed.request_id, copied.visit, kept=False
        )
        said, fate = mirror.copy_said, Fate.ABANDONED
        try:
            await run_errand(self._gateway, placed, sending, observe, _nowhere if said is None else said.add)
            fate = Fate.COMPLETED
        except AttemptLostError:
            fate = Fate.FAILED
        finally:
            line.tally.count(fate)

    def _placed(self, line: Line, copied: Copied) -> Decision | Fate:
        """Where it goes, booked there; or why it does not."""
        gateway = self._gateway
        router, now = gateway.router, gateway.clock()
        if router.holds or not router.has_room(line.config.to):
            return Fate.DROPPED_BUSY
        request = self._as_routed(line, copied.asked, now)
        seen = router.preview(request, now)
        if not isinstance(seen, Decision):
            return Fate.DROPPED_UNSERVED if seen.reason in _UNSERVED else Fate.DROPPED_BUSY
        decision = router.route(request, now)
        if isinstance(decision, Held):
            gateway.observe(Withdrawn(decision.ticket, now))
        return decision if isinstance(decision, Decision) else Fate.DROPPED_BUSY

    def _as_routed(self, line: Line, asked: RouteRequest, now: float) -> RouteRequest:
        return msgspec.structs.replace(
            asked,
            request_id=f"shadow-{self._run}-{next(self._numbers)}",
            accepted_at=now,
            pinned_pool=line.config.to,
            priority=Priority.BATCH,
            deadline_s=None,
            counted=False,
        )

    async def _compare(self, line: Line, mirror: Mirror) -> None:
        texts = await asyncio.to_thread(mirror.texts)
        if texts is not None:
            line.tally.texts(*texts)

    def _ended(self, line: Line, mirror: Mirror, task: asyncio.Task[None]) -> None:
        line.inflight.discard(mirror)
        self._compared(task)
        for current in self._gateway.shadows.lines:  # a reload may have put another in its place
            self.send(current)

    def _compared(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a copy failed, for an error of the gateway's own", exc_info=error)


def _nowhere(_: bytes) -> None:
    """Where answers go that nobody compares."""


class _Sampling(msgspec.Struct):
    temperature: Any = None


def _is_greedy(body: bytes) -> bool:
    """Whether a second answer should be the same."""
    try:
        return bool(msgspec.json.decode(body, type=_Sampling).temperature == 0)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False
