"""The shadows of one process: which requests have a copy, and what waits to be sent; pure, and cheap where none has."""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Final, Protocol

from xxhash import xxh3_64_intdigest

from gateway.config.shadows import ShadowConfig
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.experiments.assignment import chain_of, family_link
from gateway.serving.shadowing.mirror import Copied, Mirror, Said
from gateway.serving.shadowing.tally import Fate, ShadowFigures, Tally
from gateway.wire.request import Endpoint

MOST_WAITING: Final = 64
"""Copies of one shadow that may wait for their turn."""
MOST_BODY_BYTES: Final = 2 << 20
"""Longer requests have no copy."""
MOST_BYTES: Final = 32 << 20
"""Of bodies that wait, of one shadow."""

_MIRRORED: Final = frozenset((Endpoint.CHAT, Endpoint.COMPLETIONS, Endpoint.MESSAGES))
"""Not responses: an engine would keep the copy's too."""
_COMPARED: Final = frozenset((Endpoint.CHAT, Endpoint.COMPLETIONS))
_SPAN: Final = 2.0**64


class Line:
    """One shadow, and who waits to be sent there."""

    def __init__(self, config: ShadowConfig, tally: Tally) -> None:
        self.config = config
        self.tally = tally
        self.waiting: deque[Mirror] = deque()
        self.inflight: set[Mirror] = set()
        self.bytes = 0
        """Of the bodies that wait."""
        self._seed = xxh3_64_intdigest(config.name.encode())

    def wants(self, copied: Copied, decision: Decision) -> bool:
        """Whether such a request is to have a copy; the same for all of a prefix family."""
        config, pool = self.config, decision.chosen.pool
        if pool == config.to or (config.from_pools and pool not in config.from_pools):
            return False
        if config.models and decision.model not in config.models:
            return False
        if config.tenants and copied.asked.tenant not in config.tenants:
            return False
        return xxh3_64_intdigest(_unit(copied.asked), self._seed) < config.share * _SPAN

    def takes(self, copied: Copied) -> bool:
        """Whether one more may wait."""
        return len(self.waiting) < MOST_WAITING and self.bytes + len(copied.body) <= MOST_BYTES

    def put(self, mirror: Mirror, size: int) -> None:
        """Let it wait."""
        self.waiting.append(mirror)
        self.bytes += size

    def next(self) -> Mirror | None:
        """Whose turn it is; None where nobody waits, or enough is in flight."""
        while self.waiting and len(self.inflight) < self.config.max_inflight:
            mirror = self.waiting.popleft()
            assert mirror.copied is not None  # noqa: S101 - it is given away when it is sent
            self.bytes -= len(mirror.copied.body)
            if not mirror.unwanted:
                return mirror
            self.tally.count(Fate.ABANDONED)
        return None

    def figures(self) -> ShadowFigures:
        """As of now."""
        one = self.config
        return self.tally.figures(one.name, one.to, one.share, one.compare, len(self.waiting), len(self.inflight))


class Sender(Protocol):
    """Sends copies."""

    def send(self, line: Line) -> None:
        """Somebody waits there. Must not wait itself."""

    def settle(self, line: Line, mirror: Mirror) -> None:
        """A request and its copy are both over. Must not wait itself."""


class Shadows:
    """Told of each request that is sent; without a `sender` there are no copies."""

    def __init__(self, clock: Callable[[], float], rng: Random) -> None:
        self.lines: tuple[Line, ...] = ()
        self.sender: Sender | None = None
        self._clock = clock
        self._rng = rng

    def configure(self, shadows: Sequence[ShadowConfig]) -> None:
        """These from now on. One that was there before goes on counting; what is in flight ends as it began."""
        before = {line.config.name: line for line in self.lines}
        for line in self.lines:
            line.waiting.clear()
            line.bytes = 0
        self.lines = tuple(self._line(config, before.get(config.name)) for config in shadows)

    def _line(self, config: ShadowConfig, before: Line | None) -> Line:
        if before is None or before.config.to != config.to:
            return Line(config, Tally(Random(self._rng.getrandbits(64))))
        line = Line(config, before.tally)
        line.inflight = before.inflight
        return line

    def offer(self, copied: Copied, decision: Decision) -> list[Mirror]:
        """A client's request goes where the decision says: the copies that it may have. Never waits, never raises."""
        request, sender = copied.request, self.sender
        if (
            sender is None
            or copied.endpoint not in _MIRRORED
            or len(copied.body) > MOST_BODY_BYTES
            or request.names_request  # two of one name may meet at one engine
            or request.previous_response_id is not None
            or copied.asked.pinned_pool is not None
            or copied.asked.pinned_replica is not None
        ):
            return []
        mirrors = []
        for line in self.lines:
            if not line.wants(copied, decision):
                continue
            if not line.takes(copied):
                line.tally.count(Fate.DROPPED_FULL)
                continue
            mirror = Mirror(copied, self._clock(), partial(sender.settle, line))
            if line.config.compare == "text" and copied.endpoint in _COMPARED:
                mirror.copy_said = Said()
            line.put(mirror, len(copied.body))
            mirrors.append(mirror)
            sender.send(line)
        return mirrors

    def figures(self) -> tuple[ShadowFigures, ...]:
        """Of all of them."""
        return tuple(line.figures() for line in self.lines)


def _unit(asked: RouteRequest) -> bytes:
    """A family as a whole, so that the other pool's caches see what a pool's caches see.

    Families are those of experiments: by the first block alone, one shared system prompt would be all of the traffic.
    """
    family = family_link(chain_of(asked))
    return asked.request_id.encode() if family is None else family.to_bytes(8, "big")
