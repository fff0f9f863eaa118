"""Has reports made in processes of their own: numpy and scipy neither load nor compute where we serve; does I/O."""

import asyncio
import os
import sys
import time
from pathlib import Path
from typing import Final, Literal

import msgspec

FRESH_S: Final = 5.0
"""A report that is no older is given again."""
PATIENCE_S: Final = 180.0

Kind = Literal["json", "html", "breaches", "observations"]


class AnalysisError(Exception):
    """There is no report; the message is a sentence."""


class Headline(msgspec.Struct, frozen=True):
    """A report's verdict in words, and when it was made (seconds since the Unix epoch)."""

    sentence: str
    at: float


class _Sentence(msgspec.Struct):
    sentence: str


class Analyst:
    """Asks for one report of a kind at a time, however many want it."""

    def __init__(self, store: Path) -> None:
        self.headlines: dict[str, Headline] = {}
        self._store = store
        self._made: dict[tuple[str, Kind], tuple[float, asyncio.Task[bytes]]] = {}
        self._one = asyncio.Semaphore(1)

    async def report(self, name: str, kind: Kind) -> bytes:
        """The report of an experiment, as of at most `FRESH_S` ago. Raises AnalysisError."""
        now = time.monotonic()
        made = self._made.get((name, kind))
        if made is None or (made[1].done() and (now - made[0] >= FRESH_S or made[1].exception() is not None)):
            self._made = {key: one for key, one in self._made.items() if not one[1].done() or now - one[0] < FRESH_S}
            task = asyncio.create_task(self._ask(name, kind))
            task.add_done_callback(_looked_at)
            made = self._made[name, kind] = now, task
        return await asyncio.shield(made[1])

    async def close(self) -> None:
        """Wait for nothing any more."""
        tasks = [task for _, task in self._made.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, name: str, kind: Kind) -> bytes:
        async with self._one:
            said = await self._run(name, kind)
        if kind == "json":
            self.headlines[name] = Headline(msgspec.json.decode(said, type=_Sentence).sentence, time.time())
        return said

    async def _run(self, name: str, kind: Kind) -> bytes:
        """Run `analysis.py` on what is in the store."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "gateway.serving.experiments.analysis", str(self._store), name, kind),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(PATIENCE_S):
                said, complaint = await process.communicate()
        except TimeoutError as error:
            raise AnalysisError(f"the report took more than {PATIENCE_S:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            words = complaint.decode(errors="replace").strip().splitlines()
            raise AnalysisError(words[-1] if words else f"the analysis ended with status {process.returncode}")
        return said


def _looked_at(task: asyncio.Task[bytes]) -> None:
    """Its failure is for who asks next, or for nobody."""
    if not task.cancelled():
        task.exception()
