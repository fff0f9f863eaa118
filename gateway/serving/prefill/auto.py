"""Advice that is followed by itself, in pools that say `auto`; in one process only; does I/O."""

import asyncio
import logging
from dataclasses import replace
from typing import Final

from gateway.config.pools import PoolConfig
from gateway.prefill.advice import Advice, advise
from gateway.prefill.controller import Bounds, Controller
from gateway.serving.gateway import Gateway
from gateway.serving.membership.refusal import PlanError
from gateway.serving.prefill.changes import Changes
from gateway.serving.prefill.story import ChangeState, Story

LOOK_S: Final = 10.0

_log: Final = logging.getLogger("prefixgate")


class Auto:
    """Looks at the advice now and then; of several workers only the first one does."""

    def __init__(self, gateway: Gateway, changes: Changes, look_s: float = LOOK_S) -> None:
        self._gateway = gateway
        self._changes = changes
        self._look_s = look_s
        self._controllers: dict[str, Controller] = {}
        self._followed: tuple[Story, int] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to look."""
        siblings = self._gateway.siblings
        if siblings is None or siblings.number == 0:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(self._look_s)
            try:
                await self.look()
            except Exception:  # the border: a bug here must not end the looking, nor stay unseen
                _log.exception("advice on prefill settings is not followed, for an error of the gateway's own")

    async def look(self) -> None:
        """Look once, and begin a change where one is due."""
        now = self._gateway.clock()
        self._learn(now)
        pools = [pool for pool in self._gateway.config.pools if pool.prefill.auto]
        snapshot = self._gateway.snapshot() if pools else None
        for pool in pools:
            if snapshot is not None:
                await self._follow(pool, advise(snapshot, pool.name), now)

    def _learn(self, now: float) -> None:
        """What became of the change that was begun last."""
        if self._followed is None or self._followed[0].state is ChangeState.RUNNING:
            return
        story, chunk = self._followed
        self._followed = None
        if story.state is not ChangeState.DONE:
            self._controllers[story.pool].refused(chunk, now)

    async def _follow(self, pool: PoolConfig, advice: Advice, now: float) -> None:
        prefill = pool.prefill
        bounds = Bounds(prefill.auto_min, prefill.auto_max, prefill.auto_hold_s, prefill.auto_per_day)
        controller = self._controllers.setdefault(pool.name, Controller())
        chunk = controller.look(advice, bounds, now)
        if chunk is None or self._followed is not None:
            return
        settings = replace(prefill.settings(), chunk_tokens=chunk)
        try:
            story = await self._changes.begin(pool.name, settings, why=f"advice is followed: {advice.sentence}")
        except PlanError as error:
            _log.warning("pool %s: advice is not followed: %s", pool.name, error)
            controller.refused(chunk, now)
            return
        self._followed = story, chunk
        controller.began(now)
