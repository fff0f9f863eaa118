"""Reading the configuration file again while the gateway runs; does I/O."""

import asyncio
import logging
import time
from typing import Final

import msgspec

from gateway.config import ConfigError, ConfigSource, changes
from gateway.serving.gateway import Gateway
from gateway.serving.membership.member import Member
from gateway.serving.membership.membership import Membership
from gateway.serving.membership.plan import Configure
from gateway.serving.membership.refusal import PlanError
from gateway.serving.workers.assignments import reread_by

NO_FILE: Final = "there is no file to read again: the gateway was started without --config"

_log: Final = logging.getLogger("prefixgate")


class Reloaded(msgspec.Struct, frozen=True):
    """What a reload changed. Settings go as `table.setting`; `needs_restart` are those that stay as they were."""

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
    pools_added: tuple[str, ...]
    pools_removed: tuple[str, ...]
    replicas_added: tuple[str, ...]
    replicas_removed: tuple[str, ...]
    """They end what they have first."""

    @property
    def sentence(self) -> str:
        """For a log."""
        said = [f"{name.replace('_', ' ')}: {', '.join(value)}" for name, value in msgspec.structs.asdict(self).items()]
        told = [one for one in said if not one.endswith(": ")]
        return "; ".join(told) or "nothing has changed"


class Reloading:
    """Reads a `source` again; None: there is none."""

    def __init__(self, gateway: Gateway, membership: Membership, source: ConfigSource | None) -> None:
        self._gateway = gateway
        self._membership = membership
        self._source = source
        self._turn = asyncio.Lock()

    async def reload(self) -> Reloaded:
        """Read and apply. ConfigError where the file cannot be used, which then changes nothing; PlanError: no file."""
        if self._source is None:
            raise PlanError(NO_FILE, 409, "no_config_file")
        async with self._turn:
            wanted = await asyncio.to_thread(self._source.load)
            if self._gateway.siblings is not None:
                wanted = reread_by(wanted, self._gateway.siblings.number)
            await asyncio.to_thread(self._gateway.tokenisers.load, wanted)  # could all of them be loaded?
            before = self._membership.plan
            found = changes(before.config, wanted)
            await self._membership.perform(Configure(wanted, time.time()))
            plan = self._membership.plan
        old, new = {pool.name for pool in before.config.pools}, {pool.name for pool in plan.config.pools}
        return Reloaded(
            found.changed,
            found.needs_restart,
            tuple(sorted(new - old)),
            tuple(sorted(old - new)),
            _missing(plan.members, before.members),
            _missing(before.members, plan.members),
        )

    async def reload_and_log(self) -> None:
        """For a signal, whose sender hears nothing."""
        try:
            done = await self.reload()
        except (ConfigError, PlanError) as error:
            _log.error("the configuration stays as it is: %s", error)
        else:
            _log.warning("the configuration was read again: %s", done.sentence)


def _missing(these: tuple[Member, ...], those: tuple[Member, ...]) -> tuple[str, ...]:
    known = {(one.name, one.url) for one in those}
    return tuple(one.name for one in these if (one.name, one.url) not in known)
