"""Polling: each replica's health, models, set-up and load, turned into facts; its event feeds; does I/O."""

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

import httpx

from engines.cache_events import EventSource
from engines.reports import EngineDescription, LoadReport
from gateway.config import Config
from gateway.config.routing import PollingConfig
from gateway.routing.facts import CacheReset, LoadReported, ReplicaDown, ReplicaUp
from gateway.serving.damping import Damping
from gateway.serving.discovery.configured import discovered
from gateway.serving.events.silence import Silence
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.poll_clients import PollClients
from gateway.serving.prefill.launching import ConfiguredLaunching, commands_of

_log: Final = logging.getLogger("prefixgate")

DESCRIBE_EVERY: Final = 30
"""Polls between two looks at a replica's models and set-up."""


class Poller:
    """One task per replica that looks at it for as long as the gateway runs."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        polling = gateway.config.polling
        self._clients = PollClients(gateway.tls, polling.timeout_s)
        self._watches = {name: self._watch_of(one) for name, one in gateway.backends.items()}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def start(self) -> None:
        """Look at every replica once, then go on in the background."""
        await self.look()
        for name, watch in self._watches.items():
            self._watch(name, watch.run())

    async def look(self) -> None:
        """Look at every replica once."""
        await asyncio.gather(*(watch.look() for watch in self._watches.values()))

    def add(self, backend: Backend) -> None:
        """Look at one more replica from now on."""
        watch = self._watches[backend.name] = self._watch_of(backend)
        self._watch(backend.name, watch.begin())

    def describe_soon(self, replica: str) -> None:
        """With the next look at it, also look at its set-up."""
        if replica in self._watches:
            self._watches[replica].describe_soon()

    def restarting(self, replica: str, reason: str) -> None:
        """Its process is being replaced by us: it is down until a look finds it well, and then it is a new one."""
        if replica in self._watches:
            self._watches[replica].restarting(reason)

    async def look_at(self, replica: str) -> None:
        """Look at it now, beside the looks at their time."""
        if replica in self._watches:
            await self._watches[replica].look()

    async def described(self, replica: str) -> EngineDescription | None:
        """What it says of its set-up now; None while it does not answer. Nothing is concluded from it."""
        watch = self._watches.get(replica)
        return None if watch is None else await watch.described()

    async def drop(self, replica: str) -> None:
        """Look no more at one that was removed."""
        del self._watches[replica]
        task = self._tasks.pop(replica)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    def configure(self, polling: PollingConfig) -> None:
        """Look as often, and as patiently, as is configured now."""
        self._clients.configure(polling.timeout_s)

    async def stop(self) -> None:
        """End all looking."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._clients.aclose()

    def _watch_of(self, backend: Backend) -> "_Watch":
        return _Watch(self._gateway, self._clients.of(backend.pool), backend)

    def _watch(self, replica: str, watching: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[replica] = asyncio.create_task(watching)
        task.add_done_callback(_say_why)


def _say_why(task: asyncio.Task[None]) -> None:
    """A watch ends only when it is stopped; anything else is a bug of ours, and must be seen."""
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("a replica is no longer polled", exc_info=error)


@asynccontextmanager
async def looked_once(config: Config) -> AsyncIterator[Gateway]:
    """A gateway that serves nobody and has looked at every replica once, for commands that only ask.

    Raises ConfigError where replicas cannot be discovered.
    """
    gateway = Gateway(config, plan=await discovered(config))
    launching = ConfiguredLaunching(gateway)
    gateway.command_of = commands_of(launching)
    poller = Poller(gateway)
    try:
        await poller.look()
        yield gateway
    finally:
        await poller.stop()
        await launching.close()
        await gateway.close()


class _Ailment(NamedTuple):
    """Why a replica is unusable, in a few words; `certain` where one look leaves no doubt."""

    reason: str
    certain: bool = False


class _Watch:
    """What is remembered of one replica between two looks."""

    def __init__(self, gateway: Gateway, client: httpx.AsyncClient, backend: Backend) -> None:
        self._gateway = gateway
        self._client = client
        self._backend = backend
        self._looks_until_description = 0
        self._before = LoadReport()
        self._was_down = False
        self._damping = Damping(gateway.config.health.down_after)
        self._absent: set[str] = set()
        self._sources: tuple[EventSource, ...] = ()
        self._silence = Silence()
        self._resets: int | None = None
        """How often the cache was told to drop itself."""
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """For one that was not there when all were looked at first."""
        await self.look()
        await self.run()

    async def run(self) -> None:
        while True:
            await self._gateway.feeds.update(self._backend, self._sources)
            await asyncio.sleep(self._gateway.config.polling.interval_s)
            await self.look()

    def describe_soon(self) -> None:
        self._looks_until_description = 0

    def restarting(self, reason: str) -> None:
        self._damping = Damping(self._gateway.config.health.down_after)  # it does not flap: that was us
        self._looks_until_description = 0
        self._absent.clear()
        self._was_down = True
        self._gateway.observe(ReplicaDown(self._backend.name, self._gateway.clock(), reason))

    async def described(self) -> EngineDescription | None:
        if await self._ailment() is not None:
            return None
        dialect = self._backend.dialect
        pages = await self._pages(dialect.description_paths)
        return await self._gateway.described(self._backend, pages)

    async def look(self) -> None:
        """One poll: up or down, now and then models and set-up, and the load."""
        async with self._turn:
            await self._look()

    async def _look(self) -> None:
        backend, gateway = self._backend, self._gateway
        now = gateway.clock()
        if backend.name in gateway.suspects:
            self._damping.down(now)
        ailment = await self._ailment()
        if not self._damping.look(now, well=ailment is None, at_once=ailment is not None and ailment.certain):
            reason = "it answers again, and is watched for a while as it was up and down"
            reason = reason if ailment is None else ailment.reason
            self._looks_until_description = 0
            self._absent.clear()
            self._was_down = True
            gateway.observe(ReplicaDown(backend.name, gateway.clock(), reason))
            return
        if ailment is not None:
            return  # not yet taken to be down
        if self._looks_until_description <= 0 or backend.name in gateway.suspects:
            gateway.suspects.discard(backend.name)
            await self._describe()
            self._looks_until_description = DESCRIBE_EVERY
        self._looks_until_description -= 1
        report = backend.dialect.read_load(await self._pages(backend.dialect.load_paths))
        if _restarted(self._before, report, was_down=self._was_down):
            gateway.restarted(backend)
            self._looks_until_description = 0
            self._absent.clear()
            self._resets = None
        if _is_stirring(self._before, report):
            gateway.feeds.stir(backend.name)
        if self._silence.observe(report, gateway.feeds.messages(backend.name)):
            gateway.feeds.missed(backend.name)
        self._look_for_a_reset(report)
        self._before, self._was_down = report, False
        gateway.observe(LoadReported(backend.name, gateway.clock(), report))

    async def _describe(self) -> None:
        backend, gateway = self._backend, self._gateway
        pages = await self._pages((backend.dialect.models_path, *backend.dialect.description_paths))
        models = backend.dialect.read_models(pages.get(backend.dialect.models_path, b""))
        self._sources = backend.dialect.read_event_sources(pages)
        described = await gateway.described(backend, pages)
        gateway.observe(ReplicaUp(backend.name, gateway.clock(), models, described))
        await gateway.compare_tokens(backend, models[0].id if models else None)

    def _look_for_a_reset(self, report: LoadReport) -> None:
        """Say so when somebody told the engine to drop its cache. A look that failed does not hide it."""
        if report.cache_resets_total is None:
            return
        if self._resets is not None and report.cache_resets_total > self._resets:
            self._gateway.observe(CacheReset(self._backend.name, self._gateway.clock()))
        self._resets = report.cache_resets_total

    async def _ailment(self) -> _Ailment | None:
        """Why the replica is unusable; None when it is well."""
        path = self._backend.dialect.health_path
        try:
            response = await self._get(path)
        except httpx.TimeoutException:
            return _Ailment(f"GET {path} was not answered in time")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            certain = isinstance(error, httpx.ConnectError)
            return _Ailment(f"GET {path} failed: {error or type(error).__name__}", certain)
        if response.status_code in (401, 403):
            return _Ailment(f"GET {path} answered {response.status_code}: set api_key_env for this pool", certain=True)
        return None if response.status_code == 200 else _Ailment(f"GET {path} answered {response.status_code}")

    async def _pages(self, paths: Sequence[str]) -> dict[str, bytes]:
        pages = {}
        for path in paths:
            if path in self._absent:
                continue
            try:
                response = await self._get(path)
            except (httpx.HTTPError, httpx.InvalidURL):
                continue
            if response.status_code == 200:
                pages[path] = response.content
            elif response.status_code == 404:  # not asked for again until the replica comes back: engines log it
                self._absent.add(path)
        return pages

    async def _get(self, path: str) -> httpx.Response:
        headers = dict(self._backend.credentials)
        return await self._client.get(self._backend.url + path, headers=headers)


def _restarted(before: LoadReport, now: LoadReport, *, was_down: bool) -> bool:
    """A later start, or counters that went back: a new process with an empty cache.

    Of an engine that says neither (SGLang without --enable-metrics), one that was down is taken for a new one.
    """
    if before.started_at is not None and now.started_at is not None:
        return now.started_at > before.started_at + 1.0
    if before.prompt_tokens_total is not None and now.prompt_tokens_total is not None:
        return now.prompt_tokens_total < before.prompt_tokens_total
    return was_down


def _is_stirring(before: LoadReport, now: LoadReport) -> bool:
    """Whether the replica may have stored or dropped anything since: it works, its figures moved, or it has none."""
    return now.prompt_tokens_total is None or bool(now.running_requests) or now != before
