"""All tests run on the event loop that the gateway runs on; a busy machine fails no property test."""

from collections.abc import Callable
from typing import Any

import uvloop
from hypothesis import HealthCheck, settings

settings.register_profile("prefixgate", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("prefixgate")


def pytest_asyncio_loop_factories(config: Any, item: Any) -> dict[str, Callable[[], Any]]:
    return {"uvloop": uvloop.new_event_loop}
