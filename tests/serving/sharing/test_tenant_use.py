"""What tenants use, told to other processes over both kinds of channel."""

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from gateways import until

from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router
from gateway.serving.sharing.channel import Channel
from gateway.serving.sharing.sharer import Sharer
from gateway.tenancy.tenancy import Tenancy
from gateway.tenancy.tenant import TenantSpec, Visit

Connect = Callable[[], Awaitable[Channel]]
SPEC = TenantSpec("ann", ("sha256:" + "0" * 64,), tokens_per_minute=6000, max_concurrency=8)


class Side:
    """A process with one tenant."""

    def __init__(self, channel: Channel) -> None:
        self.tenancy = Tenancy([SPEC], required=True)
        (self.tenant,) = self.tenancy
        router = Router([PoolSpec("p", "m", (ReplicaSpec("r", "http://r"),))])
        self.sharer = Sharer(channel, router, router.observe, time.monotonic, self.tenancy)

    def let_in(self, tokens: int) -> Visit:
        visit = self.tenant.admit(tokens, 0, time.monotonic())
        assert isinstance(visit, Visit)
        return visit

    @property
    def left(self) -> int:
        allowance = self.tenant.tokens_left(time.monotonic())
        assert allowance is not None
        return allowance.left


async def test_what_is_charged_here_is_charged_there(connect: Connect) -> None:
    async with AsyncExitStack() as stack:
        one, two = Side(await connect()), Side(await connect())
        for side in (one, two):
            await side.sharer.start()
        stack.push_async_callback(two.sharer.stop)
        visits = [one.let_in(1000) for _ in range(5)]
        await until(lambda: two.tenant.elsewhere == 5)
        assert two.left < 2000
        assert one.tenant.elsewhere == 0, "what it has in flight itself is not elsewhere"
        for visit in visits[:4]:
            visit.end(10, time.monotonic())
        await until(lambda: two.tenant.elsewhere == 1)
        assert two.left > 4500
        await one.sharer.stop()
        await until(lambda: two.tenant.elsewhere == 0)
