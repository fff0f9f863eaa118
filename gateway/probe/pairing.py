"""Two targets' answers to the same questions, side by side; pure."""

from collections.abc import Mapping, Sequence

import msgspec

from gateway.probe.answered import Answered
from gateway.probe.divergence import Divergence, divergence
from gateway.probe.numbers import same_number, shown
from gateway.probe.questions import Question

Answers = Mapping[str, Answered]
"""By question."""


class Side(msgspec.Struct, frozen=True):
    """One answer."""

    right: bool
    number: str
    text: str
    thoughts: str


class Pair(msgspec.Struct, frozen=True):
    """One question that both answered."""

    id: str
    question: str
    answer: str
    left: Side
    right: Side
    same_answer: bool
    same_text: bool
    divergence: Divergence | None


class Discordant(msgspec.Struct, frozen=True):
    """Of `count` questions, those that only the one target has right, and those that only the other has."""

    only_left: int
    only_right: int
    count: int


def pairs_of(questions: Sequence[Question], left: Answers, right: Answers) -> tuple[Pair, ...]:
    """The questions that both answered, in order."""
    both = [one for one in questions if is_answered(left, one) and is_answered(right, one)]
    return tuple(_pair(one, left[one.id], right[one.id]) for one in both)


def is_answered(answers: Answers, question: Question) -> bool:
    """Whether there is an answer, right or wrong."""
    return question.id in answers and not answers[question.id].error


def discordant(pairs: Sequence[Pair]) -> Discordant:
    """What tells the targets apart."""
    return Discordant(
        sum(one.left.right and not one.right.right for one in pairs),
        sum(one.right.right and not one.left.right for one in pairs),
        len(pairs),
    )


def _pair(question: Question, left: Answered, right: Answered) -> Pair:
    return Pair(
        question.id,
        question.question,
        shown(question.answer),
        _side(question, left),
        _side(question, right),
        same_number(left.number, right.number) or (left.number is None and right.number is None),
        left.whole == right.whole,
        divergence(left, right),
    )


def _side(question: Question, answer: Answered) -> Side:
    right = same_number(answer.number, question.answer)
    return Side(right, shown(answer.number), answer.text, answer.thoughts)
