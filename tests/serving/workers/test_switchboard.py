"""What one worker shows of the others: of one that is silent, and of one that has died."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from gateway.config import build
from gateway.routing.facts import Outcome, Refused
from gateway.serving.gateway import Gateway
from gateway.serving.process_figures import CPU_SECONDS, figure
from gateway.serving.report import Report
from gateway.serving.whole import own_answer, whole_report
from gateway.serving.workers.frames import Answer, Ask, Line, line_over
from gateway.serving.workers.siblings import Siblings
from gateway.serving.workers.switchboard import Switchboard

CONFIG = build({"pools": [{"name": "p", "engine": "vllm", "model": "m", "replicas": ["http://127.0.0.1:9"]}]})


@asynccontextmanager
async def worker(board: Switchboard, number: int, *, mute: bool = False) -> AsyncIterator[Gateway]:
    """A worker in this process on the board; a mute one never answers."""
    ours, theirs = socket.socketpair()
    parents_end, workers_end = await line_over(ours), await line_over(theirs)
    siblings = Siblings(workers_end, number, 0.0)
    gateway = Gateway(CONFIG, siblings=siblings)
    board.begun(number, 1000 + number)
    board.joined(number, parents_end)
    tasks = [asyncio.create_task(hear(board, number, parents_end))]
    if not mute:
        tasks.append(asyncio.create_task(siblings.listen(partial(own_answer, gateway), lambda _: None, lambda: None)))
    try:
        yield gateway
    finally:
        for line in (workers_end, parents_end):
            line.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await gateway.close()


async def hear(board: Switchboard, number: int, line: Line) -> None:
    while isinstance(message := await line.receive(), Ask | Answer):
        board.heard(number, message)


def refuse(gateway: Gateway, times: int) -> None:
    for _ in range(times):
        gateway.observe(Refused(gateway.clock(), "m", Outcome.REJECTED))


def refused(report: Report) -> int:
    return sum(one.outcomes.get("rejected", 0) for one in report.snapshot.series)


async def test_all_are_added_up_and_the_parent_counts_too() -> None:
    board = Switchboard(2)
    async with worker(board, 0) as one, worker(board, 1) as two:
        refuse(one, 2)
        refuse(two, 3)
        reports = [await whole_report(one), await whole_report(two)]
    for report in reports:
        assert refused(report) == 5
        assert [(row.number, row.requests, row.state) for row in report.workers] == [(0, 2, "up"), (1, 3, "up")]
        cpu_s = figure(report.figures, CPU_SECONDS)
        assert cpu_s is None or cpu_s > sum(row.cpu_s or 0.0 for row in report.workers)
        assert report.usable == {"m": False}


async def test_one_that_never_answered_is_left_out_and_that_is_said() -> None:
    board = Switchboard(3)
    async with worker(board, 0) as one, worker(board, 1, mute=True):
        refuse(one, 2)
        report = await whole_report(one)
    assert refused(report) == 2
    assert [row.state for row in report.workers] == ["up", "silent", "starting"]
    silent, starting = report.notices
    assert silent == "worker 1 (pid 1001) does not answer: its figures are left out"
    assert starting == "worker 2 (pid 0) is being started: its figures are left out"


async def test_one_that_stops_answering_counts_as_it_last_said() -> None:
    board = Switchboard(2)
    async with worker(board, 0) as one:
        async with worker(board, 1) as two:
            refuse(two, 3)
            assert refused(await whole_report(one)) == 3
        async with worker(board, 1, mute=True):  # the same process, as far as anybody can tell
            report = await whole_report(one)
    assert refused(report) == 3
    assert [row.state for row in report.workers] == ["up", "silent"]
    assert "its figures are those of" in report.notices[0]


async def test_what_the_dead_had_counted_stays() -> None:
    """Counters never fall, however often a worker dies; gauges are of the living."""
    board = Switchboard(2)
    async with worker(board, 0) as one:
        seen = 0
        for life in range(1, 4):
            async with worker(board, 1) as two:
                refuse(two, life)
                seen += life
                report = await whole_report(two)
                assert refused(report) == seen
                assert [row.restarts for row in report.workers] == [0, life - 1]
            board.left(1)
            report = await whole_report(one)
            assert refused(report) == seen
            assert [row.state for row in report.workers] == ["up", "starting"]
            assert len(report.snapshot.replicas) == 1


async def test_without_the_parent_a_worker_shows_itself() -> None:
    board = Switchboard(2)
    async with worker(board, 0) as one:
        refuse(one, 2)
        parents_end = board.extensions[0].line
        assert parents_end is not None
        parents_end.close()
        report = await whole_report(one)
    assert refused(report) == 2
    assert "the parent process does not answer" in report.notices[0]
