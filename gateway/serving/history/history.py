"""The history while the gateway runs: its file, written and read in a thread of its own; does I/O."""

import asyncio
import logging
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from gateway.config import Config, ConfigError
from gateway.serving.history.store import Slice, Store
from gateway.serving.history.sums import Place, Sums

FOLDER_ENV: Final = "PREFIXGATE_STATE_FOLDER"
"""Where the parent of several workers, which share one file, tells them a folder when none is configured."""

_log: Final = logging.getLogger("prefixgate")
T = TypeVar("T")


class History:
    """One open file; `drawn` is a folder of our own that goes with us."""

    def __init__(self, store: Store, drawn: Path | None = None) -> None:
        self._store = store
        self._drawn = drawn
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
        """Close the file, and remove it where it was only for the time being."""
        await self._do(self._store.close)
        self._thread.shutdown()
        if self._drawn is not None:
            shutil.rmtree(self._drawn, ignore_errors=True)

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def open_history(config: Config) -> History:
    """The configured folder's history; without one, a file that lasts as long as the gateway.

    Raises ConfigError where it cannot be kept.
    """
    named = config.state.path or os.environ.get(FOLDER_ENV)
    folder = Path(named) if named else Path(tempfile.mkdtemp(prefix="prefixgate-"))
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return History(Store(folder), None if named else folder)
    except (OSError, sqlite3.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise ConfigError(f"[state] path: no history can be kept in `{folder}`: {why}") from error
