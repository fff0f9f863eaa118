"""Writes the gateway's figures into its history every ten seconds; of several workers only the first does; does I/O."""

import asyncio
import logging
import time
from typing import Final

from gateway.serving.gateway import Gateway
from gateway.serving.history.history import History
from gateway.serving.history.store import RESOLUTIONS
from gateway.serving.history.sums import Meter
from gateway.serving.whole import whole_report

_log: Final = logging.getLogger("prefixgate")
EVERY_S: Final = RESOLUTIONS[0].seconds


class Recorder:
    """Runs from `start` to `close`, which writes what came last."""

    def __init__(self, gateway: Gateway, history: History) -> None:
        self._gateway = gateway
        self._history = history
        self._writes = gateway.siblings is None or gateway.siblings.number == 0
        self._meter: Meter | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin, where this process is the one that writes."""
        if self._writes:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(_told)

    async def close(self) -> None:
        """End. What other workers counted since the last look is lost with them."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            if self._meter is not None and self._gateway.siblings is None:
                await self._record(self._meter)

    async def _run(self) -> None:
        self._meter = Meter((await whole_report(self._gateway)).snapshot)
        while True:
            await asyncio.sleep(EVERY_S - time.time() % EVERY_S)
            await self._record(self._meter)

    async def _record(self, meter: Meter) -> None:
        gpus = {pool.name: pool.gpus_per_replica for pool in self._gateway.config.pools}
        at = time.time() - EVERY_S / 2  # in the middle of the time that is told of
        came = meter.read((await whole_report(self._gateway)).snapshot, gpus)
        await self._history.add(at, came)


def _told(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("the history's recorder failed inside the gateway", exc_info=error)
