"""Many runs at a time, each in a process of a few; does I/O: starts processes and talks to them."""

import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Final

from gateway.simulation.contest import Comparison, Outcome, play

_END_S: Final = 5.0

Progress = Callable[[int], None]
"""Told how many more requests are over."""


class WorkerDiedError(Exception):
    """A process ended before its run did; the message says which run."""


def play_all(
    comparisons: Sequence[Comparison], jobs: int, progress: Progress
) -> Generator[tuple[int, Outcome], None, None]:
    """Make the runs, and yield each with its place as it ends. Raises WorkerDiedError.

    However it is left, also by Ctrl-C, no process stays behind.
    """
    if jobs == 1 or len(comparisons) == 1:
        for place, comparison in enumerate(comparisons):
            yield place, play(comparison, _Increments(progress))
        return
    with _workers(min(jobs, len(comparisons))) as idle:
        places = iter(range(len(comparisons)))
        busy: dict[Connection, int] = {}
        for worker in idle:
            _give(worker, comparisons, places, busy)
        while busy:
            ready = wait(list(busy))
            for worker in [one for one in busy if one in ready]:
                said = _hear(worker, comparisons[busy[worker]])
                if isinstance(said, Outcome):
                    place = busy.pop(worker)
                    _give(worker, comparisons, places, busy)
                    yield place, said
                else:
                    progress(said)


def _give(
    worker: Connection, comparisons: Sequence[Comparison], places: Iterator[int], busy: dict[Connection, int]
) -> None:
    place = next(places, None)
    if place is not None:
        worker.send(comparisons[place])
        busy[worker] = place


def _hear(worker: Connection, comparison: Comparison) -> Outcome | int:
    try:
        said: Outcome | int = worker.recv()
    except (EOFError, OSError):
        run = f"{comparison.policy} on {comparison.case.workload}"
        raise WorkerDiedError(f"the process that simulated {run} died; is there memory for as many --jobs?") from None
    return said


@contextmanager
def _workers(count: int) -> Iterator[list[Connection]]:
    """Processes that wait for runs, by the connections to them."""
    context = multiprocessing.get_context("spawn")
    processes, connections = [], []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs,), daemon=True)
            with _deaf():
                process.start()
            theirs.close()
            processes.append(process)
            connections.append(ours)
        yield connections
    finally:
        for connection in connections:
            connection.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.join(_END_S)


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes started meanwhile ignore Ctrl-C, from their first moment on: we are told too, and end them."""
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, heard)


def _work(parent: Connection) -> None:
    """A worker's life: runs come in, increments of progress and outcomes go out, until the parent is gone."""
    try:
        while True:
            comparison: Comparison = parent.recv()
            parent.send(play(comparison, _Increments(parent.send)))
    except (EOFError, OSError):
        return


class _Increments:
    """Makes a run's total of requests that are over into how many more they are."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._told = 0

    def __call__(self, over: int) -> None:
        self._progress(over - self._told)
        self._told = over
