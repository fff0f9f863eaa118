"""A probe of one target: every question put to it, and when it is given up; does I/O through the target."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from gateway.probe.answered import Answered
from gateway.probe.questions import Question

PATIENCE: Final = 3
"""After so many questions in a row without an answer a target is asked no more."""


class Asked(Protocol):
    """Whoever answers questions. It never raises for what an engine does."""

    async def ask(self, question: Question) -> Answered:
        """The answer, or one that says why there is none."""


async def ask_all(asked: Asked, questions: Sequence[Question], at_once: int, told: Callable[[Answered], None]) -> None:
    """Put the questions to one target, so many at once; `told` hears of each answer.

    Questions that are not put any more since the target does not answer are not told of.
    """
    waiting = iter(questions)
    failed_in_a_row = 0

    async def work() -> None:
        nonlocal failed_in_a_row
        for question in waiting:
            if failed_in_a_row >= PATIENCE:
                return
            answer = await asked.ask(question)
            failed_in_a_row = failed_in_a_row + 1 if answer.error else 0
            told(answer)

    async with asyncio.TaskGroup() as group:
        for _ in range(max(min(at_once, len(questions)), 1)):
            group.create_task(work())
