"""Changes of prefill settings: begun one at a time, cancelled, remembered; does I/O."""

import asyncio
import logging
import secrets
from collections import deque
from typing import Final

from engines.advice import impossible_prefill, prefill_drift
from engines.registry import dialect
from engines.reports import PrefillSettings
from gateway.config.prefill import PrefillConfig
from gateway.prefill.order import open_beside, others_known
from gateway.routing.snapshot import ReplicaView
from gateway.serving.membership.changing import BeginChange, CancelChange
from gateway.serving.membership.refusal import PlanError
from gateway.serving.prefill.rolling import RollingChange
from gateway.serving.prefill.story import REMEMBERED, ChangeView, Story
from gateway.serving.prefill.tools import Tools
from gateway.serving.whole import whole_report

_log: Final = logging.getLogger("prefixgate")


class Changes:
    """Of all pools, as far as this process makes them."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools
        self._stories: deque[Story] = deque(maxlen=REMEMBERED)
        self._running: asyncio.Task[None] | None = None
        tools.gateway.changes = self.views

    async def begin(
        self,
        pool: str,
        settings: PrefillSettings,
        *,
        experiment: str | None = None,
        forced: bool = False,
        why: str = "",
    ) -> Story:
        """Begin to bring the pool to the settings. Raises PlanError where that cannot be, with nothing done."""
        limits = await self._checked(pool, settings, forced=forced)
        siblings = self._tools.gateway.siblings
        name = f"change-{secrets.token_hex(4)}"
        await self._tools.membership.perform(
            BeginChange(name, pool, 0 if siblings is None else siblings.number, settings)
        )
        before = limits.settings()
        story = Story(name, pool, settings, before, experiment)
        what = f"{said(before)} → {said(settings)}" if before != settings else f"is brought to {said(settings)}"
        story.step("begin", f"pool {pool}: {what}{f': {why}' if why else ''}")
        if experiment is not None:
            story.step("experiment", f"is recorded as {experiment}")
        self._stories.append(story)
        rolling = RollingChange(self._tools, story, settings, limits, forced=forced)
        self._running = asyncio.get_running_loop().create_task(rolling.run())
        self._running.add_done_callback(_say_why)
        return story

    async def cancel(self, pool: str) -> str:
        """Have the pool's change stop, whichever process makes it; its id. Raises PlanError."""
        change = self._tools.membership.plan.change
        if change is None or change.pool != pool:
            raise PlanError(f"no change of the pool `{pool}` runs", 409, "no_change_runs")
        await self._tools.membership.perform(CancelChange(change.id))
        return change.id

    def views(self) -> tuple[ChangeView, ...]:
        """Those that this process made, the oldest first."""
        return tuple(story.view() for story in self._stories)

    async def close(self) -> None:
        """Wait for none any more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)

    async def _checked(self, name: str, settings: PrefillSettings, *, forced: bool) -> PrefillConfig:
        pool = self._tools.membership.plan.pool(name)
        if pool is None:
            raise PlanError(f"there is no pool `{name}`", 404, "pool_not_found")
        kind = dialect(pool.engine)
        impossible = impossible_prefill(pool.engine, settings, kind.launch_flags)
        if impossible:
            raise PlanError("; ".join(impossible), 400, "no_such_setting")
        replicas = (await whole_report(self._tools.gateway)).snapshot.replicas
        drifted = [
            one
            for one in replicas
            if one.pool == name and prefill_drift(one.prefill_actual, settings, kind.launch_flags)
        ]
        launcher = self._tools.launching.launcher(name)
        restarts = launcher is not None and launcher.can_restart
        if drifted and not restarts and kind.prefill_call(settings) is None:
            flags = " ".join(kind.launch_flags(settings))
            raise PlanError(
                f"the pool `{name}` has no launcher that restarts its replicas: set [pools.launch], or write the wish "
                f"in the file and restart them with {flags}",
                409,
                "no_launcher",
            )
        if restarts and not forced:
            apart = [one.name for one in self._tools.membership.plan.config.pools if one.pinned_only]
            _check_floor(drifted, open_beside(replicas, name, apart), pool.prefill.min_up)
        return pool.prefill


def _check_floor(drifted: list[ReplicaView], replicas: list[ReplicaView], min_up: int) -> None:
    for one in drifted:
        others = others_known(replicas, one)
        if others < min_up:
            raise PlanError(
                f"while {one.name} is restarted {min_up} other replicas of its model are to be up, and there are "
                f"{others}: ?force=true restarts it all the same, and its requests wait or are refused meanwhile",
                409,
                "last_replica",
            )


def said(settings: PrefillSettings) -> str:
    """The settings in a few words."""
    words = {
        "chunk": settings.chunk_tokens,
        "long-prefill threshold": settings.long_prefill_threshold,
        "max prefill tokens": settings.max_prefill_tokens,
        "mixed chunk": settings.mixed_chunk,
    }
    return ", ".join(f"{word} {value}" for word, value in words.items() if value is not None) or "the engine's own"


def _say_why(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a change of prefill settings failed inside the gateway", exc_info=error)
