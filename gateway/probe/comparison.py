"""Two targets' answers side by side, and what may be said of their quality: accuracy, difference, verdict; pure.

All intervals and tests are scipy's, on counts of questions: Wilson's interval for an accuracy, McNemar's exact test
(a sign test on the questions that just one target has right) for a difference.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from scipy.stats import binomtest

from gateway.probe.answered import Answered
from gateway.probe.divergence import Divergence, divergence
from gateway.probe.numbers import same_number, shown
from gateway.probe.questions import Question

CONFIDENCE: Final = 0.95
_ONE_SIDED: Final = 0.5 + CONFIDENCE / 2
"""Of each of two bounds that are to hold together with CONFIDENCE."""


class Verdict(StrEnum):
    """`WORSE` and `BETTER` are of the second target, and beyond chance."""

    SAME = "same"
    WORSE = "worse"
    BETTER = "better"
    FAILED = "failed"
    """A target did not answer all questions."""


class Score(msgspec.Struct, frozen=True):
    """One target, on the questions that both answered. `low` and `high` bound its accuracy; `cut` answers were ended by
    `max_tokens`. `unanswered` counts all of its questions; `error` is the first reason.
    """

    target: str
    right: int
    accuracy: float
    low: float
    high: float
    cut: int
    mean_tokens: float
    mean_seconds: float
    unanswered: int
    error: str


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
    divergence: Divergence | None


class Comparison(msgspec.Struct, frozen=True):
    """`drop` is the first target's accuracy less the second's, `most_drop` what it is at most; both 0..1.

    `only_left` and `only_right` count questions that just this target has right, `p_value` is McNemar's exact one.
    """

    questions: int
    compared: int
    scores: tuple[Score, Score]
    same_answer: int
    same_text: int
    only_left: int
    only_right: int
    drop: float
    most_drop: float
    p_value: float
    verdict: Verdict
    sentence: str
    pairs: tuple[Pair, ...]


def compared(
    questions: Sequence[Question],
    names: tuple[str, str],
    left: Mapping[str, Answered],
    right: Mapping[str, Answered],
    max_drop: float = 0.0,
) -> Comparison:
    """Compare answers, by question id. A drop up to `max_drop` (0..1) is not called worse, however sure it is."""
    both = [one for one in questions if _answers(left, one) and _answers(right, one)]
    pairs = tuple(_pair(one, left[one.id], right[one.id]) for one in both)
    scores = (_score(names[0], questions, both, left), _score(names[1], questions, both, right))
    only_left = sum(one.left.right and not one.right.right for one in pairs)
    only_right = sum(one.right.right and not one.left.right for one in pairs)
    count = len(pairs)
    drop = (only_left - only_right) / count if count else 0.0
    p_value = float(binomtest(only_left, only_left + only_right).pvalue) if only_left + only_right else 1.0
    most_drop = _most_drop(only_left, only_right, count)
    verdict = _verdict(scores, drop, p_value, max_drop)
    return Comparison(
        questions=len(questions),
        compared=count,
        scores=scores,
        same_answer=sum(one.same_answer for one in pairs),
        same_text=sum(left[one.id].whole == right[one.id].whole for one in both),
        only_left=only_left,
        only_right=only_right,
        drop=drop,
        most_drop=most_drop,
        p_value=p_value,
        verdict=verdict,
        sentence=_sentence(verdict, scores, count, drop, most_drop, p_value),
        pairs=pairs,
    )


def _answers(answers: Mapping[str, Answered], question: Question) -> bool:
    return question.id in answers and not answers[question.id].error


def _pair(question: Question, left: Answered, right: Answered) -> Pair:
    sides = [_side(question, one) for one in (left, right)]
    same = same_number(left.number, right.number) or (left.number is None and right.number is None)
    return Pair(
        question.id,
        question.question,
        shown(question.answer),
        sides[0],
        sides[1],
        same,
        divergence(left, right),
    )


def _side(question: Question, answer: Answered) -> Side:
    right = same_number(answer.number, question.answer)
    return Side(right, shown(answer.number), answer.text, answer.thoughts)


def _score(
    name: str, questions: Sequence[Question], both: Sequence[Question], answers: Mapping[str, Answered]
) -> Score:
    given = [answers[one.id] for one in both]
    right = sum(same_number(answers[one.id].number, one.answer) for one in both)
    interval = binomtest(right, len(both)).proportion_ci(CONFIDENCE, "wilson") if both else (0.0, 1.0)
    return Score(
        target=name,
        right=right,
        accuracy=right / len(both) if both else 0.0,
        low=float(interval[0]),
        high=float(interval[1]),
        cut=sum(one.was_cut for one in given),
        mean_tokens=_mean([one.completion_tokens for one in given]),
        mean_seconds=_mean([one.seconds for one in given]),
        unanswered=sum(not _answers(answers, one) for one in questions),
        error=next((one.error for one in answers.values() if one.error), ""),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _most_drop(only_left: int, only_right: int, count: int) -> float:
    """The share of questions that the second target loses at most, less the share that it gains at least.

    Each bound is exact (Clopper and Pearson) and holds with 97.5 %, so that both hold with 95 %.
    """
    if not count:
        return 1.0
    lost = binomtest(only_left, count, alternative="less").proportion_ci(_ONE_SIDED).high
    gained = binomtest(only_right, count, alternative="greater").proportion_ci(_ONE_SIDED).low
    return max(float(lost - gained), 0.0)


def _verdict(scores: tuple[Score, Score], drop: float, p_value: float, max_drop: float) -> Verdict:
    if any(score.unanswered for score in scores):
        return Verdict.FAILED
    if p_value > 1 - CONFIDENCE:
        return Verdict.SAME
    if drop < 0:
        return Verdict.BETTER
    return Verdict.WORSE if drop > max_drop else Verdict.SAME


def _sentence(
    verdict: Verdict, scores: tuple[Score, Score], count: int, drop: float, most_drop: float, p_value: float
) -> str:
    left, right = scores
    if verdict is Verdict.FAILED:
        said = "; ".join(
            f"{one.target} left {one.unanswered} unanswered: {one.error}" for one in scores if one.unanswered
        )
        return f"not comparable in full: {said}"
    counts = f"{left.target} has {left.right}/{count} right and {right.target} {right.right}/{count}"
    chance = f"by chance alone that would happen with p = {p_value:.2g}"
    if verdict is Verdict.WORSE:
        return f"{right.target} is worse by {100 * drop:.1f} points: {counts}; {chance}"
    if verdict is Verdict.BETTER:
        return f"{right.target} is better by {-100 * drop:.1f} points: {counts}; {chance}"
    if not left.right and not right.right:
        return f"neither has any of {count} right, so these questions cannot tell the two apart"
    ruled_out = f"a drop of more than {100 * most_drop:.1f} points is ruled out (95 % confidence)"
    if p_value <= 1 - CONFIDENCE:
        return f"{right.target} is worse by {100 * drop:.1f} points, which is within what was allowed: {counts}"
    return f"no difference found: {counts}; {ruled_out}"
