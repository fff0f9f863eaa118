"""Finders: one for each pool with a source; new replicas are added, those that vanished drain and go; does I/O.

A source that fails, or that names nobody all at once, must not empty the fleet: what is there stays.
"""

import asyncio
import logging
from collections import Counter
from typing import Final

from gateway.config import Config
from gateway.config.discovery import DiscoveryConfig
from gateway.serving.discovery.configured import source_of
from gateway.serving.discovery.source import DiscoveryError
from gateway.serving.gateway import Gateway
from gateway.serving.membership.member import DISCOVERY
from gateway.serving.membership.membership import Membership
from gateway.serving.membership.plan import Add, Remove
from gateway.serving.membership.refusal import PlanError

GONE_AFTER: Final = 2
"""Answers in a row without a replica before it goes: a probe may fail once."""
EMPTY_AFTER: Final = 5
"""Answers in a row without any replica at all before they are believed."""

_log: Final = logging.getLogger("prefixgate")


class Finder:
    """One pool's."""

    def __init__(self, gateway: Gateway, membership: Membership, pool: str, config: DiscoveryConfig) -> None:
        self.config = config
        self._gateway = gateway
        self._membership = membership
        self._pool = pool
        self._source = source_of(config)
        self._missing: Counter[str] = Counter()
        """Of each replica that is there, the answers in a row that did not name it."""

    async def run(self) -> None:
        """Ask until this is cancelled."""
        try:
            while True:
                self._say(*await self._looked())
                await asyncio.sleep(self.config.every_s)
        finally:
            self._gateway.discovery_notices.pop(self._pool, None)
            await self._source.close()

    async def _looked(self) -> list[str]:
        """Ask once, and do what follows from the answer; what an operator should know, in sentences."""
        try:
            targets = await self._source.targets()
            return [*await self._let_go(targets), *await self._add(targets)]
        except (DiscoveryError, PlanError) as error:
            return [f"discovery failed, and its replicas stay as they are: {error}"]
        except Exception:  # the border: a bug here must not end the finding, nor stay unseen
            _log.exception("pool %s: discovery failed inside the gateway", self._pool)
            return ["discovery failed inside the gateway; its log says more"]

    async def _add(self, targets: set[str]) -> list[str]:
        trouble = []
        for url in sorted(targets - {member.url for member in self._membership.plan.members}):
            try:
                await self._membership.perform(Add(self._pool, url, origin=DISCOVERY))
            except PlanError as error:
                trouble.append(f"a replica that was discovered cannot be added: {error}")
        return trouble

    async def _let_go(self, targets: set[str]) -> list[str]:
        """Let those drain and go that are no longer named; a sentence where that is put off."""
        plan = self._membership.plan
        known = [one for one in plan.members if (one.pool, one.origin) == (self._pool, DISCOVERY)]
        if not targets and not known:
            return ["discovery names no replicas"]
        self._missing = Counter({one.url: self._missing[one.url] + 1 for one in known if one.url not in targets})
        for one in known:
            missing = self._missing[one.url]
            if missing >= (GONE_AFTER if targets else EMPTY_AFTER):
                await self._membership.perform(Remove(one.name))
        if not targets and max(self._missing.values()) < EMPTY_AFTER:
            times = max(self._missing.values())
            return [
                f"discovery names no replicas any more: the {len(known)} known ones stay until it has said so "
                f"{EMPTY_AFTER} times in a row ({times} so far)"
            ]
        return []

    def _say(self, *sentences: str) -> None:
        notices = self._gateway.discovery_notices
        said = [f"pool {self._pool}: {sentence}" for sentence in sentences]
        if said and notices.get(self._pool) != said:
            _log.warning("%s", "; ".join(said))
        notices[self._pool] = said


class Discovery:
    """The finders of all pools that have a source; of several workers the first one finds, and tells the others."""

    def __init__(self, gateway: Gateway, membership: Membership) -> None:
        self._gateway = gateway
        self._membership = membership
        self._finders: dict[str, tuple[Finder, asyncio.Task[None]]] = {}
        membership.configured = self.configure

    def configure(self, config: Config) -> None:
        """Find for the pools of this configuration; finders whose settings are the same go on."""
        siblings = self._gateway.siblings
        if siblings is not None and siblings.number != 0:
            return
        wanted = {pool.name: pool.discovery for pool in config.pools if pool.discovery is not None}
        for name, (finder, task) in list(self._finders.items()):
            if wanted.get(name) != finder.config:
                task.cancel()
                del self._finders[name]
        for name, settings in wanted.items():
            if name not in self._finders:
                finder = Finder(self._gateway, self._membership, name, settings)
                self._finders[name] = finder, asyncio.create_task(finder.run())

    async def close(self) -> None:
        """Find no more."""
        tasks = [task for _, task in self._finders.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
