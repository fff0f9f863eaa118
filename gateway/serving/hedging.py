"""Two replicas asked for the same request when the first is slow: the first to begin its answer wins; does I/O."""

import asyncio
from collections.abc import Callable, Mapping

from gateway.routing.facts import Cause
from gateway.serving.attempting import Try
from gateway.serving.failure import AttemptLostError

_Tasks = Mapping["asyncio.Task[None]", Try]


async def begun_of(
    first: Try, after_s: float, another: Callable[[], Try | None]
) -> tuple[Try, AttemptLostError | None]:
    """Begin `first`, and `another` beside it if nothing has come of it after so long; whichever began its answer.

    If both fail, the one that failed last, and how. The other one is given up; the one that is returned is not.
    """
    tasks = {asyncio.ensure_future(first.begin()): first}
    last, failure = first, None
    try:
        pending = (await asyncio.wait(tasks, timeout=after_s))[1]
        if pending and (second := another()) is not None:
            pending.add(task := asyncio.ensure_future(second.begin()))
            tasks[task] = second
        while pending or failure is None:
            done, pending = await asyncio.wait(pending or tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in tasks if task in done]:
                last, error = tasks[task], task.exception()
                if error is None:
                    return last, None
                if not isinstance(error, AttemptLostError):
                    raise error
                failure = error
        return last, failure
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        _give_up({task: one for task, one in tasks.items() if one is not last})


def _give_up(tasks: _Tasks) -> None:
    for task, one in tasks.items():
        error = None if task.cancelled() else task.exception()
        failed = isinstance(error, AttemptLostError)
        one.attempt.lose(error.cause if isinstance(error, AttemptLostError) else Cause.HEDGED)
        one.close(unwanted=not failed)
