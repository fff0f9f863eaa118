"""Membership: has the running gateway be as the plan says, command by command; does I/O."""

import asyncio
import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Final

from gateway.config import Config, ConfigError
from gateway.routing.facts import (
    PoolConfigured,
    PoolRemoved,
    ReplicaAdded,
    ReplicaDraining,
    ReplicaRemoved,
    ReplicaResumed,
    RoutingChanged,
)
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.serving.front.port import Port
from gateway.serving.gateway import Gateway
from gateway.serving.membership.member import Member
from gateway.serving.membership.plan import Command, Configure, Plan, Remove, after
from gateway.serving.membership.refusal import PlanError
from gateway.serving.polling import Poller

LOOK_S: Final = 0.05
"""How often a replica that is to go is asked whether it has ended what it had."""

_log: Final = logging.getLogger("prefixgate")


class Membership:
    """Follows commands, one after the other.

    With several workers a command first goes to their parent, which passes it on to all of them in one order; this one
    then hears it as they do.
    """

    def __init__(self, gateway: Gateway, poller: Poller, plan: Plan, ports: Sequence[Port]) -> None:
        self.plan = plan
        self._gateway = gateway
        self._poller = poller
        self._ports = ports
        self._here = {member.name: member for member in plan.members}
        """What was added and not removed; some of them are `leaving`."""
        self._pools = {spec.name: spec for spec in _bare(plan)}
        self.leaving: set[str] = set()
        """Those that drain, to be removed when they have ended what they had."""
        self._ending: set[str] = set()
        """Those removed with requests in flight, which need their backend yet."""
        self.configured: Callable[[Config], None] = lambda _: None
        """Told of each configuration that applies from now on."""
        self._turn = asyncio.Lock()
        self._sweeping: asyncio.Task[None] | None = None
        for member in plan.members:
            if member.draining:
                gateway.observe(ReplicaDraining(member.name, gateway.clock()))

    async def perform(self, command: Command) -> None:
        """Do it, in all workers. Raises PlanError."""
        after(self.plan, command)  # what cannot be is refused here, in the same words
        siblings = self._gateway.siblings
        if siblings is None:
            await self.follow(command)
            return
        refusal = await siblings.propose(command)
        if refusal is not None:
            raise PlanError(refusal, 409, "conflict")
        async with self._turn:  # it was heard here before the parent answered
            return

    async def follow(self, command: Command) -> None:
        """Do it, in this process. Raises PlanError."""
        async with self._turn:
            before, self.plan = self.plan, after(self.plan, command)
            if isinstance(command, Configure):
                await self._configure(before.config, self.plan.config)
            gateway, plan = self._gateway, self.plan
            gateway.experiments.follow(plan.trials, plan.config.pools, plan.members)
            at_once = {command.name} if isinstance(command, Remove) and command.now else set()
            await self._fit(at_once)
        if isinstance(command, Configure):
            self.configured(self.plan.config)

    async def close(self) -> None:
        """Wait for nothing any more."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.gather(self._sweeping, return_exceptions=True)

    # ── replicas ─────────────────────────────────────────────────────────────────────────────────

    async def _fit(self, at_once: set[str]) -> None:
        """Have the replicas that the plan names, and no others. Those `at_once` are not waited for."""
        gateway = self._gateway
        wanted = {member.name: member for member in self.plan.members}
        urls = {member.url for member in self.plan.members}
        for name, here in list(self._here.items()):
            member = wanted.get(name)
            if member is not None and _same(member, here):
                self.leaving.discard(name)
                continue
            if member is not None or here.url in urls or name in at_once:  # its place is wanted
                await self._remove(here)
            elif name not in self.leaving:
                self.leaving.add(name)
                gateway.observe(ReplicaDraining(name, gateway.clock()))
        for member in self.plan.members:
            if member.name not in self._here:
                self._add(member)
            self._drain(member)
        await self._remove_idle()
        if (self.leaving or self._ending) and (self._sweeping is None or self._sweeping.done()):
            self._sweeping = asyncio.create_task(self._sweep())

    def _add(self, member: Member) -> None:
        gateway = self._gateway
        backend = gateway.backends[member.name] = gateway.backend_of(member)
        spec = ReplicaSpec(member.name, member.url)
        self._ending.discard(member.name)
        self._here[member.name] = member
        gateway.observe(ReplicaAdded(gateway.clock(), member.pool, spec))
        self._poller.add(backend)

    def _drain(self, member: Member) -> None:
        gateway, now = self._gateway, self._gateway.clock()
        draining = gateway.router.is_draining(member.name)
        if member.draining and not draining:
            gateway.observe(ReplicaDraining(member.name, now))
        elif draining and not member.draining:
            gateway.observe(ReplicaResumed(member.name, now))
        self._here[member.name] = member

    async def _remove(self, member: Member) -> None:
        gateway, name = self._gateway, member.name
        del self._here[name]
        self.leaving.discard(name)
        gateway.observe(ReplicaRemoved(name, gateway.clock()))
        self._ending.add(name)
        await self._poller.drop(name)
        await gateway.feeds.drop(name)
        gateway.suspects.discard(name)
        gateway.token_differences.pop(name, None)
        gateway.engines.forget(member.url)

    async def _sweep(self) -> None:
        while self.leaving or self._ending:
            await asyncio.sleep(LOOK_S)
            async with self._turn:
                await self._remove_idle()

    async def _remove_idle(self) -> None:
        router = self._gateway.router
        for name in [name for name in self.leaving if not router.unfinished(name)]:
            await self._remove(self._here[name])
        for name in [name for name in self._ending if not router.unfinished(name)]:
            self._ending.discard(name)
            del self._gateway.backends[name]

    # ── the configuration ────────────────────────────────────────────────────────────────────────

    async def _configure(self, before: Config, config: Config) -> None:
        """Apply what applies at once; replicas come and go after that."""
        gateway = self._gateway
        await self._load_tokenizers(config)
        gateway.configure(config)
        self._poller.configure(config.polling)
        for port in self._ports:
            port.configure(config.timeouts)
        if (config.routing, config.queue) != (before.routing, before.queue):
            gateway.observe(RoutingChanged(gateway.clock(), config.routing.policy, config.routing.hold_ms))
        for spec in _bare(self.plan):
            if self._pools.get(spec.name) != spec:
                self._pools[spec.name] = spec
                gateway.observe(PoolConfigured(gateway.clock(), spec))
        for pool in self._pools.keys() - {pool.name for pool in config.pools}:
            gateway.observe(PoolRemoved(gateway.clock(), pool))
            del self._pools[pool]

    async def _load_tokenizers(self, config: Config) -> None:
        tokenisers = self._gateway.tokenisers
        try:
            loaded = await asyncio.to_thread(tokenisers.load, config)
        except ConfigError as error:  # whoever read the file could load it
            _log.error("%s; its prompts are followed as text", error)
            loaded = {}
        tokenisers.adopt(config, loaded)


def _same(member: Member, here: Member) -> bool:
    return (member.pool, member.url) == (here.pool, here.url)


def _bare(plan: Plan) -> list[PoolSpec]:
    """The pools without their replicas, which come and go by themselves."""
    return [dataclasses.replace(one, replicas=()) for one in plan.specs()]
