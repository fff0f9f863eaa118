"""The history while the gateway runs: its file, written and read in a thread of its own; does I/O."""

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from gateway.config import ConfigError
from gateway.serving.history.store import Slice, Store
from gateway.serving.history.sums import Place, Sums

_log: Final = logging.getLogger("prefixgate")
T = TypeVar("T")


class History:
    """One open file."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1, "history")
        self._failure = ""

    async def add(self, at: float, came: Mapping[Place, Sums]) -> None:
        """Write down what came in the time that ended at `at`; a disk that fails is reported, and tried again."""
        try:
            await self._do(lambda: self._store.add(at, came))
        except sqlite3.Error as error:
            if not self._failure:
                _log.error("the history is not written: %s", error)
            self._failure = str(error)
        else:
            self._failure = ""

    async def read(self, since: float, resolution: int) -> list[Slice]:
        """Slices that begin at `since` or after, the oldest first. Raises sqlite3.Error."""
        return await self._do(lambda: self._store.read(since, resolution))

    def notices(self) -> list[str]:
        """What an operator should know: sentences."""
        return [f"the history is not written: {self._failure}"] if self._failure else []

    async def close(self) -> None:
        """Close the file."""
        await self._do(self._store.close)
        self._thread.shutdown()

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def open_history(folder: Path) -> History:
    """The history that is kept in the folder. Raises ConfigError where it cannot be."""
    try:
        return History(Store(folder))
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"[state] path: no history can be kept in {folder}: {why}") from error
