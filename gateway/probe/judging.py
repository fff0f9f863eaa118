"""Whether one target is worse than the other, beyond chance; pure, but for what it prints when it is run by itself.

`python -m gateway.probe.judging` reads a `Case` from stdin and prints a `Judgement`, both as JSON: whoever must not
load scipy asks it like that.
"""

import sys
from enum import StrEnum
from typing import Final

import msgspec
from scipy.stats import binomtest

from gateway.probe.pairing import Discordant

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


class Case(msgspec.Struct, frozen=True):
    """What is judged. A drop up to `max_drop` (0..1) is not called worse, however sure it is.

    `alpha`: how often, at most, two equal targets may be called better or worse.
    """

    counts: Discordant
    max_drop: float = 0.0
    alpha: float = 1 - CONFIDENCE


class Judgement(msgspec.Struct, frozen=True):
    """`drop` is the first target's accuracy less the second's, `most_drop` what it is at most (95 %); both 0..1.

    `p_value` is McNemar's exact one: a sign test on the questions that just one target has right.
    """

    drop: float
    most_drop: float
    p_value: float
    verdict: Verdict


def judge(case: Case) -> Judgement:
    """By counts alone."""
    counts = case.counts
    differing = counts.only_left + counts.only_right
    drop = (counts.only_left - counts.only_right) / counts.count if counts.count else 0.0
    p_value = float(binomtest(counts.only_left, differing).pvalue) if differing else 1.0
    verdict = Verdict.SAME
    if p_value <= case.alpha and drop < 0:
        verdict = Verdict.BETTER
    elif p_value <= case.alpha and drop > case.max_drop:
        verdict = Verdict.WORSE
    return Judgement(drop, _most_drop(counts), p_value, verdict)


def _most_drop(counts: Discordant) -> float:
    """The share of questions that the second target loses at most, less the share that it gains at least.

    Each bound is exact (Clopper and Pearson) and holds with 97.5 %, so that both hold with 95 %.
    """
    if not counts.count:
        return 1.0
    lost = binomtest(counts.only_left, counts.count, alternative="less").proportion_ci(_ONE_SIDED).high
    gained = binomtest(counts.only_right, counts.count, alternative="greater").proportion_ci(_ONE_SIDED).low
    return max(float(lost - gained), 0.0)


if __name__ == "__main__":
    case = msgspec.json.decode(sys.stdin.buffer.read(), type=Case)
    sys.stdout.buffer.write(msgspec.json.encode(judge(case)))
