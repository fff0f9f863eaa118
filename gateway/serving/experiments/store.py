"""The store: experiments, what happened to them and what was observed, in one SQLite file; does I/O.

All processes of a gateway write to it, a gateway that takes over too, each in transactions of its own. Whatever is
written twice is the same: all of them follow the same commands.
"""

import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from gateway.experiments.terms import Terms
from gateway.serving.experiments.trial import Event, Trial, Trials

FILE_NAME: Final = "experiments.sqlite"
VERSION: Final = 1
MOST_OBSERVATIONS: Final = 200_000
"""Of one experiment: then it is only every second unit's that are kept, of those every second's, and so on."""
MOST_OF_STOPPED: Final = 1_000_000
"""Of all stopped experiments together: then the oldest go."""
_BUSY_S: Final = 10.0
_TRIES: Final = 20

_SCHEMA: Final = """
create table if not exists trials (
    name text primary key, place integer not null, trial blob not null, terms blob not null,
    changed_at real not null, running integer not null, thinned integer not null default 0
);
create table if not exists events (
    experiment text not null, at real not null, kind text not null, arm text not null, said text not null,
    primary key (experiment, at, kind, arm)
);
create table if not exists observations (
    experiment text not null, arm text not null, unit integer not null, at real not null,
    ttft_s real, itl_s real, request_s real not null,
    prompt_tokens integer, cached_tokens integer, completion_tokens integer,
    failed integer not null, refused integer not null, crossed integer not null
);
create index if not exists by_time on observations (experiment, at);
"""


class StoreError(Exception):
    """The store cannot be used; the message is a sentence."""


class Observed(NamedTuple):
    """One request that took part, as it is kept. `at` is when it was accepted, in seconds since the Unix epoch.

    `unit` is its unit's hash, 64 bits without a sign. Times are seconds; None is what was not seen or said.
    """

    experiment: str
    arm: str
    unit: int
    at: float
    ttft_s: float | None
    itl_s: float | None
    request_s: float
    prompt_tokens: int | None
    cached_tokens: int | None
    completion_tokens: int | None
    failed: bool
    refused: bool
    crossed: bool


class Kept(NamedTuple):
    """A trial with the terms that it is judged by; one in 2 ** `thinned` of its units is kept."""

    trial: Trial
    terms: Terms
    thinned: int


class Store:
    """One process's connection, for one thread. Raises StoreError, also from all methods."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        if not writes and not path.is_file():
            raise StoreError(f"{path} cannot be used: there is no such file")
        try:
            self._db = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        except sqlite3.Error as error:
            raise self.failure(error) from error
        try:
            if writes:
                self._make()
            self._check()
        except sqlite3.Error as error:
            self._db.close()
            raise self.failure(error) from error
        except StoreError:
            self._db.close()
            raise

    def _make(self) -> None:
        self._share()
        self._db.execute("pragma synchronous=normal")
        (version,) = self._db.execute("pragma user_version").fetchone()
        if not version:
            self._db.executescript(f"begin immediate; {_SCHEMA} pragma user_version={VERSION}; commit;")

    def _share(self) -> None:
        """Readers and one writer at a time; who meets another process that asks for the same tries again."""
        for attempt in range(_TRIES):
            try:
                self._db.execute("pragma journal_mode=wal")
            except sqlite3.OperationalError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(0.05)
            else:
                return

    def _check(self) -> None:
        (version,) = self._db.execute("pragma user_version").fetchone()
        if version != VERSION:
            raise StoreError(f"{self.path} is no store of experiments that this version can read")

    def close(self) -> None:
        """Let go of the file."""
        self._db.close()

    # ── writing ──────────────────────────────────────────────────────────────────────────────────

    def keep(self, trials: Sequence[tuple[Trial, Terms]], events: Sequence[Event]) -> None:
        """These are all that there are. What is known to be newer stays."""
        rows = [
            (one.name, place, _json(one), _json(terms), one.changed_at, one.state == "running")
            for place, (one, terms) in enumerate(trials)
        ]
        with self._transaction():
            self._db.executemany(
                "insert into trials (name, place, trial, terms, changed_at, running) values (?, ?, ?, ?, ?, ?) "
                "on conflict do update set place=excluded.place, trial=excluded.trial, terms=excluded.terms, "
                "changed_at=excluded.changed_at, running=excluded.running where excluded.changed_at >= changed_at",
                rows,
            )
            self._db.executemany("insert or ignore into events values (?, ?, ?, ?, ?)", events)

    def forget(self, name: str) -> None:
        """The experiment is gone, with all that was observed."""
        with self._transaction():
            for table, column in (("observations", "experiment"), ("events", "experiment"), ("trials", "name")):
                self._db.execute(f"delete from {table} where {column} = ?", (name,))  # noqa: S608 - names of ours

    def add(self, rows: Iterable[Observed]) -> None:
        """Keep these, but for those of units that are no longer kept."""
        with self._transaction():
            thinned = dict(self._db.execute("select name, thinned from trials where thinned"))
            kept = [row._replace(unit=_signed(row.unit)) for row in rows if _is_kept(row, thinned)]
            marks = ",".join("?" * len(Observed._fields))
            self._db.executemany(f"insert into observations values ({marks})", kept)  # noqa: S608 - question marks

    def trim(self, most: int = MOST_OBSERVATIONS, most_of_stopped: int = MOST_OF_STOPPED) -> None:
        """Make room: whole units of the experiments that have too much, the oldest rows of stopped ones."""
        with self._transaction() as db:  # what a process wrote that did not know yet that they are gone
            db.execute("delete from observations where experiment not in (select name from trials)")
        counts: dict[str, int] = dict(self._rows("select experiment, count(*) from observations group by experiment"))
        for name, count in counts.items():
            if count > most:
                self._thin(name)
        stopped = [name for (name,) in self._rows("select name from trials where not running")]
        surplus = sum(counts.get(name, 0) for name in stopped) - most_of_stopped
        if surplus > 0:
            marks = ",".join("?" * len(stopped))
            with self._transaction():
                self._db.execute(
                    f"delete from observations where rowid in (select rowid from observations "  # noqa: S608
                    f"where experiment in ({marks}) order by at limit ?)",
                    (*stopped, surplus),
                )

    def _thin(self, name: str) -> None:
        with self._transaction():
            self._db.execute("update trials set thinned = thinned + 1 where name = ?", (name,))
            self._db.execute(
                "delete from observations where experiment = ? and "
                "unit & ((1 << (select thinned from trials where name = ?)) - 1) != 0",
                (name, name),
            )

    # ── reading ──────────────────────────────────────────────────────────────────────────────────

    def trials(self) -> list[Kept]:
        """All, in their order."""
        rows = self._rows("select trial, terms, thinned from trials order by place, name")
        try:
            return [
                Kept(msgspec.json.decode(trial, type=Trial), msgspec.json.decode(terms, type=Terms), thinned)
                for trial, terms, thinned in rows
            ]
        except msgspec.MsgspecError as error:
            raise StoreError(f"{self.path} holds an experiment that this version cannot read: {error}") from error

    def trial(self, name: str) -> Kept | None:
        """The one of that name."""
        return next((one for one in self.trials() if one.trial.name == name), None)

    def events(self, name: str) -> list[Event]:
        """What happened to it, in order."""
        words = "select experiment, at, kind, arm, said from events where experiment = ? order by at, rowid"
        return [Event(*row) for row in self._rows(words, name)]

    def observations(self, name: str, since: float, until: float) -> list[Observed]:
        """Of requests that were accepted then, in order of time."""
        columns = ", ".join(Observed._fields)
        words = f"select {columns} from observations where experiment = ? and at >= ? and at < ? order by at"  # noqa: S608
        return [_observed(row) for row in self._rows(words, name, since, until)]

    def _rows(self, words: str, *values: str | float) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(words, values).fetchall()
        except sqlite3.Error as error:
            raise self.failure(error) from error

    def failure(self, error: sqlite3.Error) -> StoreError:
        """What went wrong, as a sentence."""
        return StoreError(f"{self.path} cannot be used: {error}")

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """All of it, or nothing."""
        try:
            self._db.execute("begin immediate")
            try:
                yield self._db
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("rollback")
                raise
            self._db.execute("commit")
        except sqlite3.Error as error:
            raise self.failure(error) from error


def known_trials(path: Path) -> Trials:
    """What a gateway before this one has left, with which one begins. Raises StoreError."""
    store = Store(path)
    try:
        return tuple(kept.trial for kept in store.trials())
    finally:
        store.close()


def _json(what: Trial | Terms) -> bytes:
    return msgspec.json.encode(what)


def _is_kept(row: Observed, thinned: dict[str, int]) -> bool:
    return not row.unit & ((1 << thinned.get(row.experiment, 0)) - 1)


def _signed(unit: int) -> int:
    return unit - (1 << 64) if unit >= 1 << 63 else unit


def _observed(row: tuple[Any, ...]) -> Observed:
    one = Observed(*row)
    return one._replace(
        unit=one.unit % (1 << 64), failed=bool(one.failed), refused=bool(one.refused), crossed=bool(one.crossed)
    )
