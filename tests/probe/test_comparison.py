"""What is said of two targets from their answers."""

from fractions import Fraction

import pytest

from gateway.probe.answered import Answered
from gateway.probe.comparison import Comparison, compared
from gateway.probe.divergence import Divergence, divergence
from gateway.probe.judging import Verdict
from gateway.probe.page import page
from gateway.probe.questions import Question


def of(both: int, left: int, right: int, neither: int, max_drop: float = 0.0) -> Comparison:
    """So many questions that both targets have right, that only one has, and that none has."""
    rights = [(True, True)] * both + [(True, False)] * left + [(False, True)] * right + [(False, False)] * neither
    questions = [Question(str(number), f"{number}?", Fraction(7)) for number in range(len(rights))]
    answers = [
        {
            one.id: Answered(name, one.id, "", "#### 7" if right[side] else "#### 8")
            for one, right in zip(questions, rights, strict=True)
        }
        for side, name in enumerate("AB")
    ]
    return compared(questions, ("A", "B"), answers[0], answers[1], max_drop)


def test_no_difference_and_what_is_ruled_out() -> None:
    found = of(57, 1, 0, 2)
    assert found.verdict is Verdict.SAME
    assert (found.same_answer, found.same_text, found.compared) == (59, 59, 60)
    assert found.p_value == 1.0
    assert found.drop == pytest.approx(1 / 60)
    assert 1 / 60 < found.most_drop < 0.1
    assert found.sentence == (
        "no difference found: A has 58/60 right and B 57/60; a drop of more than 8.9 points is ruled out "
        "(95 % confidence)"
    )
    assert found.scores[0].low < 58 / 60 < found.scores[0].high < 1
    assert found.scores[0].accuracy == pytest.approx(58 / 60)


def test_more_questions_rule_out_more() -> None:
    assert of(590, 5, 5, 0).most_drop < of(59, 1, 1, 0).most_drop < of(5, 0, 0, 0).most_drop <= 1


def test_worse_and_better_beyond_chance() -> None:
    worse = of(40, 12, 1, 7)
    assert worse.verdict is Verdict.WORSE
    assert worse.p_value == pytest.approx(28 / 8192)  # 2 * (1 + 13) / 2**13
    assert worse.sentence.startswith("B is worse by 18.3 points: A has 52/60 right and B 41/60; by chance alone")
    better = of(40, 1, 12, 7)
    assert better.verdict is Verdict.BETTER
    assert better.sentence.startswith("B is better by 18.3 points")
    assert better.most_drop < worse.most_drop


def test_few_discordant_questions_prove_nothing() -> None:
    assert of(10, 5, 0, 0).verdict is Verdict.SAME
    assert of(10, 6, 0, 0).verdict is Verdict.WORSE  # 2 / 2**6 is below 5 %


def test_a_drop_that_is_allowed() -> None:
    assert of(190, 8, 0, 2, max_drop=0.05).verdict is Verdict.SAME
    assert "within what was allowed" in of(190, 8, 0, 2, max_drop=0.05).sentence
    assert of(190, 8, 0, 2, max_drop=0.03).verdict is Verdict.WORSE


def test_no_right_answer_at_all_tells_nothing() -> None:
    assert of(0, 0, 0, 9).sentence == "neither has any of 9 right, so these questions cannot tell the two apart"


def test_unanswered_questions_are_a_failure_and_left_out_of_the_figures() -> None:
    questions = [Question(name, name, Fraction(1)) for name in "abc"]
    left = {name: Answered("A", name, "", "1") for name in "abc"}
    right = {"a": Answered("B", "a", "", "1"), "b": Answered("B", "b", "", error="it is gone")}
    found = compared(questions, ("A", "B"), left, right)
    assert found.verdict is Verdict.FAILED
    assert found.compared == 1
    assert found.sentence == "not comparable in full: B left 2 unanswered: it is gone"
    nothing = compared(questions, ("A", "B"), left, {})
    assert (nothing.compared, nothing.most_drop, nothing.verdict) == (0, 1.0, Verdict.FAILED)


def test_answers_that_were_cut_off_are_not_right_by_chance() -> None:
    question = Question("a", "a", Fraction(5))
    cut = {"a": Answered("A", "a", "", "first take 5", finish="length")}
    found = compared([question], ("A", "B"), cut, cut)
    assert [score.cut for score in found.scores] == [1, 1]
    assert [score.right for score in found.scores] == [0, 0]
    assert found.same_answer == 1


def answer(text: str, *tokens: str, thoughts: str = "") -> Answered:
    return Answered("A", "a", "", text, thoughts, tokens)


def test_the_first_token_that_differs() -> None:
    assert divergence(answer("abc", "a", "b", "c"), answer("abd", "a", "b", "d")) == Divergence("token", 2, "c", "d")
    assert divergence(answer("ab", "a", "b"), answer("abc", "a", "b", "c")) == Divergence("token", 2, "", "c")
    assert divergence(answer("ab", "ab"), answer("ab", "a", "b")) == Divergence("token", 0, "ab", "a")
    assert divergence(answer("ab", "a", "b"), answer("ab", "a", "b")) is None


def test_without_tokens_the_first_character_counts() -> None:
    assert divergence(answer("same", "sa", "me"), answer("same")) is None
    assert divergence(answer("12 apples"), answer("12 pears")) == Divergence("character", 3, "apples", "pears")
    assert divergence(answer("x", thoughts="hm "), answer("x")) == Divergence("character", 0, "hm x", "x")


def test_the_page_shows_all_and_trusts_nothing() -> None:
    evil = "<script>alert(1)</script>"
    questions = [Question(evil, evil, Fraction(1))]
    said = {evil: Answered("A", evil, "", evil + " 1", thoughts=evil)}
    shown = page(compared(questions, ("A<", "B"), said, {evil: Answered("B", evil, "", "2")}))
    assert "<script" not in shown
    assert shown.count("&lt;script&gt;") >= 4
    assert "http" not in shown
