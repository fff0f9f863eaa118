"""Facts: everything that happens after a decision, as the Router is told of it; pure data.

`at` is seconds on the caller's monotonic clock (or virtual time); replicas go by name, attempts by ticket.
"""

from enum import StrEnum
from typing import Final

import msgspec

from engines.cache_events import CacheEvent
from engines.reports import EngineDescription, LoadReport, ModelCard, RequestTiming, Usage
from gateway.routing.batch import Batch
from gateway.routing.experiments.definition import Experiment, Exposure
from gateway.routing.replica import PoolSpec, ReplicaSpec


class Outcome(StrEnum):
    """How a request, or one attempt at it, ended: exactly one of these, on every path."""

    COMPLETED = "completed"
    CLIENT_GONE = "client_gone"
    ENGINE_FAILED = "engine_failed"
    ENGINE_REJECTED = "engine_rejected"
    TIMED_OUT = "timed_out"
    REJECTED = "rejected"


class Cause(StrEnum):
    """Why an attempt was given up while its request goes on."""

    CONNECTION = "connection"
    """The replica took no connection, or broke it."""
    OVERLOADED = "overloaded"
    ENGINE = "engine"
    """It answered with an error of its own, or with what is no answer."""
    CLIENT_GONE = "client_gone"
    """Its client left in the very moment of the decision."""
    HEDGED = "hedged"
    """Another attempt at the same request was faster: nothing is wrong with the replica."""
    CONTINUED = "continued"
    """It died in the middle of a stream, which went on elsewhere."""


AGAINST: Final = frozenset({Cause.CONNECTION, Cause.ENGINE, Cause.CONTINUED})
"""Those that tell against the replica's health."""


class Dispatched(msgspec.Struct, frozen=True, gc=False):
    """The request's bytes went to the engine.

    `route_s`: the decision alone; `overhead_s`: all of our own work; neither counts `held_s`, for which the router held
    it.
    """

    ticket: int
    at: float
    route_s: float
    overhead_s: float
    held_s: float = 0.0


class FirstToken(msgspec.Struct, frozen=True, gc=False):
    """The first content of a stream arrived."""

    ticket: int
    at: float


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The attempt is over. `content_frames` counts stream frames with content (0 for a plain body).

    `timing` is the engine's own word on how long its prefill took, where it gives one.
    """

    ticket: int
    at: float
    outcome: Outcome
    usage: Usage | None = None
    content_frames: int = 0
    timing: RequestTiming | None = None


class AttemptFailed(msgspec.Struct, frozen=True, gc=False):
    """The attempt was given up, and the request goes on at another replica or to `Refused`."""

    ticket: int
    at: float
    cause: Cause = Cause.ENGINE


class StreamBroke(msgspec.Struct, frozen=True):
    """A stream of the replica's died in the middle; `continuation` says that it went on elsewhere, or why not."""

    replica: str
    at: float
    model: str
    continuation: str


class Withdrawn(msgspec.Struct, frozen=True):
    """The client of a held request left."""

    ticket: int
    at: float


class Refused(msgspec.Struct, frozen=True):
    """A request without a ticket ended: it got none, or its last attempt had failed. `model` "" if not known."""

    at: float
    model: str
    outcome: Outcome


class PoolConfigured(msgspec.Struct, frozen=True):
    """There is such a pool, or its settings are these now. Its replicas come and go by facts of their own."""

    at: float
    spec: PoolSpec


class PoolRemoved(msgspec.Struct, frozen=True):
    """A pool is gone: its models are offered no longer, and what it has of replicas is to drain and go too."""

    at: float
    pool: str


class ReplicaAdded(msgspec.Struct, frozen=True):
    """The pool has one replica more, of which nothing is known yet. Its name and URL must be new."""

    at: float
    pool: str
    spec: ReplicaSpec


class ReplicaDraining(msgspec.Struct, frozen=True):
    """The replica is to take no new requests."""

    replica: str
    at: float


class ReplicaResumed(msgspec.Struct, frozen=True):
    """The replica may take new requests again."""

    replica: str
    at: float


class ReplicaRemoved(msgspec.Struct, frozen=True):
    """The replica is gone for good. What is in flight there ends by its own facts."""

    replica: str
    at: float


class RoutingChanged(msgspec.Struct, frozen=True):
    """From now on it is decided by this policy, and held by this limit (see `Router`)."""

    at: float
    policy: str
    hold_ms: float


class ExperimentsChanged(msgspec.Struct, frozen=True):
    """These experiments run from now on, in this order, and no others."""

    at: float
    running: tuple[Experiment, ...]


class Exposed(msgspec.Struct, frozen=True, gc=False):
    """A request was let into an experiment: told once of each, with its first decision."""

    at: float
    exposure: Exposure


class ReplicaUp(msgspec.Struct, frozen=True):
    """The replica answers; `models` are what it serves now."""

    replica: str
    at: float
    models: tuple[ModelCard, ...] = ()
    description: EngineDescription = EngineDescription()


class ReplicaDown(msgspec.Struct, frozen=True):
    """The replica does not answer; `reason` is one sentence."""

    replica: str
    at: float
    reason: str


class ReplicaRestarted(msgspec.Struct, frozen=True):
    """The replica's process is a new one: its cache is empty."""

    replica: str
    at: float


class ReplicaBusy(msgspec.Struct, frozen=True):
    """The replica refused a request since it is overloaded; `retry_after_s` is its own wish."""

    replica: str
    at: float
    retry_after_s: float | None = None


class LoadReported(msgspec.Struct, frozen=True):
    """The replica's own word on its load."""

    replica: str
    at: float
    report: LoadReport


class ResponseStored(msgspec.Struct, frozen=True):
    """The replica keeps this Responses object, so later calls about it must go there."""

    replica: str
    at: float
    response_id: str


class CacheEvents(msgspec.Struct, frozen=True):
    """What one data-parallel rank of the replica said of its prefix cache, in order and without a gap so far."""

    replica: str
    at: float
    rank: int
    events: tuple[CacheEvent, ...]


class CacheFenced(msgspec.Struct, frozen=True):
    """Events may be missing: nothing of the replica is believed until `CacheSynced` or `CacheLost` of the rank."""

    replica: str
    at: float
    rank: int
    reason: str


class CacheSynced(msgspec.Struct, frozen=True):
    """From here on the rank's events are complete: all it stores and drops will be said.

    What is known of the rank stays known; `CacheLost` comes before this where it is not.
    """

    replica: str
    at: float
    rank: int


class CacheLost(msgspec.Struct, frozen=True):
    """What the rank said of its cache no longer holds: forget it. Unless `CacheSynced` follows, nobody listens."""

    replica: str
    at: float
    rank: int
    reason: str


class CacheReset(msgspec.Struct, frozen=True):
    """Somebody told the engine to drop its prefix cache, some time before."""

    replica: str
    at: float


class PeerHeard(msgspec.Struct, frozen=True):
    """Another gateway told of its requests; `at` is when it did, on our clock."""

    at: float
    batch: Batch


class PeerGone(msgspec.Struct, frozen=True):
    """Another gateway ended, by its own word or by that of whoever saw it."""

    at: float
    sender: str


class PeersSilent(msgspec.Struct, frozen=True):
    """Gateways that were not heard since then are taken to be gone."""

    at: float
    since: float


Fact = (
    Dispatched
    | FirstToken
    | Finished
    | AttemptFailed
    | StreamBroke
    | Withdrawn
    | Refused
    | PoolConfigured
    | PoolRemoved
    | ReplicaAdded
    | ReplicaDraining
    | ReplicaResumed
    | ReplicaRemoved
    | RoutingChanged
    | ExperimentsChanged
    | Exposed
    | ReplicaUp
    | ReplicaDown
    | ReplicaRestarted
    | ReplicaBusy
    | LoadReported
    | ResponseStored
    | CacheEvents
    | CacheFenced
    | CacheSynced
    | CacheLost
    | CacheReset
    | PeerHeard
    | PeerGone
    | PeersSilent
)
