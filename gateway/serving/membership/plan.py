"""The plan: the configuration and the replicas that there are to be, and what each command makes of it; pure.

All workers of a gateway, and their parent, follow the same commands in the same order, and so come to the same plan.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import msgspec

from gateway.config import Config, ConfigError, changes
from gateway.config.pools import NAME, PoolConfig, check_url
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.serving.experiments import trial
from gateway.serving.experiments.trial import Begin, Define, End, EndArm, Forget, TrialCommand, Trials
from gateway.serving.membership.member import API, DISCOVERY, FILE, Member
from gateway.serving.membership.refusal import PlanError


class Add(msgspec.Struct, frozen=True, tag=True):
    """One replica more. Without a name it gets the pool's and the lowest number that is free."""

    pool: str
    url: str
    name: str | None = None
    origin: str = API


class Drain(msgspec.Struct, frozen=True, tag=True):
    """The replica takes no new requests."""

    name: str


class Resume(msgspec.Struct, frozen=True, tag=True):
    """It takes them again."""

    name: str


class Remove(msgspec.Struct, frozen=True, tag=True):
    """The replica goes, once it has ended what it has; `now`: at once, and that ends by itself."""

    name: str
    now: bool = False


class Configure(msgspec.Struct, frozen=True, tag=True):
    """The file says this now; `at` (seconds since the Unix epoch) is when it was read."""

    config: Config
    at: float = 0.0


Command = Add | Drain | Resume | Remove | Configure | TrialCommand


class Plan(msgspec.Struct, frozen=True):
    """What there is to be."""

    config: Config
    members: tuple[Member, ...]
    trials: Trials = ()

    def member(self, name: str) -> Member | None:
        """The replica of that name."""
        return next((one for one in self.members if one.name == name), None)

    def pool(self, name: str) -> PoolConfig | None:
        """The pool of that name."""
        return next((pool for pool in self.config.pools if pool.name == name), None)

    def specs(self) -> list[PoolSpec]:
        """As the router wants it."""
        return [replace(pool.spec(), replicas=self._replicas(pool.name)) for pool in self.config.pools]

    def _replicas(self, pool: str) -> tuple[ReplicaSpec, ...]:
        return tuple(ReplicaSpec(one.name, one.url) for one in self.members if one.pool == pool)


def first_plan(config: Config, known: Trials = (), at: float = 0.0) -> Plan:
    """What the file says; `known` are the trials of a gateway before this one."""
    members = [Member(one.name, pool.name, one.url) for pool in config.pools for one in pool.spec().replicas]
    return Plan(config, tuple(members), trial.of_file(config.experiments, known, at))


def after(plan: Plan, command: Command) -> Plan:
    """The plan that follows. Raises PlanError; what is so already stays as it is."""
    match command:
        case Add():
            return _add(plan, command)
        case Drain():
            return _replaced(plan, msgspec.structs.replace(_known(plan, command.name), draining=True))
        case Resume():
            return _replaced(plan, msgspec.structs.replace(_known(plan, command.name), draining=False))
        case Remove():  # one that is not there may be draining yet, and is then removed at once
            return _with_members(plan, tuple(one for one in plan.members if one.name != command.name))
        case Configure():
            return _configured(plan, command.config, command.at)
        case Define() | Begin() | End() | EndArm() | Forget():
            return msgspec.structs.replace(plan, trials=trial.after(plan.trials, command))


def _with_members(plan: Plan, members: tuple[Member, ...]) -> Plan:
    return msgspec.structs.replace(plan, members=members)


def _add(plan: Plan, command: Add) -> Plan:
    pool, url = plan.pool(command.pool), command.url.rstrip("/")
    if pool is None:
        names = ", ".join(one.name for one in plan.config.pools)
        raise PlanError(f"there is no pool `{command.pool}`; there are: {names}", 404, "pool_not_found")
    try:
        check_url(f"pool `{pool.name}`", url)
    except ConfigError as error:
        raise PlanError(str(error), 400, "bad_url") from error
    for one in plan.members:
        if one.url == url:
            raise PlanError(f"{url} is there already: it is the replica `{one.name}`", 409, "replica_exists")
        if one.name == command.name:
            message = f"there is a replica `{one.name}` already, at {one.url}"
            raise PlanError(message, 409, "replica_exists")
    if command.name is not None and not NAME.fullmatch(command.name):
        raise PlanError("a name is letters, digits, `.`, `_` and `-`", 400, "bad_name")
    name = command.name or _free_name(pool.name, plan.members)
    return _with_members(plan, (*plan.members, Member(name, pool.name, url, command.origin)))


def _known(plan: Plan, name: str) -> Member:
    member = plan.member(name)
    if member is None:
        raise PlanError(f"there is no replica `{name}`", 404, "replica_not_found")
    return member


def _replaced(plan: Plan, member: Member) -> Plan:
    return _with_members(plan, tuple(member if one.name == member.name else one for one in plan.members))


def _configured(plan: Plan, wanted: Config, at: float) -> Plan:
    """The file's replicas are those that it names now; those of others stay, as long as there is their pool.

    A replica that stays in its pool keeps its name, whatever its place in the list, and goes on draining.
    """
    config = changes(plan.config, wanted).config
    named = {url.rstrip("/"): pool.name for pool in config.pools for url in pool.replicas}
    pools = {(pool.name, API) for pool in config.pools}
    pools |= {(pool.name, DISCOVERY) for pool in config.pools if pool.discovery is not None}
    members = []
    for one in plan.members:
        if named.get(one.url) == one.pool:
            members.append(msgspec.structs.replace(one, origin=FILE))
        elif (one.pool, one.origin) in pools and one.url not in named:
            members.append(one)
    known = {one.url for one in members}
    for url, pool in named.items():
        if url not in known:
            members.append(Member(_free_name(pool, members), pool, url))
    return Plan(config, tuple(members), trial.of_file(config.experiments, plan.trials, at))


def _free_name(pool: str, members: Sequence[Member]) -> str:
    """Names come again: so there are never more of them, and of metrics' labels, than there were replicas at once."""
    taken = {one.name for one in members}
    return next(name for number in count() if (name := f"{pool}-{number}") not in taken)
