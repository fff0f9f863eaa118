"""All event feeds of a gateway: one for each rank of each replica that says where it publishes; does I/O."""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from ipaddress import IPv6Address
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import zmq

from engines.cache_events import EventSource
from gateway.config import Config, EventsConfig
from gateway.routing.facts import Fact
from gateway.serving.events.feed import EventFeed
from gateway.serving.events.intake import FeedStatus
from gateway.serving.events.sockets import Context

if TYPE_CHECKING:
    from gateway.serving.gateway import Backend

MOST_RANKS: Final = 1024
"""Feeds of one replica."""
MOST_SOCKETS: Final = 65_536
"""A feed has four; ZMQ's own limit is 1023 in all."""
_ENDPOINT: Final = re.compile(r"tcp://(\[[^\]]+\]|[^\[\]/]*):(\d{1,5})")
_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,253}")
_WILDCARDS: Final = ("", "*", "0.0.0.0", "::")  # noqa: S104 - what engines bind


class EventFeeds:
    """Starts and stops feeds as replicas say where they publish. Nothing is opened before the first one does."""

    def __init__(self, config: Config, observe: Callable[[Fact], None], clock: Callable[[], float]) -> None:
        self._settings: dict[str, EventsConfig] = {}
        self.configure(config)
        self._interval_s = config.polling.interval_s
        self._observe = observe
        self._clock = clock
        self._context: Context | None = None
        self._feeds: dict[str, dict[EventSource, EventFeed]] = {}
        self._leaving: set[EventFeed] = set()  # being closed, by an update that may be cancelled

    def configure(self, config: Config) -> None:
        """The pools are these now."""
        # Events name tokens: without the tokens of prompts they could be compared with nothing.
        self._settings = {pool.name: pool.events for pool in config.pools if pool.tokens != "none"}

    def wanted(self, pool: str) -> bool:
        """Whether the pool's replicas are to say themselves where they publish."""
        settings = self._settings.get(pool)
        return settings is not None and settings.mode == "auto" and settings.port is None

    async def update(self, backend: "Backend", said: Sequence[EventSource]) -> None:
        """Listen to the sources of the configuration, else to those that the replica says it has.

        Feeds of sources that are still there go on. A replica that says nothing keeps the feeds that it has: a page
        may have failed, and a feed whose publisher is gone is lost by itself.
        """
        settings = self._settings.get(backend.pool)
        running = self._feeds.setdefault(backend.name, {})
        if settings is None or settings.mode == "off":
            return
        sources = _configured(settings) or said
        if running and not sources:
            return
        wanted = reachable(sources, backend.url)
        await self._end([running.pop(source) for source in list(running) if source not in wanted])
        for source in wanted:
            if source not in running:
                running[source] = self._start(backend, source)

    async def drop(self, replica: str) -> None:
        """Listen no more to a replica that was removed."""
        await self._end(list(self._feeds.pop(replica, {}).values()))

    async def _end(self, feeds: Sequence[EventFeed]) -> None:
        self._leaving.update(feeds)
        await asyncio.gather(*(feed.close() for feed in feeds))
        self._leaving.difference_update(feeds)

    def messages(self, replica: str) -> int:
        """How many messages the replica's feeds took."""
        return sum(feed.intake.batches for feed in self._of(replica))

    def missed(self, replica: str) -> None:
        """The replica must have said something that did not come. Where it can be asked for, that is done anyway."""
        for feed in self._of(replica):
            if not feed.status().replays:
                feed.begin_anew("the engine works, and says nothing")

    def restarted(self, replica: str) -> None:
        """The replica's process is a new one."""
        for feed in self._of(replica):
            feed.restarted()

    def stir(self, replica: str) -> None:
        """The replica did something since this was said last."""
        for feed in self._of(replica):
            feed.stir()

    def warnings(self, replica: str) -> list[str]:
        """One sentence for each of the replica's feeds that does not do its work."""
        return [sentence for feed in self._of(replica) if (sentence := _warning(feed.status())) is not None]

    def statuses(self) -> tuple[FeedStatus, ...]:
        """How each feed stands, by replica and rank."""
        statuses = (feed.status() for feeds in self._feeds.values() for feed in feeds.values())
        return tuple(sorted(statuses, key=lambda status: (status.replica, status.rank)))

    async def close(self) -> None:
        """Listen to nobody."""
        feeds = [*self._leaving, *(feed for feeds in self._feeds.values() for feed in feeds.values())]
        self._feeds.clear()
        await asyncio.gather(*(feed.close() for feed in feeds))
        if self._context is not None:
            self._context.term()  # waits for sockets that are still open: there must be none
            self._context = None

    def _of(self, replica: str) -> list[EventFeed]:
        return list(self._feeds.get(replica, {}).values())

    def _start(self, backend: "Backend", source: EventSource) -> EventFeed:
        if self._context is None:
            self._context = zmq.Context()
            self._context.set(zmq.MAX_SOCKETS, MOST_SOCKETS)
        return EventFeed(
            self._context,
            backend.name,
            source,
            backend.dialect,
            self._observe,
            self._clock,
            interval_s=self._interval_s,
        )


def _warning(status: FeedStatus) -> str | None:
    where = f"KV events from {status.endpoint}"
    if status.state != "live":
        reason = f" ({status.reason})" if status.reason else ""
        return (
            f"{where} are not heard{reason}, so that what it caches is guessed: check that the port is open to the "
            'gateway and that the engine binds it ("tcp://*:5557" binds, a host\'s name does not)'
        )
    if not status.replays:
        return (
            f"{where} cannot be asked for again, so that one lost message makes all knowledge of its cache worthless: "
            'add "replay_endpoint": "tcp://*:5558" to its --kv-events-config'
        )
    return None


def reachable(sources: Sequence[EventSource], url: str) -> tuple[EventSource, ...]:
    """The sources with endpoints that can be connected to, one for each rank; `url` is the replica's own."""
    host = urlsplit(url).hostname or ""
    found: dict[int, EventSource] = {}
    for source in sources[:MOST_RANKS]:
        endpoint = _connectable(source.endpoint, host)
        if endpoint is not None:
            asked = None if source.replay_endpoint is None else _connectable(source.replay_endpoint, host)
            found.setdefault(source.rank, replace(source, endpoint=endpoint, replay_endpoint=asked))
    return tuple(found.values())


def _connectable(endpoint: str, own_host: str) -> str | None:
    """The endpoint with the replica's own host for a wildcard; None for what is not a TCP endpoint."""
    parts = _ENDPOINT.fullmatch(endpoint)
    if parts is None or not 0 < int(parts[2]) < 65536:
        return None
    host = parts[1].strip("[]")
    host = own_host if host in _WILDCARDS else host
    if ":" not in host:
        return f"tcp://{host}:{parts[2]}" if _NAME.fullmatch(host) else None
    try:
        return f"tcp://[{IPv6Address(host)}]:{parts[2]}"
    except ValueError:
        return None


def _configured(settings: EventsConfig) -> tuple[EventSource, ...]:
    """The ports of the configuration, on the replica's own host."""
    if settings.port is None:
        return ()
    return tuple(
        EventSource(
            rank,
            f"tcp://*:{settings.port + rank}",
            None if settings.replay_port is None else f"tcp://*:{settings.replay_port + rank}",
            settings.topic,
        )
        for rank in range(settings.ranks)
    )
