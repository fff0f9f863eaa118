"""A rolling change: one replica after the other, each compared with before, and taken back where it is worse; does I/O.

It is announced to all workers as commands of the plan, so that there is one at a time; nothing of it outlives the
process: a gateway that starts again finds its replicas in traffic, whatever settings they run with.
"""

import asyncio
from dataclasses import replace
from typing import Final, NoReturn

from engines.advice import prefill_drift
from engines.launch.launcher import Launcher
from engines.reports import PrefillSettings
from gateway.config.prefill import SETTINGS, PrefillConfig
from gateway.prefill.order import next_replica
from gateway.prefill.verdict import ENOUGH, Comparison, compare
from gateway.routing.curves import REFERENCE_CHUNK
from gateway.routing.snapshot import ReplicaView
from gateway.serving.membership.changing import EndChange
from gateway.serving.membership.refusal import PlanError
from gateway.serving.prefill.one_replica import ChangeCancelledError, OneReplica, RefusedError, StoppedError
from gateway.serving.prefill.story import ChangeState, Story
from gateway.serving.prefill.tools import Tools
from gateway.serving.prefill.windows import Watched
from gateway.serving.whole import whole_report

_NOTHING: Final = "every replica runs with these settings already"


class RolledBackError(Exception):
    """A replica was worse with the settings, and has its old ones again; the message says how."""


class BrokenError(Exception):
    """A replica could not be brought back; the message says what is to be done."""


class RollingChange:
    """Brings the replicas of a pool to the settings. `forced`: even the last one of its model is taken."""

    def __init__(self, tools: Tools, story: Story, settings: PrefillSettings, limits: PrefillConfig, *, forced: bool):
        self._tools = tools
        self._story = story
        self._settings = settings
        self._limits = limits
        self._forced = forced

    async def run(self) -> None:
        """To its end, whatever that is."""
        story = self._story
        try:
            await self._roll()
        except ChangeCancelledError as stop:
            await self._end(ChangeState.CANCELLED, str(stop))
        except (StoppedError, BrokenError, PlanError) as stop:
            await self._end(ChangeState.FAILED, str(stop))
        except RolledBackError as stop:
            await self._end(ChangeState.ROLLED_BACK, str(stop))
        except asyncio.CancelledError:
            story.end(ChangeState.FAILED, "the gateway ended meanwhile: look whether all replicas run alike")
            raise
        except Exception:  # the border of a task that nobody waits for: the replica must not stay out of traffic
            await self._end(ChangeState.FAILED, "an error of the gateway's own; its log says more")
            raise

    async def _roll(self) -> None:
        done: set[str] = set()
        while (view := await self._next(done)) is not None:
            done.add(view.name)
            await self._change(view)
        changed = sum(how == "changed" for how in self._story.replicas.values())
        await self._end(ChangeState.DONE, f"{changed} replicas were changed" if changed else _NOTHING)

    async def _next(self, done: set[str]) -> ReplicaView | None:
        """The next replica to change; None when there is no more."""
        gateway, left = self._tools.gateway, []
        for view in (await whole_report(gateway)).snapshot.replicas:
            backend = gateway.backends.get(view.name)
            if view.pool != self._story.pool or view.name in done or backend is None:
                continue
            if prefill_drift(view.prefill_actual, self._settings, backend.dialect.launch_flags):
                self._story.stands(view.name, "to be changed")
                left.append(view)
            else:
                self._story.stands(view.name, "unchanged")
        return next_replica(left) if left else None

    async def _change(self, view: ReplicaView) -> None:
        gateway = self._tools.gateway
        backend = gateway.backends[view.name]
        one = OneReplica(self._tools, self._story, backend, self._limits, self._launcher())
        one.look_for_cancel()
        watched = Watched(gateway, await whole_report(gateway), view)
        old = _old_settings(view.prefill_actual, self._story.before, self._settings)
        if not await one.changed_live(_changed(view.prefill_actual, self._settings)):
            if not one.can_restart:
                flags = " ".join(backend.dialect.launch_flags(self._settings))
                raise StoppedError(f"{one.name} is not ours to restart: do so with {flags}")
            await self._restart(one, old)
        await self._judge(one, view, watched, old)

    async def _restart(self, one: OneReplica, old: PrefillSettings) -> None:
        try:
            await one.spared(forced=self._forced)
            await one.drained()
            await one.restarted(self._settings)
            await one.warmed()
        except RefusedError as refusal:
            self._story.step("refused", str(refusal), one.name)
            await self._take_back(one, old, str(refusal))
        await one.given_back()

    async def _judge(self, one: OneReplica, view: ReplicaView, watched: Watched, old: PrefillSettings) -> None:
        """Keep it, or take it back. Raises RolledBackError."""
        story = self._story
        comparison = await self._compared(one, view, watched)
        if comparison is not None:
            story.comparisons.append(comparison)
            story.step("compare", comparison.sentence, one.name)
        if comparison is None or not comparison.worse:
            story.step("kept", "keeps the new settings", one.name)
            story.stands(one.name, "changed")
            return
        story.step("worse", comparison.worse, one.name)
        one.heeds_cancel = False
        if not await one.changed_live(_changed(self._settings, old)):
            try:
                await one.drained()
            except StoppedError as stop:
                raise StoppedError(f"{comparison.worse}; it keeps that, as {stop}") from stop
            await self._take_back(one, old, comparison.worse)
        story.stands(one.name, "rolled back")
        raise RolledBackError(f"{one.name}: {comparison.worse}")

    async def _compared(self, one: OneReplica, view: ReplicaView, watched: Watched) -> Comparison | None:
        if not self._limits.compare_s:
            return None
        self._story.stands(view.name, "comparing")
        chunks = [chunk for chunk in (view.prefill_actual.chunk_tokens, self._settings.chunk_tokens) if chunk]
        long_tokens = min(chunks, default=REFERENCE_CHUNK)
        long = sum(prefill.uncached_tokens > long_tokens for prefill in watched.before.prefills)
        after = await watched.after(long_tokens, min(long, ENOUGH), self._limits.compare_s, one.is_over)
        return compare(view.name, watched.before, after, long_tokens, self._limits.tolerance)

    async def _take_back(self, one: OneReplica, old: PrefillSettings, why: str) -> NoReturn:
        """Restart it as it was. Raises RolledBackError, or BrokenError where that fails too."""
        self._story.step("roll-back", "gets its old settings again", one.name)
        try:
            await one.restarted(old)
        except RefusedError as refusal:
            self._story.stands(one.name, "broken")
            await one.given_back()
            stands = f"{one.name} IS {one.state.upper()}, and is to be looked at by hand"
            raise BrokenError(f"{stands}: with the new settings {why}; with its old ones {refusal}") from refusal
        await one.warmed()
        await one.given_back()
        self._story.stands(one.name, "rolled back")
        raise RolledBackError(f"{one.name}: {why}")

    async def _end(self, state: ChangeState, reason: str) -> None:
        kept = state is ChangeState.DONE
        try:
            await self._tools.membership.perform(EndChange(self._story.id, kept))
        except PlanError as error:  # it was ended for us
            reason = f"{reason} ({error})"
        self._story.end(state, reason)

    def _launcher(self) -> Launcher | None:
        return self._tools.launching.launcher(self._story.pool)


def _changed(now: PrefillSettings, wished: PrefillSettings) -> PrefillSettings:
    """Of the wish only what is not so already."""
    same = {name: None for name in SETTINGS if getattr(now, name) == getattr(wished, name)}
    return replace(wished, **same)


def _old_settings(actual: PrefillSettings, before: PrefillSettings, wished: PrefillSettings) -> PrefillSettings:
    """What a replica is restarted with to be as it was: what it ran with, where it was or is to be said at all."""
    said = {
        name: getattr(before, name) if getattr(actual, name) is None else getattr(actual, name)
        for name in SETTINGS
        if getattr(before, name) is not None or getattr(wished, name) is not None
    }
    return replace(before, **said)
