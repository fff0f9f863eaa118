"""The running gateway's parts, put together once: config, router, engine connections, dialects; does I/O."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import msgspec

from engines.dialect import Dialect, Pages
from engines.registry import dialect
from engines.reports import EngineCall, EngineDescription
from gateway.config import Config
from gateway.config.launch_specs import event_ports
from gateway.config.prefill import SETTINGS
from gateway.journal.entry import Entry
from gateway.routing.facts import Fact, ReplicaDown, ReplicaRestarted
from gateway.routing.queue_limits import QueueLimits
from gateway.routing.router import Router
from gateway.routing.snapshot import ReplicaView, Snapshot
from gateway.serving.access import cache_secret, configured_tenancy, renewed_tenancy
from gateway.serving.admission import unsalted_endpoints
from gateway.serving.chains import Chains, text_chain, token_chains
from gateway.serving.engine_client import EngineClient, EngineGoneError, TimeLimits
from gateway.serving.events.feeds import EventFeeds
from gateway.serving.experiments.running import Experiments
from gateway.serving.headers import HeaderList
from gateway.serving.history.history import History
from gateway.serving.journal import Journal
from gateway.serving.membership.member import Member
from gateway.serving.membership.plan import Plan, first_plan
from gateway.serving.placing import Placer
from gateway.serving.prefill.story import ChangeState, ChangeView
from gateway.serving.prefixes.sampler import Sampler
from gateway.serving.recourse import Recourse
from gateway.serving.request_log import RequestLog
from gateway.serving.shadowing.shadows import Shadows
from gateway.serving.sharing.channel import Channel
from gateway.serving.sharing.sharer import Sharer
from gateway.serving.tls import EngineTls
from gateway.serving.tokenise.calls import Site
from gateway.serving.tokenise.tokenisers import Tokenisers
from gateway.serving.tracing.tracing import configured_tracing
from gateway.serving.warming.families import WHILE_CHANGING, HotFamilies, wanted_families
from gateway.serving.workers.siblings import Siblings
from gateway.wire.request import InferenceRequest

ABORT_BODY_BYTES = 1 << 20
EVENTS_FLAG = "--kv-events-config"


class Backend(msgspec.Struct, frozen=True):
    """What serving needs of a replica beside the router's view. `credentials` are headers, never shown."""

    name: str
    pool: str
    url: str
    dialect: Dialect
    credentials: HeaderList


class Gateway:
    """Everything that one gateway process shares between its requests."""

    def __init__(
        self,
        config: Config,
        *,
        seed: int | None = None,
        journal: Journal | None = None,
        siblings: Siblings | None = None,
        plan: Plan | None = None,
        store: Path | None = None,
    ) -> None:
        """`plan` is what a worker that joins late begins with; without it, the replicas are the file's.

        `store` is the file of what is observed of experiments; None: nothing is kept.
        """
        plan = plan or first_plan(config)
        self.config = config
        self.journal = journal
        self.history: History | None = None
        """Figures of the past; None: they are not kept."""
        self.log = None if config.log.requests == "none" else RequestLog(everything=config.log.requests == "all")
        """Where requests are told of as they end; None: nowhere."""
        self.tracing = configured_tracing(config.tracing)
        """What makes traces of requests; None where nobody wants any."""
        self.siblings = siblings
        """The other workers; None where this process is the only one."""
        self.started_at = time.time() if siblings is None else siblings.started_at
        self.clock = time.monotonic
        self.epoch = time.time() - self.clock()
        """When our clock was at 0, in seconds since the Unix epoch."""
        routing = config.routing
        self.router = Router(
            plan.specs(),
            policy=routing.policy,
            rng=Random(seed),
            block_bytes=routing.block_bytes,
            hold_ms=routing.hold_ms,
            health=config.health.rules(),
            queue=_queue_limits(config),
        )
        self.experiments = Experiments(self.router, self.clock, store)
        self.experiments.follow(plan.trials, config.pools, plan.members)
        self.shadows = Shadows(self.clock, Random(seed))
        self.shadows.configure(config.shadows)
        self.placer = Placer(self.router, self.clock)
        self.recourse = Recourse(config.retry, routing.max_attempts, Random(seed))
        self.tls = EngineTls(config.pools)
        limits = config.timeouts
        times = TimeLimits(limits.connect_s, limits.first_byte_s, limits.idle_s, limits.total_s)
        self.engines = EngineClient(times, self.tls.of_url)
        self.backends = {member.name: self.backend_of(member) for member in plan.members}
        self.cache_secret = cache_secret(config)
        self.tenancy = configured_tenancy(config, self.cache_secret)
        """Who may come in; None where everybody may."""
        self.unsalted = unsalted_endpoints(backend.dialect for backend in self.backends.values())
        self.tokenisers = Tokenisers(config, self.engines, self._sites)
        self.feeds = EventFeeds(config, self.observe, self.clock)
        self.models = {pool.name: pool.model for pool in config.pools}
        self._encodings = {pool.name: pool.encoding for pool in config.pools}
        self.token_differences: dict[str, list[str]] = {}
        """By replica: how its tokens of a sample differ from ours."""
        self.live_ids: set[str] = set()
        self.suspects: set[str] = set()
        """Replicas that are down by a request's word, not by the poller's."""
        self.discovery_notices: dict[str, list[str]] = {}
        """By pool: why its replicas are not all that were discovered, or no longer are."""
        self.sampler = Sampler()
        """What some of the prompts have in common."""
        self.hot: HotFamilies | None = None
        """The prompts to be prefilled after a restart; None where no pool wants that."""
        self._hot_pool: str | None = None
        self._renew_hot()
        self.command_of: Callable[[Backend], Awaitable[tuple[str, ...]]] = _no_command
        """The command line that a replica's process runs as, by its launcher's word; () where nobody knows."""
        self.when_restarted: Callable[[Backend], None] = lambda _: None
        """Told of each replica whose process is a new one."""
        self.changes: Callable[[], tuple[ChangeView, ...]] = tuple
        """Changes of prefill settings that this process makes, or made."""
        self.closing = False
        self.shown: tuple[float, asyncio.Task[bytes]] | None = None
        """What all who watch live are sent, and when it was asked for."""
        self.sharer: Sharer | None = None
        """What tells other gateways; None where there are none."""
        self._background: set[asyncio.Task[None]] = set()

    def backend_of(self, member: Member) -> Backend:
        """What serving needs of the replica."""
        pool = next(pool for pool in self.config.pools if pool.name == member.pool)
        key = os.environ.get(pool.api_key_env, "").strip() if pool.api_key_env else ""
        credentials: HeaderList = [(b"authorization", b"Bearer " + key.encode())] if key else []
        self.tls.learn(member.url, pool.name)
        return Backend(member.name, pool.name, member.url, dialect(pool.engine), credentials)

    def configure(self, config: Config) -> None:
        """Go by this configuration from now on; what else follows from it is for whoever changes it to do."""
        limits = config.timeouts
        self.config = config
        self.engines.limits = TimeLimits(limits.connect_s, limits.first_byte_s, limits.idle_s, limits.total_s)
        self.tls.adopt(config.pools)
        self.unsalted = unsalted_endpoints(dialect(pool.engine) for pool in config.pools)
        self.recourse.configure(config.retry, config.routing.max_attempts)
        self.renew_tenants(config)
        self.models = {pool.name: pool.model for pool in config.pools}
        self._encodings = {pool.name: pool.encoding for pool in config.pools}
        self._renew_hot()
        self.shadows.configure(config.shadows)
        self.feeds.configure(config)
        if self.journal is not None:
            self.journal.configure(config.pools)

    def keep_hot(self, pool: str | None) -> None:
        """Keep prompts of this pool to warm its replicas with, also where it keeps none otherwise; None: of no more."""
        if pool != self._hot_pool:
            self._hot_pool = pool
            self._renew_hot()

    def _renew_hot(self) -> None:
        configured = wanted_families(self.config)
        wanted = dict(configured)
        if self._hot_pool is not None:
            wanted.setdefault(self._hot_pool, WHILE_CHANGING)
        if not wanted:
            self.hot = None
        elif self.hot is None:
            self.hot = HotFamilies(wanted)
        else:
            self.hot.want(wanted)
        if self.hot is not None:
            self.hot.proven = frozenset() if self._hot_pool is None else frozenset({self._hot_pool}) - configured.keys()

    async def described(self, backend: Backend, pages: Pages) -> EngineDescription:
        """What a replica says of its set-up; where it does not say its chunk, by the command line that it runs as."""
        description = backend.dialect.describe(pages)
        if description.prefill.chunk_tokens is not None:
            return description
        started_as = backend.dialect.read_command(await self.command_of(backend))
        said = {name: value for name in SETTINGS if (value := getattr(description.prefill, name)) is not None}
        return replace(description, prefill=replace(started_as, **said))

    def observe(self, fact: Fact) -> None:
        """Tell the router, and those who wait for what it makes of it."""
        self.router.observe(fact)
        self.placer.look()

    def ended(self, entry: Entry) -> None:
        """A request is over, by its last fact: have it written down, where that is wished."""
        if self.journal is not None:
            self.journal.add(entry, self.snapshot)

    def unreachable(self, backend: Backend, reason: str) -> None:
        """Leave a replica alone that took no connection, until the poller's next look finds it well."""
        if self.is_there(backend):
            self.suspects.add(backend.name)
            self.observe(ReplicaDown(backend.name, self.clock(), reason))

    def is_there(self, backend: Backend) -> bool:
        """Whether the replica of that name is this one still."""
        known = self.backends.get(backend.name)
        return known is not None and known.url == backend.url

    async def chains_of(self, request: InferenceRequest, body: bytes) -> Chains:
        """The prompt's prefix chains; empty ones for what leaves nothing in an engine's prefix cache."""
        if not request.endpoint.generates:
            return Chains()
        text = text_chain(request, self.router.block_bytes)
        forms = self.router.token_forms()
        if not forms:
            return Chains(text)
        return Chains(text, await token_chains(request, body, forms, self.tokenisers, self.router.adapters()))

    def _sites(self, pool: str) -> list[Site]:
        """Replicas of a pool that may be asked to tokenise, the least busy first."""
        backends = [self.backends[name] for name in self.router.least_busy(pool) if name in self.backends]
        return [Site(backend.url, backend.credentials) for backend in backends]

    def snapshot(self) -> Snapshot:
        """The router's view, now."""
        return self.router.snapshot(self.clock())

    def notices(self) -> list[str]:
        """What an operator should know of the gateway itself: sentences."""
        sharing = self.sharer.notices if self.sharer is not None else []
        discovery = [notice for notices in self.discovery_notices.values() for notice in notices]
        keepers = (self.journal, self.log, self.experiments, self.history)
        written = [one.notices() for one in keepers if one is not None]
        latest = {change.pool: change for change in self.changes()}
        failed = [
            f"pool {change.pool}: the change of its prefill settings failed: {change.reason}"
            for change in latest.values()
            if change.state is ChangeState.FAILED
        ]
        own = self.config.notices() + [notice for notices in written for notice in notices]
        return own + sharing + discovery + failed

    def warnings(self, snapshot: Snapshot) -> dict[str, list[str]]:
        """By replica that is up: what is missing or differs from the configuration, and what to do about it."""
        doubts = {pool.name: pool.token_doubts for pool in snapshot.pools}
        return {
            replica.name: [*self._warnings(replica), *doubts[replica.pool]]
            for replica in snapshot.replicas
            if replica.state in ("up", "draining")
        }

    def _warnings(self, replica: ReplicaView) -> list[str]:
        backend = self.backends[replica.name]
        warnings = list(backend.dialect.warnings(replica.description, replica.prefill_desired))
        wished = replica.prefill_desired.chunk_tokens
        if wished is not None and replica.prefill_actual.chunk_tokens is None and replica.version is not None:
            warnings.append(
                f"it does not say its chunk, so it is not known whether that is the config's {wished}: let prefixgate "
                "start it ([pools.launch]), which then knows its command line"
            )
        model = self.models.get(replica.pool)
        if model is not None and replica.models and model not in replica.models:
            served = ", ".join(replica.models)
            warnings.append(f"it serves {served}, not {model}: restart it with --served-model-name {model}")
        if replica.description.publishes_events and self._encodings.get(replica.pool) == "":
            warnings.append("it publishes KV events, which are of no use until the pool says how to count `tokens`")
        if replica.cache.broken is not None:
            warnings.append(replica.cache.broken.sentence)
        if replica.description.publishes_events is False and self.feeds.wanted(replica.pool):
            pool = next(one for one in self.config.pools if one.name == replica.pool)
            flags = backend.dialect.measuring_flags(event_ports(pool, backend.url))
            flag, value = flags[flags.index(EVENTS_FLAG) :][:2]
            warnings.append(f"it publishes no KV events, so what it caches is guessed: restart with {flag} '{value}'")
        return warnings + self.feeds.warnings(replica.name) + self.token_differences.get(replica.name, [])

    async def compare_tokens(self, backend: Backend, served: str | None) -> None:
        """Ask a replica whether it makes the same tokens of a sample as its pool's tokenizer.

        `served` is a model that it has, for a pool that names none.
        """
        model = self.models.get(backend.pool) or served
        encoding = self._encodings.get(backend.pool, "")
        said = await self.tokenisers.disagreement(encoding, backend.url, backend.credentials, model)
        self.token_differences[backend.name] = [] if said is None else [said]

    def restarted(self, backend: Backend) -> None:
        """A replica's process is a new one."""
        self.observe(ReplicaRestarted(backend.name, self.clock()))
        self.feeds.restarted(backend.name)
        self.when_restarted(backend)
        self.tokenisers.forget(self._encodings.get(backend.pool, ""))

    def abort(self, backend: Backend, request_id: str) -> None:
        """Tell an engine to stop a request for which closing the connection is not enough, without waiting.

        SGLang aborts every request whose id starts with the given one: a client's short id must not end others,
        so where another live id does, closing the connection has to do (SGLang then needs 2 to 4 s).
        """
        call = backend.dialect.abort_call(request_id)
        shared = any(other != request_id and other.startswith(request_id) for other in self.live_ids)
        if call is not None and not shared:
            task = asyncio.get_running_loop().create_task(self._call(backend, call))
            self._background.add(task)
            task.add_done_callback(self._background.discard)

    def renew_tenants(self, config: Config) -> None:
        """Let in whom another configuration says. Raises ConfigError, with nothing changed, for a missing secret.

        A secret that was drawn stays: what engines have cached for tenants is of use on.
        """
        if config.auth.salt_env is not None:
            self.cache_secret = cache_secret(config)
        self.tenancy = renewed_tenancy(self.tenancy, config, self.cache_secret, self.clock())
        self.router.limit_queue(_queue_limits(config))
        if self.sharer is not None:
            self.sharer.tenancy = self.tenancy

    async def share_over(self, channel: Channel | None) -> None:
        """Begin to share with those who meet there, with what they know; None: with nobody."""
        if channel is not None:
            self.sharer = Sharer(channel, self.router, self.observe, self.clock, self.tenancy)
            await self.sharer.start()

    async def close(self) -> None:
        """Close what is open towards other gateways and the engines."""
        self.placer.close()
        if self.sharer is not None:
            await self.sharer.stop()
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)
        await self.feeds.close()
        self.tokenisers.close()
        await self.engines.close()
        if self.log is not None:
            await self.log.close()
        if self.journal is not None:
            await asyncio.to_thread(self.journal.close)
        if self.tracing is not None:
            await asyncio.to_thread(self.tracing.close)
        if self.history is not None:
            await self.history.close()
        await self.experiments.close()

    async def _call(self, backend: Backend, call: EngineCall) -> None:
        headers = [(b"content-type", b"application/json"), *backend.credentials]
        try:
            response = await self.engines.send(backend.url, call.method, call.path, headers, call.body)
            await response.body(ABORT_BODY_BYTES)
        except EngineGoneError:
            return  # the engine is gone, and the request with it


async def _no_command(_backend: Backend) -> tuple[str, ...]:
    return ()


def _queue_limits(config: Config) -> QueueLimits:
    """The queue's limits, with the weights of the tenants that have one."""
    return config.queue.limits({tenant.name: tenant.weight for tenant in config.tenants})
