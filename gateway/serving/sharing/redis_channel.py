"""The channel of gateways on several machines: a Redis stream for the log, a key for the snapshot; does I/O."""

import asyncio
import time
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from gateway.config import ConfigError
from gateway.serving.sharing.channel import MOST_READ, PATIENCE_S, WAIT_S, ChannelError, Entry, Kept, News

MOST_ENTRIES: Final = 20_000
"""In the stream, about; with 50 batches a second of each gateway a minute or more."""
KEPT_S: Final = 600
"""For which a snapshot is of use: engines serve others meanwhile, or start again."""
CLOCK_EVERY_S: Final = 30.0
_FIRST: Final = "0-0"


class RedisChannel:
    """A `Channel` over Redis 5 or newer. Gateways meet that name the same `fleet`.

    An entry's position is the id that Redis gave it, and begins with the server's time: that is where ages come from.
    Raises ConfigError for a URL that cannot be used.
    """

    name = "redis"

    def __init__(self, url: str, fleet: str) -> None:
        self._log = f"prefixgate:{fleet}:log"
        self._snapshot = f"prefixgate:{fleet}:snapshot"
        self._lock = f"prefixgate:{fleet}:turn"
        try:
            parts = urlsplit(url)
            self._secret = parts.password
            self._where = f"Redis at {parts.hostname or parts.path}" + (f":{parts.port}" if parts.port else "")
            self._redis = _client(url)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"[state] redis_url: {error}") from error
        self._ahead_s = 0.0  # the server's clock before ours
        self._compared_at = 0.0

    async def open(self) -> None:
        """Connect, and compare clocks."""
        await self._compare()

    async def append(self, sender: str, payload: bytes) -> None:
        """Say something."""
        await self._asked("XADD", self._log, "MAXLEN", "~", MOST_ENTRIES, "*", "s", sender, "b", payload)

    async def read(self, after: str) -> News:
        """What was said after this position."""
        if time.monotonic() - self._compared_at > CLOCK_EVERY_S:
            await self._compare()
        wait_ms = round(WAIT_S * 1000)
        answer = await self._asked("XREAD", "COUNT", MOST_READ, "BLOCK", wait_ms, "STREAMS", self._log, after or _FIRST)
        now = time.monotonic() + self._ahead_s
        entries = [_entry(position, fields, now) for _, found in answer or () for position, fields in found]
        return News(entries[-1].position if entries else after, entries)

    async def load(self) -> Kept | None:
        """The latest snapshot, if it is not too old."""
        fields = await self._asked("HGETALL", self._snapshot)
        return Kept(fields[b"p"].decode(), fields[b"b"]) if fields.keys() >= {b"p", b"b"} else None

    async def save(self, kept: Kept) -> None:
        """Replace it."""
        await self._asked("HSET", self._snapshot, "p", kept.position, "b", kept.payload)
        await self._asked("EXPIRE", self._snapshot, KEPT_S)

    async def turn(self, for_s: float) -> bool:
        """Whether it is our turn to save one."""
        return bool(await self._asked("SET", self._lock, "1", "NX", "PX", round(for_s * 1000)))

    async def close(self) -> None:
        """Disconnect."""
        await self._redis.aclose()

    async def _compare(self) -> None:
        seconds, microseconds = await self._asked("TIME")
        self._compared_at = time.monotonic()
        self._ahead_s = seconds + microseconds / 1e6 - self._compared_at

    async def _asked(self, *command: str | bytes | int) -> Any:
        task = asyncio.current_task()
        asked_to_end = task.cancelling() if task is not None else 0
        try:
            answer = await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        except (RedisError, OSError, TimeoutError) as error:
            _end_if_asked(task, asked_to_end)
            said = str(error).rstrip(".") or type(error).__name__
            if self._secret:
                said = said.replace(self._secret, "…")
            raise ChannelError(f"{self._where}: {said}") from error
        _end_if_asked(task, asked_to_end)
        return answer


def _end_if_asked(task: "asyncio.Task[Any] | None", before: int) -> None:
    """The client's wait_for (Python 3.11's) may swallow a cancellation that comes with an answer."""
    if task is not None and task.cancelling() > before:
        raise asyncio.CancelledError


def _client(url: str) -> Redis:
    client: Redis = Redis.from_url(
        url,
        socket_timeout=PATIENCE_S,
        socket_connect_timeout=PATIENCE_S,
        retry=Retry(NoBackoff(), 0),
        protocol=2,
    )
    pool = client.connection_pool
    pool.connection_class(**pool.connection_kwargs)  # what the URL asks for is looked at only here
    return client


def _entry(position: bytes, fields: dict[bytes, bytes], now: float) -> Entry:
    milliseconds, _, _ = position.partition(b"-")
    age_s = max(now - int(milliseconds) / 1000, 0.0)
    return Entry(position.decode(), fields.get(b"s", b"").decode("utf-8", "replace"), age_s, fields.get(b"b", b""))
