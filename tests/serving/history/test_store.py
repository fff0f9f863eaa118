"""The history's file: three resolutions, an end to each, and a life after the process."""

import sqlite3
from pathlib import Path

import pytest

from gateway.serving.history import store as of_store
from gateway.serving.history.store import FILE, Store
from gateway.serving.history.sums import Place, Sums

A, B = Place("p", "a"), Place("p", "b")
NOON = 1_800_000_000 // 3600 * 3600


def one(requests: int) -> Sums:
    return Sums(requests=requests, ttft=(requests,) + (0,) * 24)


def test_sums_are_kept_at_three_resolutions_and_survive(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(NOON + 5, {A: one(1)})
    store.add(NOON + 15, {A: one(2), B: one(3)})
    store.add(NOON + 75, {A: one(4)})
    store.close()
    store = Store(tmp_path)
    fine, minutes, hours = (store.read(0, resolution) for resolution in (10, 60, 3600))
    assert [(row.at - NOON, row.place, row.sums.requests) for row in fine] == [
        (0, A, 1),
        (10, A, 2),
        (10, B, 3),
        (70, A, 4),
    ]
    assert [(row.at - NOON, row.place, row.sums.requests) for row in minutes] == [(0, A, 3), (0, B, 3), (60, A, 4)]
    assert [(row.place, row.sums) for row in hours] == [(A, one(7)), (B, one(3))]
    assert store.read(NOON + 70, 10) == fine[-1:]
    store.close()


def test_what_is_old_or_too_much_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    store.add(NOON, {A: one(1)})
    store.add(NOON + 7 * 3600, {A: one(1)})
    assert [row.at for row in store.read(0, 10)] == [NOON + 7 * 3600]
    assert len(store.read(0, 3600)) == 2
    monkeypatch.setattr(of_store, "MOST_ROWS", 3)
    for step in range(10):
        store.add(NOON + 8 * 3600 + 10 * step, {A: one(1)})
    assert len(store.read(0, 10)) <= 4
    store.close()


def test_a_file_that_is_none_is_put_aside(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"no database at all" * 100)
    store = Store(tmp_path)
    assert store.read(0, 10) == []
    assert (tmp_path / (FILE + ".damaged")).read_bytes().startswith(b"no database")
    store.close()


def test_tables_of_another_version_are_begun_anew(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add(NOON, {A: one(1)})
    store.close()
    with sqlite3.connect(tmp_path / FILE) as file:
        file.execute("UPDATE shape SET shape = 'another'")
    file.close()
    store = Store(tmp_path)
    assert store.read(0, 10) == []
    store.close()
