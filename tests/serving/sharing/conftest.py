"""Channels of both kinds, and a Redis."""

import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
from redis_server import RedisServer

from gateway.serving.sharing.channel import Channel
from gateway.serving.sharing.embedded import EmbeddedChannel
from gateway.serving.sharing.hub import Hub
from gateway.serving.sharing.redis_channel import RedisChannel

Connect = Callable[[], Awaitable[Channel]]


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(params=["workers", "redis"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    """`await connect()`: one more gateway on the same channel, which is new."""
    channels: list[Channel] = []
    hub = Hub()
    server = RedisServer() if request.param == "redis" else None
    if server is not None:
        server.start()

    async def one_more() -> Channel:
        channel: Channel
        if server is not None:
            channel = RedisChannel(server.url, "test")
        else:
            ours, theirs = socket.socketpair()
            await hub.attach(ours)
            channel = EmbeddedChannel(theirs)
        channels.append(channel)
        await channel.open()
        return channel

    yield one_more
    for channel in channels:
        await channel.close()
    await hub.close()
    if server is not None:
        server.kill()
