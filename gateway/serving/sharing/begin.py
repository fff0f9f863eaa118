"""Which channel a gateway shares over, if any; does I/O."""

from collections.abc import Callable

from gateway.config import Config
from gateway.routing.batch import FORMAT
from gateway.routing.facts import Fact
from gateway.routing.router import Router
from gateway.serving.sharing.channel import Channel
from gateway.serving.sharing.sharer import Sharer


async def begin_sharing(
    config: Config, router: Router, observe: Callable[[Fact], None], clock: Callable[[], float], channel: Channel | None
) -> Sharer | None:
    """Share over this channel, or over the configured Redis; None where there is neither.

    Gateways meet in a fleet's name, which says what must agree between them.
    """
    if channel is None and config.state.redis_url:
        from gateway.serving.sharing.redis_channel import RedisChannel  # slow to import, and rarely wanted

        channel = RedisChannel(config.state.redis_url, f"v{FORMAT}-blocks-of-{config.routing.block_bytes}")
    if channel is None:
        return None
    sharer = Sharer(channel, router, observe, clock)
    await sharer.start()
    return sharer
