"""The warmer: has hot families prefilled at a replica that lost its cache, or elsewhere before one drains; does I/O.

Each is one request of ours: routed and booked as any other, so that predictions stay right, and counted nowhere.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from itertools import count
from typing import Final

import msgspec

from engines.reports import Usage
from gateway.routing.decision import Decision, Held, RouteRequest
from gateway.routing.facts import Fact, Finished, Withdrawn
from gateway.serving.attempting import Sending
from gateway.serving.errand import run_errand
from gateway.serving.failure import AttemptLostError
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.warming.families import HotFamily
from gateway.wire.prefill_only import prefill_only
from gateway.wire.request import parse

AT_ONCE: Final = 2
BUSY_MS: Final = 50.0
"""A replica where a request would wait longer is left to its clients for now."""
LOOK_S: Final = 0.05
PATIENCE_S: Final = 60.0
"""What is not prefilled by then is not needed any more."""
KNOWN_SHARE: Final = 0.8
"""A prompt of which so much is believed to be there needs no prefilling."""

_log: Final = logging.getLogger("prefixgate")

Aim = Callable[[RouteRequest], RouteRequest]


class Warmer:
    """Warms for one process of the gateway, with the families that it has seen."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.warmed = 0
        """Prompts prefilled so far."""
        self._numbers = count(1)
        self._running: dict[str, asyncio.Task[int]] = {}
        gateway.when_restarted = self.restarted

    def restarted(self, backend: Backend) -> None:
        """The replica's cache is empty: fill it, without waiting."""
        if self._gateway.hot is not None and backend.pool in self._gateway.hot.wanted:
            before = self._running.pop(backend.name, None)
            if before is not None:
                before.cancel()
            task = asyncio.get_running_loop().create_task(self.onto(backend))
            self._running[backend.name] = task
            task.add_done_callback(lambda done: self._ended(backend.name, done))

    async def onto(self, backend: Backend) -> int:
        """Have the pool's hot families prefilled there; how many were."""
        name = backend.name
        return await self._warm(
            backend.pool, lambda asked: msgspec.structs.replace(asked, pinned_replica=name, pinned_pool=None)
        )

    async def away_from(self, backend: Backend) -> int:
        """Have them prefilled where their requests will go without this replica; how many were."""
        tried = frozenset({backend.name})
        return await self._warm(
            backend.pool,
            lambda asked: msgspec.structs.replace(asked, tried=tried, pinned_replica=None, pinned_pool=None),
        )

    async def close(self) -> None:
        """Warm no more."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _warm(self, pool: str, aim: Aim) -> int:
        hot, clock = self._gateway.hot, self._gateway.clock
        waiting = deque([] if hot is None else hot.hottest(pool, clock()))
        warmed = 0

        async def work() -> None:
            nonlocal warmed
            while waiting:
                done = await self._prefill(waiting.popleft(), aim)
                warmed += done
                self.warmed += done

        try:
            async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(work())
        except TimeoutError:
            _log.warning("pool %s: %d hot prefixes are not prefilled within %g s", pool, len(waiting), PATIENCE_S)
        return warmed

    async def _prefill(self, family: HotFamily, aim: Aim) -> bool:
        """Whether it was needed, and done."""
        body = prefill_only(family.endpoint, family.body)
        if body is None:
            return False
        decision = await self._decided(family, aim)
        if decision is None:
            return False
        request = parse(family.endpoint, body)
        headers = [(b"content-type", b"application/json")]
        sending = Sending(family.endpoint, headers, body, request, decision.request_id, None, kept=False)
        usage: Usage | None = None

        def observe(fact: Fact) -> None:
            nonlocal usage
            self._gateway.observe(fact)
            if isinstance(fact, Finished):
                usage = fact.usage

        try:
            await run_errand(self._gateway, decision, sending, observe, lambda _: None)
        except AttemptLostError:
            return False
        return usage is not None

    async def _decided(self, family: HotFamily, aim: Aim) -> Decision | None:
        """Where it goes, booked there, once the replica is not busy; None where nobody needs it or can take it."""
        gateway = self._gateway
        name = f"warm-{next(self._numbers)}"
        while True:
            now = gateway.clock()
            plain = msgspec.structs.replace(
                family.asked, request_id=name, accepted_at=now, streams=False, session=None, counted=False
            )
            request = aim(plain)
            seen = gateway.router.preview(request, now)
            if not isinstance(seen, Decision) or _is_known(seen):
                return None
            if seen.chosen.wait_ms <= BUSY_MS:
                break
            await asyncio.sleep(LOOK_S)
        decision = gateway.router.route(request, now)
        if isinstance(decision, Held):
            gateway.observe(Withdrawn(decision.ticket, now))
        return decision if isinstance(decision, Decision) else None

    def _ended(self, replica: str, task: asyncio.Task[int]) -> None:
        if self._running.get(replica) is task:
            del self._running[replica]
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("%s is not warmed, for an error of the gateway's own", replica, exc_info=error)


def _is_known(seen: Decision) -> bool:
    return seen.chosen.overlap.total >= KNOWN_SHARE * seen.chosen.prompt_tokens
