"""Knowledge: what was learned of engines and their caches, for a gateway that joins late or starts again; pure.

It is a start, not the truth: replicas and pools that the reader has learned of already are left as they are.
"""

from collections.abc import Sequence
from typing import Annotated, Final

import msgspec

from gateway.routing.batch import FORMAT, packed, unpacked
from gateway.routing.beliefs import Beliefs
from gateway.routing.calibration import Count, Learned, Weight
from gateway.routing.curves import PrefillCurve
from gateway.routing.fleet import Fleet
from gateway.routing.replica import Pool, Replica
from gateway.routing.reuse import Reuse

MOST_LINKS: Final = 200_000
"""Of all replicas together, the latest of each: 1.6 MB."""
MOST_FAMILIES: Final = 2000
MOST_STORED: Final = 10_000
_SAME_START_S: Final = 2.0


class UnreadableError(Exception):
    """This is no knowledge that we can use; the message says why in a sentence."""


Share = Annotated[float, msgspec.Meta(ge=0.01, le=100)]


class Curve(msgspec.Struct, array_like=True, frozen=True):
    """The terms of a prefill curve, and from how many prefills they were learned."""

    base_ms: Annotated[float, msgspec.Meta(ge=1e-3, le=1e6)]
    ms_per_token: Annotated[float, msgspec.Meta(ge=1e-6, le=1e3)]
    ms_per_token2: Annotated[float, msgspec.Meta(ge=0, le=1)]
    observations: Count


class KnownReplica(msgspec.Struct, array_like=True, frozen=True):
    """One replica, by its URL. `links` are guessed blocks as `packed` does it, the least recently used first.

    `started_at` is when the engine says that it was started, in seconds since the epoch.
    """

    url: str
    links: bytes
    curve: Curve
    calibration: Learned
    capacity_share: Share
    started_at: float | None


class KnownPool(msgspec.Struct, array_like=True, frozen=True):
    """One pool: bytes per token of all its prompts and of the latest families, and its curve."""

    name: str
    bytes_per_token: Share
    families: list[tuple[int, Share]]
    curve: Curve


class Knowledge(msgspec.Struct, array_like=True, frozen=True):
    """All of it. Text is in blocks of `block_bytes`; `stored` are Responses objects and their replicas' URLs."""

    format: int
    block_bytes: int
    replicas: list[KnownReplica]
    pools: list[KnownPool]
    fleet: Curve
    again: list[Weight]
    gone: list[Weight]
    stored: list[tuple[str, str]]


def encoded(knowledge: Knowledge) -> bytes:
    """As MessagePack."""
    return msgspec.msgpack.encode(knowledge)


def decoded(payload: bytes, block_bytes: int) -> Knowledge:
    """The knowledge of these bytes, if it is of text in such blocks. Raises UnreadableError."""
    try:
        version, *_ = msgspec.msgpack.decode(payload, type=list[msgspec.Raw])
        said = msgspec.msgpack.decode(version, type=int)
        if said != FORMAT:
            raise UnreadableError(f"it is of format {said}, not {FORMAT}")
        knowledge = msgspec.msgpack.decode(payload, type=Knowledge)
    except (msgspec.MsgspecError, ValueError) as error:
        raise UnreadableError(f"it cannot be read: {error}") from error
    if knowledge.block_bytes != block_bytes:
        raise UnreadableError(f"its blocks are of {knowledge.block_bytes} bytes, not {block_bytes}")
    return knowledge


def take_knowledge(
    fleet: Fleet, beliefs: Beliefs, reuse: Reuse, stored: Sequence[tuple[str, str]], block_bytes: int
) -> Knowledge:
    """What is known now. What engines say of their caches themselves is not part of it: they say it to everyone."""
    share = MOST_LINKS // max(len(fleet.replicas), 1)
    urls = {replica.spec.name: replica.spec.url for replica in fleet.replicas}
    return Knowledge(
        FORMAT,
        block_bytes,
        [_replica(replica, beliefs.index.latest(replica.slot, share)) for replica in fleet.replicas],
        [_pool(pool) for pool in fleet.pools.values()],
        _curve(fleet.curve),
        *reuse.counts,
        [(one, urls[name]) for one, name in stored[-MOST_STORED:] if name in urls],
    )


def give_knowledge(knowledge: Knowledge, fleet: Fleet, beliefs: Beliefs, reuse: Reuse) -> None:
    """Begin with it, where nothing was learned yet."""
    _start(fleet.curve, knowledge.fleet)
    reuse.start_from(knowledge.again, knowledge.gone)
    for known_pool in knowledge.pools:
        pool = fleet.pools.get(known_pool.name)
        if pool is not None:
            _start(pool.curve, known_pool.curve)
            pool.token_ratio.start_from(known_pool.bytes_per_token)
            pool.family_ratios.start_from(known_pool.families)
    for known in knowledge.replicas:
        replica = fleet.by_url.get(known.url)
        if replica is None:
            continue
        if replica.curves[0].observations == 0:
            _start(replica.curves[0], known.curve)
            replica.believe_curve()
        if _is_another(known.started_at, replica.report.started_at):
            continue
        view = replica.cache
        if view.calibration.observations == 0:
            view.calibration.start_from(known.calibration)
            view.capacity_share = known.capacity_share
        beliefs.index.restore(view.slot, unpacked(known.links))
        replica.standing = None


def _is_another(one: float | None, other: float | None) -> bool:
    """Whether engine processes that say so of their start are two; by their word, in seconds since the epoch."""
    return one is not None and other is not None and abs(one - other) > _SAME_START_S


def _replica(replica: Replica, links: list[int]) -> KnownReplica:
    view = replica.cache
    return KnownReplica(
        replica.spec.url,
        packed(links),
        _curve(replica.curves[0]),
        view.calibration.learned,
        view.capacity_share,
        replica.report.started_at,
    )


def _pool(pool: Pool) -> KnownPool:
    families = pool.family_ratios.latest(MOST_FAMILIES)
    return KnownPool(pool.spec.name, pool.token_ratio.bytes_per_token, families, _curve(pool.curve))


def _curve(curve: PrefillCurve) -> Curve:
    return Curve(curve.base_ms, curve.ms_per_token, curve.ms_per_token2, curve.observations)


def _start(curve: PrefillCurve, known: Curve) -> None:
    if curve.observations == 0 and known.observations:
        curve.start_from(known.base_ms, known.ms_per_token, known.ms_per_token2)
        curve.observations = known.observations
