"""The parent's switchboard: passes a worker's question on to all others, and remembers what the dead had counted."""

import asyncio
import time
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from gateway.serving.process_figures import own_figures
from gateway.serving.report import DECODER, ENCODER, Report, merged_reports
from gateway.serving.workers.frames import Answer, Answers, Ask, Line, Passed, Question, ReportWanted, Sibling

PATIENCE_S: Final = 1.0
"""For one worker's answer."""


@dataclass(slots=True)
class Extension:
    """One worker on the switchboard: who it is, and its last report. `line` None: it does not serve yet."""

    number: int
    pid: int = 0
    restarts: int = 0
    line: Line | None = None
    report: bytes = b""
    reported_at: float = 0.0
    asked: dict[int, asyncio.Future[bytes]] = field(default_factory=dict)


class Switchboard:
    """Counters that were shown once never fall: what a worker reported last is kept when it dies.

    So everybody's report goes through here, that of the asking worker too.
    """

    def __init__(self, workers: int) -> None:
        self.extensions = [Extension(number) for number in range(workers)]
        self._numbers = count(1)
        self._retired: Report | None = None
        self._answering: set[asyncio.Task[None]] = set()

    def begun(self, number: int, pid: int) -> None:
        """The worker has a new process."""
        self.extensions[number].pid = pid

    def joined(self, number: int, line: Line) -> None:
        """It serves."""
        self.extensions[number].line = line

    def left(self, number: int) -> None:
        """Its process has ended."""
        one = self.extensions[number]
        one.line = None
        one.restarts += 1
        for asked in one.asked.values():
            asked.cancel()
        if one.report:
            counted = DECODER.decode(one.report).counted()
            self._retired = counted if self._retired is None else merged_reports([self._retired, counted])
            one.report = b""

    def heard(self, number: int, message: Ask | Answer) -> None:
        """A worker that serves said something."""
        one = self.extensions[number]
        if isinstance(message, Ask):
            task = asyncio.get_running_loop().create_task(self._ask(one, message))
            self._answering.add(task)
            task.add_done_callback(self._answering.discard)
        else:
            asked = one.asked.get(message.number)
            if asked is not None and not asked.done():
                asked.set_result(message.answer)

    async def _ask(self, asker: Extension, ask: Ask) -> None:
        line = asker.line
        wants_report = isinstance(ask.question, ReportWanted)
        if wants_report:
            self._remember(asker, ask.own)
        others = [one for one in self.extensions if one is not asker]
        rows = await asyncio.gather(*(self._answer_of(one, ask.question) for one in others))
        if line is None or line is not asker.line:
            return  # the asking worker has ended meanwhile
        # Of one that has ended meanwhile the answer is among what is retired.
        rows = [row if row.restarts == one.restarts else _row(one, None) for row, one in zip(rows, others, strict=True)]
        answers = Answers(ask.number, _row(asker, None), tuple(rows))
        if wants_report:
            retired = None if self._retired is None else ENCODER.encode(self._retired)
            answers = Answers(ask.number, answers.asker, answers.others, retired, own_figures())
        line.send(answers)

    async def _answer_of(self, one: Extension, question: Question) -> Sibling:
        """Its answer; where it gives none, its last report."""
        wants_report = isinstance(question, ReportWanted)
        if one.line is not None:
            number = next(self._numbers)
            asked = one.asked[number] = asyncio.get_running_loop().create_future()
            one.line.send(Passed(number, question))
            done, _ = await asyncio.wait([asked], timeout=PATIENCE_S)
            del one.asked[number]
            if done and not asked.cancelled():
                answer = asked.result()
                if wants_report:
                    self._remember(one, answer)
                return _row(one, answer)
        age_s = time.monotonic() - one.reported_at
        return _row(one, one.report, age_s) if wants_report and one.report else _row(one, None, age_s)

    def _remember(self, one: Extension, report: bytes) -> None:
        one.report, one.reported_at = report, time.monotonic()


def _row(one: Extension, answer: bytes | None, age_s: float = 0.0) -> Sibling:
    return Sibling(one.number, one.pid, "starting" if one.line is None else "up", one.restarts, answer, age_s)
