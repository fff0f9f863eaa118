"""The journal's writer: a bounded queue and a thread, so that no request ever waits for a disk; does I/O."""

import logging
import os
import queue
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from gateway.config import Config, ConfigError, JournalConfig, PoolConfig
from gateway.journal.entry import Draft, Entry
from gateway.journal.lines import VERSION, FleetPool, JournalHeader, encode
from gateway.journal.salt import LEAST_CHARACTERS, Salt
from gateway.routing.snapshot import ReplicaView, Snapshot
from gateway.serving.rotating_file import RotatingFile

QUEUE_LINES: Final = 4096
"""Lines that may wait for the disk; what comes on top is dropped and counted."""
FLEET_EVERY_S: Final = 30.0
"""How often it is looked whether the fleet has changed."""
CLOSE_S: Final = 5.0
"""How long the end of the process waits for the disk."""
_GROUP_LINES: Final = 16  # then a write lets the event loop go on
_GROUP_BYTES: Final = 32 * 1024  # less than any file may hold

_log: Final = logging.getLogger("prefixgate")


def open_journal(config: Config) -> "Journal | None":
    """The journal that is configured; None without one. Nothing is written yet. Raises ConfigError."""
    journal = config.journal
    if journal.path is None:
        return None
    path = Path(journal.path)
    _check_place(path)
    file = RotatingFile(path, max_bytes=journal.max_bytes, keep=journal.keep)
    return Journal(file, Salt(_secret(journal)), config.pools)


class Journal:
    """Takes the entries of ended requests. All but the thread's own work is called from one thread."""

    def __init__(self, file: RotatingFile, salt: Salt, pools: Sequence[PoolConfig]) -> None:
        self.counts = {"written": 0, "dropped": 0, "failed": 0}
        """Lines so far, by what became of them."""
        self._trouble: str | None = None
        self._pools = pools
        self._started_at = time.time()
        self._origin = time.monotonic()
        self._fleet: tuple[FleetPool, ...] | None = None
        self._fleet_due = self._origin
        self._queue: queue.Queue[Draft | JournalHeader | None] = queue.Queue(QUEUE_LINES)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._file = file
        self._salt = salt

    def add(self, entry: Entry, snapshot: Callable[[], Snapshot]) -> None:
        """Have the line of an ended request written; never waits."""
        if self._thread is None and not self._closed:
            self._thread = threading.Thread(target=self._write_all, name="prefixgate-journal", daemon=True)
            self._thread.start()
        if self._closed:
            self.counts["dropped"] += 1
            return
        try:
            if (now := time.monotonic()) >= self._fleet_due:
                self._look_at(snapshot())
                self._fleet_due = now + FLEET_EVERY_S
            self._queue.put_nowait(entry.draft(self._origin))
        except queue.Full:
            self.counts["dropped"] += 1

    def configure(self, pools: Sequence[PoolConfig]) -> None:
        """The pools, or their replicas, are others now: the next line comes under a new header."""
        self._pools = pools
        self._fleet_due = 0.0

    def notices(self) -> list[str]:
        """What an operator should know: sentences."""
        notices = [] if self._trouble is None else [self._trouble]
        if dropped := self.counts["dropped"]:
            notices.append(f"{dropped} lines of the journal were dropped: its disk is slower than the requests come")
        return notices

    def close(self) -> None:
        """Write what waits, then no more. Blocks, but not for ever."""
        self._closed = True
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with suppress(queue.Full):
            self._queue.put(None, timeout=CLOSE_S)
        thread.join(CLOSE_S)
        if thread.is_alive():
            _log.warning("the journal's disk does not answer: about %d lines are lost", self._queue.qsize())

    def _look_at(self, snapshot: Snapshot) -> None:
        fleet = fleet_of(self._pools, snapshot)
        if fleet != self._fleet:
            self._queue.put_nowait(JournalHeader(VERSION, self._started_at, self._salt.id, fleet))
            self._fleet = fleet

    # ── in the thread ────────────────────────────────────────────────────────────────────────────

    def _write_all(self) -> None:
        for group in self._groups():
            lines: list[bytes] = []
            for one in group:
                if isinstance(one, JournalHeader):
                    self._write(lines)
                    lines = []
                    self._begin(encode(one))
                else:
                    lines.append(encode(one.salted(self._salt)))
            self._write(lines)
        with suppress(OSError):
            self._file.close()

    def _groups(self) -> Iterator[list[Draft | JournalHeader]]:
        """What waits, up to a group at a time, until the end."""
        while (one := self._queue.get()) is not None:
            group = [one]
            with suppress(queue.Empty):
                while len(group) < _GROUP_LINES and (one := self._queue.get_nowait()) is not None:
                    group.append(one)
            yield group
            if one is None or (self._closed and self._queue.empty()):
                return

    def _begin(self, header: bytes) -> None:
        """What the fleet is from here on."""
        self._file.head = header
        if self._file.is_open:
            self._append(header, lines=0)

    def _write(self, lines: list[bytes]) -> None:
        while lines:
            size = count = 0
            while count < len(lines) and size < _GROUP_BYTES:
                size += len(lines[count])
                count += 1
            self._append(b"".join(lines[:count]), count)
            lines = lines[count:]

    def _append(self, text: bytes, lines: int) -> None:
        try:
            self._file.append(text)
        except OSError as error:
            self.counts["failed"] += lines
            if self._trouble is None:
                self._trouble = f"the journal {self._file.path} cannot be written: {error.strerror or error}"
                _log.warning("%s; requests go on without it", self._trouble)
            return
        self.counts["written"] += lines
        if self._trouble is not None:
            self._trouble = None
            _log.warning("the journal %s is written again", self._file.path)


def fleet_of(pools: Sequence[PoolConfig], snapshot: Snapshot) -> tuple[FleetPool, ...]:
    """The fleet in the journal's words."""
    return tuple(_pool(pool, [view for view in snapshot.replicas if view.pool == pool.name]) for pool in pools)


def _pool(pool: PoolConfig, replicas: list[ReplicaView]) -> FleetPool:
    chunks = (view.prefill_actual.chunk_tokens for view in replicas)
    blocks = (view.report.block_tokens or view.description.block_tokens for view in replicas)
    return FleetPool(
        pool=pool.name,
        engine=pool.engine,
        replicas=tuple(view.name for view in replicas),
        model=pool.model,
        gpus_per_replica=pool.gpus_per_replica,
        kv_tokens=tuple(view.report.kv_capacity_tokens or view.description.kv_capacity_tokens for view in replicas),
        chunk_tokens=next((chunk for chunk in chunks if chunk), pool.prefill.chunk_tokens),
        block_tokens=next((block for block in blocks if block), None),
    )


def _check_place(path: Path) -> None:
    """Raises ConfigError where no journal can be kept."""
    folder = path.parent
    if not folder.is_dir():
        raise ConfigError(f"[journal] path: there is no directory {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"[journal] path: the directory {folder} is not writable")
    if not path.exists():
        return
    if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
        raise ConfigError(f"[journal] path: {path} is not a file that can be written")
    with path.open("rb") as file:
        begin = file.read(64)
    if begin and b'"prefixgate_journal"' not in begin:
        raise ConfigError(f"[journal] path: {path} exists and is not a journal")


def _secret(journal: JournalConfig) -> bytes:
    """The salt's secret. Raises ConfigError."""
    if journal.salt_env is None:
        return secrets.token_bytes(32)
    secret = os.environ.get(journal.salt_env, "").strip()
    if not secret:
        raise ConfigError(f"[journal] salt_env: the environment variable {journal.salt_env} is not set")
    if len(secret) < LEAST_CHARACTERS:
        name = journal.salt_env
        raise ConfigError(f"[journal] salt_env: {name} must hold at least {LEAST_CHARACTERS} characters")
    return secret.encode("utf-8", "surrogateescape")
