"""Two targets compared in full: accuracy of each, the difference, and a verdict in words; pure.

Intervals of accuracy are Wilson's, by scipy.
"""

from collections.abc import Sequence

import msgspec
from scipy.stats import binomtest

from gateway.probe.judging import CONFIDENCE, Case, Judgement, Verdict, judge
from gateway.probe.pairing import Answers, Discordant, Pair, discordant, is_answered, pairs_of
from gateway.probe.questions import Question


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


class Comparison(msgspec.Struct, frozen=True):
    """Of all `questions`, `compared` were answered by both. See `Judgement` for what is judged by."""

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
    questions: Sequence[Question], names: tuple[str, str], left: Answers, right: Answers, max_drop: float = 0.0
) -> Comparison:
    """Compare answers. A drop up to `max_drop` (0..1) is not called worse, however sure it is."""
    pairs = pairs_of(questions, left, right)
    scores = (
        _score(names[0], questions, left, pairs, [one.left.right for one in pairs]),
        _score(names[1], questions, right, pairs, [one.right.right for one in pairs]),
    )
    counts = discordant(pairs)
    judged = judge(Case(counts, max_drop))
    verdict = Verdict.FAILED if any(score.unanswered for score in scores) else judged.verdict
    return Comparison(
        questions=len(questions),
        compared=len(pairs),
        scores=scores,
        same_answer=sum(one.same_answer for one in pairs),
        same_text=sum(one.same_text for one in pairs),
        only_left=counts.only_left,
        only_right=counts.only_right,
        drop=judged.drop,
        most_drop=judged.most_drop,
        p_value=judged.p_value,
        verdict=verdict,
        sentence=_failures(scores) if verdict is Verdict.FAILED else _sentence(scores, counts, judged),
        pairs=pairs,
    )


def _score(
    name: str, questions: Sequence[Question], answers: Answers, pairs: Sequence[Pair], rights: Sequence[bool]
) -> Score:
    given = [answers[one.id] for one in pairs]
    right = sum(rights)
    interval = binomtest(right, len(pairs)).proportion_ci(CONFIDENCE, "wilson") if pairs else (0.0, 1.0)
    return Score(
        target=name,
        right=right,
        accuracy=right / len(pairs) if pairs else 0.0,
        low=float(interval[0]),
        high=float(interval[1]),
        cut=sum(one.was_cut for one in given),
        mean_tokens=_mean([one.completion_tokens for one in given]),
        mean_seconds=_mean([one.seconds for one in given]),
        unanswered=sum(not is_answered(answers, one) for one in questions),
        error=next((one.error for one in answers.values() if one.error), ""),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _failures(scores: tuple[Score, Score]) -> str:
    failed = [one for one in scores if one.unanswered]
    said = "; ".join(f"{one.target} left {one.unanswered} unanswered: {one.error}" for one in failed)
    return f"not comparable in full: {said}"


def _sentence(scores: tuple[Score, Score], counts: Discordant, judged: Judgement) -> str:
    left, right = scores
    count = counts.count
    said = f"{left.target} has {left.right}/{count} right and {right.target} {right.right}/{count}"
    chance = f"by chance alone that would happen with p = {judged.p_value:.2g}"
    if judged.verdict is Verdict.WORSE:
        return f"{right.target} is worse by {100 * judged.drop:.1f} points: {said}; {chance}"
    if judged.verdict is Verdict.BETTER:
        return f"{right.target} is better by {-100 * judged.drop:.1f} points: {said}; {chance}"
    if judged.p_value <= 1 - CONFIDENCE:
        return f"{right.target} is worse by {100 * judged.drop:.1f} points, which is within what was allowed: {said}"
    if not left.right and not right.right:
        return f"neither has any of {count} right, so these questions cannot tell the two apart"
    ruled_out = f"a drop of more than {100 * judged.most_drop:.1f} points is ruled out (95 % confidence)"
    return f"no difference found: {said}; {ruled_out}"
