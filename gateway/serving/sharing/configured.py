"""The channel that the configuration asks for; does I/O once it is opened."""

from gateway.config import Config
from gateway.routing.batch import FORMAT
from gateway.serving.sharing.channel import Channel


def configured_channel(config: Config) -> Channel | None:
    """Over the configured Redis, if there is one. Gateways meet in a fleet's name, which says what must agree.

    Raises ConfigError for a URL that makes no sense.
    """
    if config.state.redis_url is None:
        return None
    from gateway.serving.sharing.redis_channel import RedisChannel  # slow to import, and rarely wanted

    return RedisChannel(config.state.redis_url, f"v{FORMAT}-blocks-of-{config.routing.block_bytes}")
