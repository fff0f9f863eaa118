"""The questions of a probe, each with a number for an answer: our own set, or a file of JSON lines; reads files."""

from collections.abc import Sequence
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Final

import msgspec

from gateway.probe.numbers import exact_number

OWN: Final = "questions.jsonl"
MOST_QUESTIONS: Final = 100_000


class QuestionError(Exception):
    """A file of questions cannot be used; the message names the line."""


class Question(msgspec.Struct, frozen=True):
    """`id` is unique in its set."""

    id: str
    question: str
    answer: Fraction


class _Line(msgspec.Struct):
    question: str
    answer: str | int | float
    id: str | int | None = None


def own_questions() -> list[Question]:
    """Word problems of several steps that were written for this."""
    return _questions(files("gateway.probe").joinpath(OWN).read_text(encoding="utf-8"), OWN)


def load_questions(path: Path) -> list[Question]:
    """Lines of `{"question", "answer"[, "id"]}`; empty ones are skipped. Raises QuestionError."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise QuestionError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    questions = _questions(text, str(path))
    if not questions:
        raise QuestionError(f"{path}: holds no question")
    return questions


def some(questions: Sequence[Question], count: int) -> list[Question]:
    """So many of them, spread evenly over the set."""
    if count >= len(questions):
        return list(questions)
    return [questions[place * len(questions) // count] for place in range(count)]


def _questions(text: str, where: str) -> list[Question]:
    questions: dict[str, Question] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        one = _question(line, number, f"{where} line {number}")
        if one.id in questions:
            raise QuestionError(f"{where} line {number}: there are two questions with the id `{one.id}`")
        questions[one.id] = one
        if len(questions) > MOST_QUESTIONS:
            raise QuestionError(f"{where}: more than {MOST_QUESTIONS} questions")
    return list(questions.values())


def _question(line: str, number: int, where: str) -> Question:
    try:
        read = msgspec.json.decode(line, type=_Line)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise QuestionError(f'{where}: not {{"question", "answer"}} as JSON: {error}') from error
    answer = exact_number(str(read.answer))
    if not read.question.strip():
        raise QuestionError(f"{where}: the question is empty")
    if answer is None:
        raise QuestionError(f"{where}: the answer {str(read.answer)[:60]!r} is not a number")
    return Question(str(number if read.id is None else read.id), read.question, answer)
