"""The store: what is written is there for whoever opens it next, in bounds, and by several at once."""

import multiprocessing
import sqlite3
import time
from pathlib import Path

import pytest
from msgspec import structs

from gateway.config.experiments import ExperimentConfig
from gateway.experiments.terms import ArmTerms, Terms
from gateway.serving.experiments.recorder import Recorder
from gateway.serving.experiments.store import Observed, Store, StoreError, known_trials
from gateway.serving.experiments.trial import RUNNING, STOPPED, Event, Trial

TRIAL = Trial(ExperimentConfig("e", {"a": 0.5, "b": 0.5}), state=RUNNING, began_at=5.0, counts_from=5.0, changed_at=5.0)
TERMS = Terms((ArmTerms("a"), ArmTerms("b")))


def observed(number: int, at: float = 10.0, experiment: str = "e") -> Observed:
    unit = (1 << 64) - 1 - number
    return Observed(experiment, "a", unit, at + number, 0.5, None, 1.0, 100, 50, 8, False, False, True)


def opened(path: Path) -> Store:
    store = Store(path)
    store.keep([(TRIAL, TERMS)], [Event("e", 5.0, "started", "", "at once")])
    return store


def test_what_is_written_is_there_for_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    rows = [observed(number) for number in range(5)]
    store.add(rows)
    again = Store(tmp_path / "s", writes=False)
    assert again.observations("e", 0.0, 100.0) == rows
    assert again.observations("e", 11.0, 13.0) == rows[1:3]
    assert [(kept.trial, kept.terms) for kept in again.trials()] == [(TRIAL, TERMS)]
    assert known_trials(tmp_path / "s") == (TRIAL,)
    assert again.events("e") == [("e", 5.0, "started", "", "at once")]
    store.close()
    again.close()


def test_who_writes_the_same_again_or_later_changes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    stopped = structs.replace(TRIAL, state=STOPPED, why="enough", changed_at=9.0)
    store.keep([(stopped, TERMS)], [])
    store.keep([(TRIAL, TERMS)], [Event("e", 5.0, "started", "", "at once")])  # a gateway that is taken over from
    assert [kept.trial for kept in store.trials()] == [stopped]
    assert len(store.events("e")) == 1
    store.forget("e")
    assert (store.trials(), store.events("e")) == ([], [])
    store.close()


def test_too_much_of_an_experiment_goes_by_whole_units(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    store.add([observed(number % 100, at=number) for number in range(400)])
    store.trim(most=250)
    left = store.observations("e", 0.0, 1e9)
    units = {row.unit for row in left}
    assert len(units) == 50
    assert len(left) == 200  # all that there was of each
    store.add([observed(number) for number in range(100)])
    assert {row.unit for row in store.observations("e", 0.0, 1e9)} == units
    assert store.trials()[0].thinned == 1
    store.close()


def test_of_stopped_experiments_the_oldest_rows_go(tmp_path: Path) -> None:
    store = opened(tmp_path / "s")
    stopped = structs.replace(TRIAL, definition=structs.replace(TRIAL.definition, name="old"), state=STOPPED)
    store.keep([(TRIAL, TERMS), (stopped, TERMS)], [])
    store.add([observed(number) for number in range(10)] + [observed(number, experiment="old") for number in range(10)])
    store.trim(most_of_stopped=4)
    assert len(store.observations("e", 0.0, 1e9)) == 10
    assert [row.at for row in store.observations("old", 0.0, 1e9)] == [16.0, 17.0, 18.0, 19.0]
    store.close()


def test_what_is_no_store_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such file"):
        Store(tmp_path / "none", writes=False)
    (tmp_path / "text").write_text("hello, this is no database at all" * 99)
    with pytest.raises(StoreError, match="text cannot be used"):
        Store(tmp_path / "text")
    other = sqlite3.connect(tmp_path / "other")
    other.execute("pragma user_version=99")
    other.close()
    with pytest.raises(StoreError, match="no store of experiments that this version can read"):
        Store(tmp_path / "other")


def _write(path: Path, worker: int) -> None:
    recorder = Recorder(path)
    recorder.keep([(TRIAL, TERMS)], [Event("e", 5.0, "started", "", "at once")])
    for number in range(500):
        recorder.add(observed(worker * 500 + number))
    recorder.close()


def test_several_processes_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write, args=(tmp_path / "s", number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    store = Store(tmp_path / "s", writes=False)
    assert len(store.observations("e", 0.0, 1e9)) == 1500
    assert len(store.events("e")) == 1
    store.close()


def test_a_disk_that_takes_nothing_costs_a_notice_and_no_more(tmp_path: Path) -> None:
    folder = tmp_path / "there"
    recorder = Recorder(folder / "s")
    recorder.keep([(TRIAL, TERMS)], [])
    recorder.add(observed(1))
    deadline = time.monotonic() + 10
    while not recorder.notices() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "not kept" in recorder.notices()[0]
    folder.mkdir()
    recorder.add(observed(2))
    recorder.close()
    assert recorder.counts == {"written": 1, "dropped": 0, "failed": 1}
    assert recorder.notices() == ["1 observations of experiments could not be written"]
    recorder.add(observed(3))
    assert recorder.counts["dropped"] == 1
    assert known_trials(folder / "s") == (TRIAL,)  # once there was room


def test_without_experiments_there_is_no_file(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "s")
    recorder.close()
    assert list(tmp_path.iterdir()) == []
