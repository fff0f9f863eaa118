"""What a change does to one replica: out of traffic, other settings, up again, warmed, back in traffic; does I/O."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Final

from engines.advice import prefill_drift
from engines.launch.launcher import Launcher, LaunchError, ProcessState
from engines.reports import EngineDescription, PrefillSettings
from gateway.config.prefill import SETTINGS, PrefillConfig
from gateway.prefill.order import open_beside, others_up
from gateway.routing.snapshot import ReplicaView
from gateway.serving.engine_client import EngineGoneError
from gateway.serving.gateway import Backend
from gateway.serving.membership.changing import GiveBack, TakeReplica
from gateway.serving.prefill.story import Story
from gateway.serving.prefill.tools import Tools
from gateway.serving.prefill.windows import view_of
from gateway.serving.whole import whole_report

LOOK_S: Final = 0.2
_CALL_S: Final = 10.0
_MOST_ANSWER_BYTES: Final = 1 << 16


class StoppedError(Exception):
    """The change does not go on, and the replica is as it was; the message says why."""


class ChangeCancelledError(StoppedError):
    """Somebody cancelled the change."""


class RefusedError(Exception):
    """The replica did not take the settings; the message says how it failed."""


class OneReplica:
    """One replica in the hands of a change. Every wait is bounded by the pool's `[pools.prefill]`."""

    def __init__(self, tools: Tools, story: Story, backend: Backend, limits: PrefillConfig, launcher: Launcher | None):
        self.name = backend.name
        self._tools = tools
        self._story = story
        self._backend = backend
        self._limits = limits
        self._launcher = launcher
        self.heeds_cancel = True
        """Off once there is something to be taken back."""

    @property
    def can_restart(self) -> bool:
        """Whether somebody here can."""
        return self._launcher is not None and self._launcher.can_restart

    # ── settings ─────────────────────────────────────────────────────────────────────────────────

    async def changed_live(self, settings: PrefillSettings) -> bool:
        """Whether the engine took the settings while it runs, and says that it has them now."""
        call = self._backend.dialect.prefill_call(settings)
        if call is None:
            return False
        headers = [(b"content-type", b"application/json"), *self._backend.credentials]
        engines = self._tools.gateway.engines
        try:
            async with asyncio.timeout(_CALL_S):
                response = await engines.send(self._backend.url, call.method, call.path, headers, call.body)
                body = await response.body(_MOST_ANSWER_BYTES)
        except (EngineGoneError, TimeoutError):
            return False
        took = self._backend.dialect.took_prefill(response.status, body)
        described = await self._tools.poller.described(self.name) if took else None
        if described is None or self.drift(described.prefill, settings):
            return False
        self._say("set", f"took {call.path} while it runs, and says so")
        self._tools.poller.describe_soon(self.name)
        await self._tools.poller.look_at(self.name)
        return True

    async def restarted(self, settings: PrefillSettings) -> None:
        """Restart it with the settings, and wait until it is up and says that it has them. Raises RefusedError."""
        flags = " ".join(self._backend.dialect.launch_flags(settings)) or "the engine's own settings"
        self._say("restart", f"is restarted with {flags}", "restarting")
        launcher = self._launcher
        if launcher is None:
            raise RefusedError(f"nobody here can restart it: do so with {flags}")
        try:
            await launcher.restart(self._tools.launching.spec(self.name, settings))
        except LaunchError as error:
            raise RefusedError(f"it cannot be restarted: {error}") from error
        self._tools.poller.restarting(self.name, "it is restarted with other prefill settings")
        try:
            async with asyncio.timeout(self._limits.start_s):
                await self._until_up(launcher, settings)
        except TimeoutError as error:
            raise RefusedError(f"it did not come up within {self._limits.start_s:g} s") from error

    async def _until_up(self, launcher: Launcher, settings: PrefillSettings) -> None:
        await self._until(lambda: self._is_up(launcher, settings))
        await self._until(self._is_up_for_us)
        self._say("up", f"is up with {self._running()}", "up")

    async def _is_up(self, launcher: Launcher, settings: PrefillSettings) -> bool:
        """Whether the new process answers and says that it has the settings. Raises RefusedError where it never will.

        One that says something else may be the old process, where a launcher only asks for the new one: then
        `start_s` is the limit.
        """
        try:
            process = await launcher.view(self.name)
        except LaunchError as error:
            raise RefusedError(f"its launcher does not answer: {error}") from error
        if process.state in (ProcessState.BACKOFF, ProcessState.FAILED, ProcessState.STOPPED):
            raise RefusedError(f"it refused to start: {process.reason or process.state}")
        described = await self._tools.poller.described(self.name)
        if described is None:
            return False
        drift = self.drift(_believing(described, settings), settings)
        if drift and process.pid is not None:
            raise RefusedError(f"it came up, but {'; '.join(drift)}")
        return not drift

    async def _is_up_for_us(self) -> bool:
        await self._tools.poller.look_at(self.name)
        return self.state in ("up", "draining")

    def drift(self, actual: PrefillSettings, wished: PrefillSettings) -> tuple[str, ...]:
        """How what it runs differs from the wish."""
        return prefill_drift(actual, wished, self._backend.dialect.launch_flags)

    # ── traffic ──────────────────────────────────────────────────────────────────────────────────

    async def spared(self, *, forced: bool) -> None:
        """Wait until its model can spare it. Raises StoppedError."""
        least = 0 if forced else self._limits.min_up
        said = False

        async def is_spared() -> bool:
            nonlocal said
            report = await whole_report(self._tools.gateway)
            view = view_of(report, self.name)
            up = 0 if view is None else others_up(self._beside(report.snapshot.replicas), view)
            if up < least and not said:
                said = True
                self._say("wait", f"waits until {least} others of its model are up ({up} now)", "waiting")
            return up >= least

        try:
            async with asyncio.timeout(self._limits.start_s):
                await self._until(is_spared, stops=True)
        except TimeoutError as error:
            raise StoppedError(
                f"{self.name} cannot be spared: fewer than {least} others of its model are up"
            ) from error

    def _beside(self, replicas: Iterable[ReplicaView]) -> list[ReplicaView]:
        apart = [pool.name for pool in self._tools.membership.plan.config.pools if pool.pinned_only]
        return open_beside(replicas, self._backend.pool, apart)

    async def drained(self) -> None:
        """Take it out of traffic, and wait until its requests are over. Raises StoppedError."""
        warmed = await self._tools.warmer.away_from(self._backend)
        await self._tools.membership.perform(TakeReplica(self._story.id, self.name))
        handed = f"; {warmed} hot prefixes were prefilled elsewhere" if warmed else ""
        self._say("drain", f"takes no new requests{handed}", "draining")
        try:
            async with asyncio.timeout(self._limits.drain_s):
                await self._until(self._is_idle, stops=True)
        except TimeoutError as error:
            raise StoppedError(
                f"{self.name} still has requests after {self._limits.drain_s:g} s, and is left as it is"
            ) from error

    async def _is_idle(self) -> bool:
        """Whether no request is there: of any worker of ours, nor, by its own word, of anybody else."""
        view = view_of(await whole_report(self._tools.gateway), self.name)
        if view is None or view.state == "down":
            return True
        return not view.inflight and not view.peers_inflight and not view.report.running_requests

    async def warmed(self) -> None:
        """Prefill its pool's hottest prefixes there."""
        self._story.stands(self.name, "warming")
        count = await self._tools.warmer.onto(self._backend)
        if count:
            self._say("warm", f"{count} hot prefixes were prefilled there")

    async def given_back(self) -> None:
        """Back to how it was before: in traffic, unless an operator had drained it."""
        await self._tools.membership.perform(GiveBack(self._story.id))
        self._say("resume", "takes requests again" if self.state == "up" else f"is {self.state}", "back")

    # ── waiting ──────────────────────────────────────────────────────────────────────────────────

    def look_for_cancel(self) -> None:
        """Raises ChangeCancelledError, or StoppedError where the replica or the whole change is gone."""
        plan = self._tools.membership.plan
        if plan.change is None or plan.change.id != self._story.id:
            raise StoppedError("the change was ended from outside")
        if plan.member(self.name) is None:
            raise StoppedError(f"{self.name} was removed meanwhile")
        if plan.change.cancelled and self.heeds_cancel:
            raise ChangeCancelledError("it was cancelled")

    def is_over(self) -> bool:
        """Whether the change is to wait for nothing more."""
        plan = self._tools.membership.plan
        return plan.change is None or plan.change.cancelled or plan.member(self.name) is None

    async def _until(self, condition: Callable[[], Awaitable[bool]], *, stops: bool = False) -> None:
        while not await condition():
            if stops:
                self.look_for_cancel()
            await asyncio.sleep(LOOK_S)

    def _view_state(self) -> tuple[str, PrefillSettings] | None:
        replicas = self._tools.gateway.snapshot().replicas
        return next(((one.state, one.prefill_actual) for one in replicas if one.name == self.name), None)

    @property
    def state(self) -> str:
        """How the router sees it, in a word."""
        seen = self._view_state()
        return "removed" if seen is None else seen[0]

    def _running(self) -> str:
        seen = self._view_state()
        chunk = None if seen is None else seen[1].chunk_tokens
        return "settings that it does not say" if chunk is None else f"a chunk of {chunk:,}"

    def _say(self, what: str, said: str, stands: str | None = None) -> None:
        self._story.step(what, said, self.name)
        if stands is not None:
            self._story.stands(self.name, stands)


def _believing(described: EngineDescription, settings: PrefillSettings) -> PrefillSettings:
    """What it says; of what it does not say, that it is as it was started."""
    silent = {name: getattr(settings, name) for name in SETTINGS if getattr(described.prefill, name) is None}
    return replace(described.prefill, **silent)
