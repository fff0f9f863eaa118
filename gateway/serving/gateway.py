"""The running gateway's parts, put together once: config, router, engine connections, dialects; does I/O."""

import asyncio
import os
import time
from random import Random

import msgspec

from engines.dialect import Dialect
from engines.registry import dialect
from engines.reports import EngineCall
from gateway.config import Config
from gateway.routing.chain import PrefixChain, chain
from gateway.routing.facts import Fact, ReplicaDown
from gateway.routing.router import Router
from gateway.routing.snapshot import ReplicaView, Snapshot
from gateway.serving.engine_client import EngineClient, EngineGoneError, TimeLimits
from gateway.serving.headers import HeaderList
from gateway.wire.request import InferenceRequest

ABORT_BODY_BYTES = 1 << 20


class Backend(msgspec.Struct, frozen=True):
    """What serving needs of a replica beside the router's view. `credentials` are headers, never shown."""

    name: str
    pool: str
    url: str
    dialect: Dialect
    credentials: HeaderList


class Gateway:
    """Everything that one gateway process shares between its requests."""

    def __init__(self, config: Config, *, seed: int | None = None) -> None:
        self.config = config
        self.started_at = time.time()
        self.clock = time.monotonic
        routing = config.routing
        self.router = Router(
            [pool.spec() for pool in config.pools],
            policy=routing.policy,
            rng=Random(seed),
            block_bytes=routing.block_bytes,
        )
        limits = config.timeouts
        self.engines = EngineClient(TimeLimits(limits.connect_s, limits.first_byte_s, limits.idle_s))
        self.backends = {backend.name: backend for backend in _backends(config)}
        self.models = {pool.name: pool.model for pool in config.pools}
        self.live_ids: set[str] = set()
        self.suspects: set[str] = set()
        """Replicas that are down by a request's word, not by the poller's."""
        self.closing = False
        self._background: set[asyncio.Task[None]] = set()

    def observe(self, fact: Fact) -> None:
        """Tell the router."""
        self.router.observe(fact)

    def unreachable(self, backend: Backend, reason: str) -> None:
        """Leave a replica alone that took no connection, until the poller's next look finds it well."""
        self.suspects.add(backend.name)
        self.observe(ReplicaDown(backend.name, self.clock(), reason))

    def chain_of(self, request: InferenceRequest) -> PrefixChain:
        """The prompt's prefix chain; an empty one for what leaves nothing in an engine's prefix cache."""
        if not request.endpoint.generates:
            return PrefixChain()
        return chain(request.prompt.namespace, request.prompt.text, self.router.block_bytes)

    def snapshot(self) -> Snapshot:
        """The router's view, now."""
        return self.router.snapshot(self.clock())

    def warnings(self) -> dict[str, list[str]]:
        """By replica that is up: what is missing or differs from the configuration, and what to do about it."""
        return {replica.name: self._warnings(replica) for replica in self.snapshot().replicas if replica.state == "up"}

    def _warnings(self, replica: ReplicaView) -> list[str]:
        backend = self.backends[replica.name]
        warnings = list(backend.dialect.warnings(replica.description, replica.prefill_desired))
        model = self.models[replica.pool]
        if model is not None and replica.models and model not in replica.models:
            served = ", ".join(replica.models)
            warnings.append(f"it serves {served}, not {model}: restart it with --served-model-name {model}")
        return warnings

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

    async def close(self) -> None:
        """Close what is open towards the engines."""
        if self._background:
            await asyncio.wait(self._background, timeout=1.0)
        await self.engines.close()

    async def _call(self, backend: Backend, call: EngineCall) -> None:
        headers = [(b"content-type", b"application/json"), *backend.credentials]
        try:
            response = await self.engines.send(backend.url, call.method, call.path, headers, call.body)
            await response.body(ABORT_BODY_BYTES)
        except EngineGoneError:
            return  # the engine is gone, and the request with it


def _backends(config: Config) -> list[Backend]:
    backends = []
    for pool in config.pools:
        key = os.environ.get(pool.api_key_env, "").strip() if pool.api_key_env else ""
        credentials: HeaderList = [(b"authorization", b"Bearer " + key.encode())] if key else []
        backends += [
            Backend(replica.name, pool.name, replica.url, dialect(pool.engine), credentials)
            for replica in pool.spec().replicas
        ]
    return backends
