"""The plan: the configuration and the replicas that there are to be, and what each command makes of it; pure.

All workers of a gateway, and their parent, follow the same commands in the same order, and so come to the same plan.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import count

import msgspec

from engines.reports import PrefillSettings
from gateway.config import Config, ConfigError, changes
from gateway.config.pools import NAME, PoolConfig, check_url
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.serving.experiments import trial
from gateway.serving.experiments.trial import Begin, Define, End, EndArm, Forget, TrialCommand, Trials
from gateway.serving.membership.changing import (
    BeginChange,
    CancelChange,
    ChangeCommand,
    EndChange,
    GiveBack,
    TakeReplica,
    UnderWay,
)
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


Command = Add | Drain | Resume | Remove | Configure | TrialCommand | ChangeCommand


class Plan(msgspec.Struct, frozen=True):
    """What there is to be."""

    config: Config
    members: tuple[Member, ...]
    trials: Trials = ()
    change: UnderWay | None = None

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
            return _draining(plan, _free(plan, command.name), is_so=True)
        case Resume():
            return _draining(plan, _free(plan, command.name), is_so=False)
        case Remove():  # one that is not there may be draining yet, and is then removed at once
            return _with(plan, (one for one in plan.members if one.name != command.name))
        case Configure():
            return _configured(plan, command.config, command.at)
        case Define() | Begin() | End() | EndArm() | Forget():
            return msgspec.structs.replace(plan, trials=trial.after(plan.trials, command))
        case BeginChange():
            return _begun(plan, command)
        case TakeReplica():
            return _taken(plan, command)
        case GiveBack():
            return _given_back(plan, _running(plan, command.id))
        case CancelChange():
            change = msgspec.structs.replace(_running(plan, command.id), cancelled=True)
            return msgspec.structs.replace(plan, change=change)
        case EndChange():
            return _ended(plan, command)


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
    return _with(plan, (*plan.members, Member(name, pool.name, url, command.origin)))


def _known(plan: Plan, name: str) -> Member:
    member = plan.member(name)
    if member is None:
        raise PlanError(f"there is no replica `{name}`", 404, "replica_not_found")
    return member


def _free(plan: Plan, name: str) -> Member:
    """The replica, unless a change works on it."""
    if plan.change is not None and plan.change.taken == name:
        message = f"the change {plan.change.id} works on the replica `{name}`: cancel that first"
        raise PlanError(message, 409, "change_runs")
    return _known(plan, name)


def _with(plan: Plan, members: Iterable[Member]) -> Plan:
    return msgspec.structs.replace(plan, members=tuple(members))


def _draining(plan: Plan, member: Member | None, *, is_so: bool) -> Plan:
    """The same, where this replica takes new requests, or does not."""
    if member is None:
        return plan
    other = msgspec.structs.replace(member, draining=is_so)
    return _with(plan, (other if one.name == member.name else one for one in plan.members))


def _begun(plan: Plan, command: BeginChange) -> Plan:
    pool = plan.pool(command.pool)
    if plan.change is not None:
        message = f"the change {plan.change.id} of the pool `{plan.change.pool}` runs: one at a time"
        raise PlanError(message, 409, "change_runs")
    if pool is None:
        raise PlanError(f"there is no pool `{command.pool}`", 404, "pool_not_found")
    change = UnderWay(command.id, pool.name, command.worker, command.wished, pool.prefill.settings())
    return _wishing(msgspec.structs.replace(plan, change=change), pool, command.wished)


def _wishing(plan: Plan, pool: PoolConfig, settings: PrefillSettings) -> Plan:
    other = msgspec.structs.replace(pool, prefill=pool.prefill.wishing(settings))
    pools = [other if one.name == pool.name else one for one in plan.config.pools]
    return msgspec.structs.replace(plan, config=msgspec.structs.replace(plan.config, pools=pools))


def _running(plan: Plan, change: str) -> UnderWay:
    if plan.change is None or plan.change.id != change:
        raise PlanError(f"the change {change} is over", 409, "change_over")
    return plan.change


def _taken(plan: Plan, command: TakeReplica) -> Plan:
    change, member = _running(plan, command.id), _known(plan, command.name)
    change = msgspec.structs.replace(change, taken=member.name, drained_before=member.draining)
    return msgspec.structs.replace(_draining(plan, member, is_so=True), change=change)


def _given_back(plan: Plan, change: UnderWay) -> Plan:
    member = None if change.taken is None else plan.member(change.taken)
    plan = _draining(plan, member, is_so=change.drained_before)
    return msgspec.structs.replace(plan, change=msgspec.structs.replace(change, taken=None, drained_before=False))


def _ended(plan: Plan, command: EndChange) -> Plan:
    change = _running(plan, command.id)
    plan = msgspec.structs.replace(_given_back(plan, change), change=None)
    pool = plan.pool(change.pool)
    if command.kept or pool is None or pool.prefill.settings() != change.wished:  # the file may have said another
        return plan
    return _wishing(plan, pool, change.before)


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
    trials = trial.of_file(config.experiments, plan.trials, at)
    return msgspec.structs.replace(plan, config=config, members=tuple(members), trials=trials)


def _free_name(pool: str, members: Sequence[Member]) -> str:
    """Names come again: so there are never more of them, and of metrics' labels, than there were replicas at once."""
    taken = {one.name for one in members}
    return next(name for number in count() if (name := f"{pool}-{number}") not in taken)
