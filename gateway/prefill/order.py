"""The order of a rolling change: which replica is next, and whether its model can spare it; pure."""

from collections.abc import Collection, Iterable, Sequence

from gateway.routing.snapshot import ReplicaView

_UP = "up"


def next_replica(replicas: Iterable[ReplicaView]) -> ReplicaView:
    """Of those that are to be changed: first who serves nobody anyway, then who has least to do."""
    return min(replicas, key=lambda one: (one.state == _UP, one.inflight, one.name))


def open_beside(replicas: Iterable[ReplicaView], pool: str, apart: Collection[str]) -> list[ReplicaView]:
    """The pool's own, and those of all others but the pools `apart`, where clients' requests do not go."""
    return [one for one in replicas if one.pool == pool or one.pool not in apart]


def others_up(replicas: Iterable[ReplicaView], taken: ReplicaView) -> int:
    """How many other replicas take requests: of the model of its that has the fewest."""
    others = [one for one in replicas if one.name != taken.name]
    usable = [one for one in others if one.state == _UP and one.breaker != "open"]
    return min(sum(_serves(one, model) for one in usable) for model in _models(taken))


def others_known(replicas: Iterable[ReplicaView], taken: ReplicaView) -> int:
    """How many there are, whatever their state."""
    others = [one for one in replicas if one.name != taken.name]
    return min(sum(_serves(one, model) for one in others) for model in _models(taken))


def _models(replica: ReplicaView) -> Sequence[str]:
    return replica.models or (replica.model,)


def _serves(replica: ReplicaView, model: str) -> bool:
    return model in replica.models or model == replica.model
