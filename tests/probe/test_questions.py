"""The question set: every answer is what its arithmetic gives; and what files of questions may hold."""

import json
from fractions import Fraction
from math import isclose
from pathlib import Path

import pytest

from gateway.probe.questions import QuestionError, load_questions, own_questions, some

WORK = {
    "bakery-trays": "14*24 - 9*12 - 120",
    "bus-seats": "(37-12+7-9+15)/2",
    "train-distance": "2.5*96 + 0.75*80",
    "ages-sisters": "next(3*s for s in range(99) if 3*s + 8 == 2*(s + 8))",
    "coins-jar": "(600 - 36*10)/(25-10)",
    "discount-coat": "180*0.75*0.9",
    "paint-wall": "next(c for c in range(99) if 11*c >= 2*(5.5*3 - 1.5*1))",
    "sequence-eleventh": "list(range(7, 999, 6))[10]",
    "sum-arithmetic": "sum(range(15, 46))",
    "doubling-bacteria": "350*2**6",
    "tank-pipes": "2/(1/6+1/3)",
    "printer-pages": "1350/(18+27)",
    "recipe-scale": "450/6*16 - 380",
    "rent-share": "2100 - 1480/4 - 35",
    "interest-simple": "2400*(1+3*0.05)",
    "interest-compound": "5000*1.04**2",
    "library-fine": "(3*12+2*5)*0.15",
    "marathon-pace": "12*5 + 9*6",
    "cinema-tickets": "(240*12-2460)/(12-7)",
    "garden-fence": "next(w*(w+4) for w in range(99) if 2*(w + w+4) == 56)",
    "cube-paint": "(4-2)**3",
    "box-volume": "40*25*18/1000",
    "marble-ratio": "64*3/8 + 9",
    "average-fifth": "5*22 - (18+25+19+27)",
    "average-raise": "8*80 - 7*78",
    "clock-minutes": "(19*60+45+138+15) - 22*60",
    "flight-hours": "(24*60 + 6*60+5) - (23*60+20)",
    "farm-legs": "(136 - 2*50)/2",
    "taxi-fare": "(30-2-4.20)//1.85",
    "phone-plan": "(32-20)/(0.08-0.05)",
    "bolts-defect": "1250*8*0.98",
    "percent-up-down": "80*1.3*0.75",
    "percent-of-class": "30*0.4*2/3",
    "mixture-salt": "750*0.12",
    "mixture-strength": "(300*20+200*35)/500",
    "workers-days": "(8*15 - 8*5)/(8+2)",
    "candle-length": "(24-18)/(1.5-1)",
    "two-trains": "420/(65+75)",
    "catch-up": "15*2/(60-15)*60",
    "river-boat": "(36/2-36/3)/2",
    "stairs-steps": "7*19 + 12",
    "tiles-floor": "next(b for b in range(99) if 20*b >= 14*12)",
    "eggs-cartons": "5*187//12",
    "chairs-rows": "sum(20 + 2*row for row in range(18))",
    "handshakes": "sum(a < b for a in range(13) for b in range(13)) - 1",
    "committee": "6*5/2*5",
    "dice-sum": "sum(a + b >= 10 for a in range(1, 7) for b in range(1, 7))",
    "calendar-days": "29+30+18",
    "dog-food": "15000/(320+180)",
    "fuel-cost": "850/100*6.4*1.75",
    "currency-chain": "(7*4+2)*20",
    "inches-feet": "(7*12+4)/8",
    "speed-convert": "27000/3600*20",
    "temperature": "-4+11-15",
    "elevator": "3+9-14+5",
    "loss-trader": "34*4 - 40*3.5",
    "fractions-cake": "3/4*2/3",
    "fraction-inherit": "14000/(1-1/2-1/3)",
    "water-bottle": "450/(3/5)-450",
    "book-pages": "next(d for d in range(1, 99) if sum(24 + 6*i for i in range(d)) >= 270)",
    "square-root": "4*45 - 3",
    "average-speed": "240/(120/60+120/40)",
    "remainder": "next(n for n in range(101, 999) if n % 7 == 3 and n % 2 == 0)",
    "digits-sum": "sum(n//10 + n%10 == 9 for n in range(10, 100))",
    "lcm-bells": "sum(m % 18 == 0 and m % 24 == 0 for m in range(1, 361))",
    "twins-ages": "66/6*4",
    "grandfather": "(26-11)*4+11",
    "ticket-profit": "320*2.5 - 275 - 320*0.12",
    "salary-overtime": "40*18 + 6*18*1.5",
    "stock-shelves": "480*5/6*3/4 - 60",
    "compare-offers": "(15*2.4 - 15*2.3)*100",
    "compare-heights": "171-7+12",
    "ants-carry": "25*3*120/4",
}
"""How each answer comes about, written down apart from it."""


def test_every_answer_is_what_its_arithmetic_gives() -> None:
    questions = own_questions()
    assert {question.id for question in questions} == set(WORK)
    for question in questions:
        assert isclose(float(question.answer), eval(WORK[question.id]), rel_tol=1e-9), question.id


def test_the_set_is_large_and_varied() -> None:
    questions = own_questions()
    assert len(questions) >= 60
    assert len({question.question for question in questions}) == len(questions)
    assert any(question.answer < 0 for question in questions)
    assert any(question.answer.denominator > 1 for question in questions)
    assert all(question.question.endswith((".", "?", ")")) for question in questions)


def test_a_part_of_the_set_is_spread_over_it() -> None:
    questions = own_questions()
    few = some(questions, 7)
    assert len({question.id for question in few}) == 7
    assert few[0] == questions[0]
    assert few[-1] in questions[len(questions) // 2 :]
    assert some(questions, 10_000) == questions


def test_a_file_of_questions(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    lines = [{"question": "1 + 1?", "answer": "2"}, {"question": "half?", "answer": "1/2", "id": "h"}]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n" + json.dumps({"question": "more?", "answer": -2.5}))
    read = load_questions(path)
    assert [(one.id, one.answer) for one in read] == [("1", 2), ("h", Fraction(1, 2)), ("4", Fraction(-5, 2))]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('{"question": "a", "answer": 1}\n{"question": "b"}', "line 2: not"),
        ('{"question": "a", "answer": 1}\nnonsense', "line 2: not"),
        ('{"question": "a", "answer": "many"}', "line 1: the answer 'many' is not a number"),
        ('{"question": " ", "answer": 1}', "line 1: the question is empty"),
        ('{"question": "a", "answer": 1, "id": "x"}\n{"question": "b", "answer": 1, "id": "x"}', "the id `x`"),
        ("[" * 100_000, "line 1: not"),
        ("\n\n", "holds no question"),
    ],
)
def test_what_is_wrong_in_a_file_is_named_by_its_line(tmp_path: Path, text: str, complaint: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(text)
    with pytest.raises(QuestionError) as said:
        load_questions(path)
    assert complaint in str(said.value)
    assert "\n" not in str(said.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe")
    for path in (tmp_path / "nowhere", tmp_path, binary):
        with pytest.raises(QuestionError, match="cannot be read"):
            load_questions(path)
