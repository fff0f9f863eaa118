"""A simulated engine that takes its time to load."""

import asyncio
import os
import signal

from engines.simulated.server import _serve_until_signal
from engines.simulated.settings import SimulatorSettings


async def test_it_listens_once_it_has_loaded_and_ends_when_told() -> None:
    said: list[str] = []
    loading = asyncio.create_task(_serve_until_signal(SimulatorSettings(start_s=600), said.append))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)  # its handler is there: this process hears nothing else of it
    await asyncio.wait_for(loading, 20)
    assert said == []
    loaded = asyncio.create_task(_serve_until_signal(SimulatorSettings(start_s=0.01), said.append))
    async with asyncio.timeout(20):
        while not said:  # noqa: ASYNC110 - it announces itself by a call
            await asyncio.sleep(0.005)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(loaded, 20)
    assert said[0].startswith("http://127.0.0.1:")
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().remove_signal_handler(number)
