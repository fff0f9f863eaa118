"""The recorder: puts what is observed into the store from a thread, so that no request waits for a disk; does I/O."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from gateway.experiments.terms import Terms
from gateway.serving.experiments.store import Observed, Store, StoreError
from gateway.serving.experiments.trial import Event, Trial

QUEUE_ROWS: Final = 16_384
"""Rows that may wait for the disk; what comes on top is dropped and counted."""
EVERY_S: Final = 0.5
"""Rows are written together."""
TRIM_EVERY_S: Final = 30.0
CLOSE_S: Final = 10.0
"""How long the end of the process waits for the disk."""

_log: Final = logging.getLogger("prefixgate")

Work = Callable[[Store], None]


class Recorder:
    """Takes what is to be kept. All but the thread's own work is called from one thread.

    The thread begins with the first thing to write: without experiments there is neither thread nor file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = {"written": 0, "dropped": 0, "failed": 0}
        """Observations so far, by what became of them."""
        self._trouble: str | None = None
        self._queue: queue.SimpleQueue[Observed | Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._store: Store | None = None
        self._owed: list[Work] = []
        """How experiments stand, as far as the disk did not take it: a restart must not find one running again."""

    def add(self, row: Observed) -> None:
        """Have it written; never waits."""
        self._put(row)

    def keep(self, trials: Sequence[tuple[Trial, Terms]], events: Sequence[Event]) -> None:
        """Have the trials written as they stand, and what happened to them."""
        self._put(lambda store: store.keep(trials, events))

    def forget(self, name: str) -> None:
        """Have all of an experiment taken out."""
        self._put(lambda store: store.forget(name))

    def notices(self) -> list[str]:
        """What an operator should know: sentences."""
        notices = [] if self._trouble is None else [self._trouble]
        if dropped := self.counts["dropped"]:
            notices.append(f"{dropped} observations of experiments were dropped: more came than the disk takes")
        if failed := self.counts["failed"]:
            notices.append(f"{failed} observations of experiments could not be written")
        return notices

    def close(self) -> None:
        """Write what waits, then no more. Blocks, but not for ever."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._queue.put(None)
        thread.join(CLOSE_S)
        if thread.is_alive():
            _log.warning("the store of experiments does not answer: about %d rows are lost", self._queue.qsize())

    def _put(self, what: Observed | Work) -> None:
        if isinstance(what, Observed) and (self._closed or self._queue.qsize() >= QUEUE_ROWS):
            self.counts["dropped"] += 1
            return
        if self._closed:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._write_all, name="prefixgate-experiments", daemon=True)
            self._thread.start()
        self._queue.put(what)

    # ── in the thread ────────────────────────────────────────────────────────────────────────────

    def _write_all(self) -> None:
        trim_at = time.monotonic() + TRIM_EVERY_S
        over = False
        while not over:
            waiting = [self._queue.get()]
            if waiting[0] is not None and not self._closed:
                time.sleep(EVERY_S if isinstance(waiting[0], Observed) else 0)
            while not self._queue.empty():
                waiting.append(self._queue.get())
            over = None in waiting
            self._write([one for one in waiting if one is not None])
            if time.monotonic() >= trim_at:
                self._do(Store.trim)
                trim_at = time.monotonic() + TRIM_EVERY_S
        if self._store is not None:
            self._store.close()

    def _write(self, waiting: Sequence[Observed | Work]) -> None:
        """In order: rows between two other pieces of work together."""
        while self._owed and self._do(self._owed[0]):
            del self._owed[0]
        rows: list[Observed] = []
        for one in waiting:
            if isinstance(one, Observed):
                rows.append(one)
                continue
            self._add(rows)
            rows = []
            if self._owed or not self._do(one):
                self._owed.append(one)
        self._add(rows)

    def _add(self, rows: Sequence[Observed]) -> None:
        if rows:
            self.counts["written" if self._do(lambda store: store.add(rows)) else "failed"] += len(rows)

    def _do(self, work: Work) -> bool:
        """Whether it was done; trouble is told once, and again when it is over."""
        try:
            if self._store is None:
                self._store = Store(self.path)
            work(self._store)
        except StoreError as error:
            if self._trouble is None:
                self._trouble = f"what is observed of experiments is not kept: {error}"
                _log.warning("%s; requests go on without it", self._trouble)
            return False
        if self._trouble is not None:
            self._trouble = None
            _log.warning("the store of experiments %s is written again", self.path)
        return True
