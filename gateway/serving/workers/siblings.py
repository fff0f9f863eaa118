"""A worker's end of the line: asks the other workers through the parent, and answers what they ask; does I/O."""

import asyncio
from collections.abc import Callable
from itertools import count
from typing import Final, TypeVar

from gateway.serving.membership.plan import Command
from gateway.serving.workers.frames import (
    Answer,
    Answers,
    Ask,
    Follow,
    Line,
    Passed,
    Propose,
    Question,
    Reread,
    Settled,
)

_ORPHANED: Final = "the parent process does not answer, so that the other workers cannot be told"
T = TypeVar("T")
PATIENCE_S: Final = 3.0
"""For the parent's answer, which itself waits less long for the other workers'."""


class Siblings:
    """The other workers, of which this one is `number`; `started_at` is when the first of them all was started."""

    def __init__(self, line: Line, number: int, started_at: float) -> None:
        self.number = number
        self.started_at = started_at
        self._line = line
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Answers | None]] = {}
        self._proposed: dict[int, asyncio.Future[str | None]] = {}
        self._orphaned = False

    async def listen(
        self, answer: Callable[[Question], bytes], follow: Callable[[Command], None], reread: Callable[[], None]
    ) -> None:
        """Answer what is asked, follow what is told, and take answers, until the parent is gone."""
        while (message := await self._line.receive()) is not None:
            match message:
                case Passed():
                    self._line.send(Answer(message.number, answer(message.question)))
                case Answers():
                    _settle(self._asked.get(message.number), message)
                case Follow():
                    follow(message.command)
                case Settled():
                    _settle(self._proposed.get(message.number), message.refusal)
                case Reread():
                    reread()
                case _:
                    raise RuntimeError(f"the parent said {type(message).__name__} to a worker at work")
        self._orphaned = True
        for asked in self._asked.values():
            _settle(asked, None)
        for proposed in self._proposed.values():
            _settle(proposed, _ORPHANED)

    async def propose(self, command: Command) -> str | None:
        """Have all workers follow the command; None, or why that cannot be. This one has been told by then."""
        if self._orphaned:
            return _ORPHANED
        number = next(self._numbers)
        proposed: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._proposed[number] = proposed
        self._line.send(Propose(number, command))
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await proposed
        except TimeoutError:
            return _ORPHANED
        finally:
            del self._proposed[number]

    async def ask(self, question: Question, own: bytes = b"") -> Answers | None:
        """What the others answer; `own` is what this worker does. None if the parent does not answer."""
        if self._orphaned:
            return None
        number = next(self._numbers)
        asked: asyncio.Future[Answers | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = asked
        self._line.send(Ask(number, question, own))
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asked
        except TimeoutError:
            return None
        finally:
            del self._asked[number]


def _settle(asked: asyncio.Future[T] | None, answer: T) -> None:
    """Give an answer to whoever waits for it still."""
    if asked is not None and not asked.done():
        asked.set_result(answer)
