"""The history's SQLite file: sums at three resolutions, each kept for its time; does I/O, for one thread at a time."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from gateway.routing.histogram import SECONDS
from gateway.serving.history.sums import NUMBERS, Place, Sums

FILE: Final = "history.sqlite"
MOST_ROWS: Final = 200_000
"""Of one resolution: about 60 MB. Then the oldest go before their time."""
PATIENCE_S: Final = 5.0


class Resolution(NamedTuple):
    """Sums of so many seconds, kept for so many."""

    seconds: int
    kept_s: int


RESOLUTIONS: Final = (Resolution(10, 6 * 3600), Resolution(60, 3 * 86400), Resolution(3600, 400 * 86400))

_COLUMNS: Final = (*NUMBERS, "ttft")
_TABLE: Final = (
    "CREATE TABLE IF NOT EXISTS slices (resolution INTEGER, at INTEGER, pool TEXT, replica TEXT, "
    + ", ".join(f"{name} NUMERIC" for name in NUMBERS)
    + ", ttft TEXT, PRIMARY KEY (resolution, at, pool, replica)) WITHOUT ROWID"
)
_SHAPE: Final = f"{_TABLE} {SECONDS}"
_ADD: Final = (
    f"INSERT INTO slices (resolution, at, pool, replica, {', '.join(_COLUMNS)}) "  # noqa: S608 - our own names
    f"VALUES ({', '.join('?' * (len(_COLUMNS) + 4))}) ON CONFLICT DO UPDATE SET "
    + ", ".join(f"{name} = {name} + excluded.{name}" for name in NUMBERS)
    + ", ttft = added_counts(ttft, excluded.ttft)"
)
_READ: Final = (
    f"SELECT at, pool, replica, {', '.join(_COLUMNS)} FROM slices "  # noqa: S608 - our own names
    "WHERE resolution = ? AND at >= ? ORDER BY at, pool, replica"
)


class Slice(NamedTuple):
    """One row: sums of the seconds from `at` (Unix epoch) on."""

    at: int
    place: Place
    sums: Sums


class Store:
    """An open file. Raises sqlite3.Error where the disk fails it, also later.

    A file of another version of the tables is begun anew; one that is no database is put aside as `….damaged`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            self.path.replace(self.path.with_name(FILE + ".damaged"))
            self._open()

    def _open(self) -> None:
        self._file = sqlite3.connect(self.path, timeout=PATIENCE_S, check_same_thread=False)
        self._file.create_function("added_counts", 2, _added_counts, deterministic=True)
        self._file.execute("PRAGMA journal_mode=WAL")
        self._file.execute("PRAGMA synchronous=NORMAL")
        with self._file as file:
            file.execute("BEGIN IMMEDIATE")  # several workers may open it at once
            file.execute("CREATE TABLE IF NOT EXISTS shape (shape TEXT)")
            known = file.execute("SELECT shape FROM shape").fetchone()
            if known != (_SHAPE,):
                file.execute("DROP TABLE IF EXISTS slices")
                file.execute("DELETE FROM shape")
                file.execute("INSERT INTO shape VALUES (?)", (_SHAPE,))
            file.execute(_TABLE)

    def add(self, at: float, came: Mapping[Place, Sums]) -> None:
        """What came in the time that ended at `at`, at every resolution; what is too old goes."""
        with self._file as file:
            for resolution in RESOLUTIONS:
                start = int(at) // resolution.seconds * resolution.seconds
                file.executemany(_ADD, [(resolution.seconds, start, *_row(*pair)) for pair in came.items()])
                file.execute(
                    "DELETE FROM slices WHERE resolution = ? AND at < MAX(?, IFNULL("
                    "(SELECT at FROM slices WHERE resolution = ? ORDER BY at DESC LIMIT 1 OFFSET ?), 0))",
                    (resolution.seconds, at - resolution.kept_s, resolution.seconds, MOST_ROWS),
                )

    def read(self, since: float, resolution: int) -> list[Slice]:
        """All slices of the resolution that begin at `since` or after, the oldest first."""
        rows = self._file.execute(_READ, (resolution, since)).fetchall()
        return [
            Slice(
                at, Place(pool, replica), Sums(**dict(zip(NUMBERS, numbers, strict=True)), ttft=tuple(json.loads(ttft)))
            )
            for at, pool, replica, *numbers, ttft in rows
        ]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _row(place: Place, sums: Sums) -> tuple[object, ...]:
    return (*place, *(getattr(sums, name) for name in NUMBERS), json.dumps(sums.ttft))


def _added_counts(one: str, other: str) -> str:
    return json.dumps([a + b for a, b in zip(json.loads(one), json.loads(other), strict=True)])
