"""Which number an answer ends with, in the ways in which models write numbers."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.probe.numbers import exact_number, final_number, same_number, shown


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("There are 14 trays, so 108 are left.", "108"),
        ("The answer is 1,200.", "1200"),
        ("$1,234,567.89", "1234567.89"),
        ("#### $-4.50", "-4.5"),
        ("#### -$4", "-4"),
        ("step 1: 5\n#### 42\nCheck: 7 * 6 = 42, and 6 * 7 too, 100 %", "42"),
        ("#### 5\n#### 6", "6"),
        (r"so \boxed{9{,}800}", "9800"),
        (r"\boxed{12} as said in step 3", "12"),
        (r"\boxed{\frac{1}{2}}", "1/2"),
        (r"\boxed{\text{about } 95.20\text{ dollars}}", "95.2"),
        (r"$$x = \dfrac{3}{4}$$", "3/4"),
        (r"= \$95.20", "95.2"),
        (r"9\,800", "9800"),
        ("9\u202f800 bolts", "9800"),
        ("9 800", "800"),  # two numbers as well as one
        ("5-4", "4"),
        ("12 - 8", "8"),
        ("pages 10–12", "12"),
        ("-8 °C", "-8"),
        ("−8", "-8"),
        ("(-4)", "-4"),
        ("1, 2 and 3", "3"),
        ("12.", "12"),
        (".5", "0.5"),
        ("20%", "20"),
        ("**108** rolls", "108"),
        ("1/2 cup", "1/2"),
        ("x is 2 1/2", "5/2"),
        ("3/4 of 8 is 6", "6"),
        ("60/0", "60"),
        ("27 km/h", "27"),
        ("1.5e3", "1500"),
        ("#### none, or 5", "5"),
        ("#### \n12", "12"),
        ("€ 7", "7"),
    ],
)
def test_the_final_number(text: str, number: str) -> None:
    assert final_number(text) == Fraction(number)


@pytest.mark.parametrize("text", ["", "no number", "####", "\\boxed{}", "9" * 5000])
def test_no_number(text: str) -> None:
    assert final_number(text) is None


def test_an_answer_that_was_cut_off_has_only_a_marked_number() -> None:
    assert final_number("first 5, then 6", complete=False) is None
    assert final_number("first 5\n#### 6", complete=False) == 6
    assert final_number("\\boxed{6} and then 7", complete=False) == 6


def test_what_is_all_a_number() -> None:
    assert exact_number(" 1,200.5 ") == Fraction("1200.5")
    assert exact_number("-1/3") == Fraction(-1, 3)
    assert exact_number("$5") == 5
    assert exact_number("5 apples") is None
    assert exact_number("nan") is None
    assert exact_number("") is None


def test_rounding_makes_no_other_number() -> None:
    assert same_number(Fraction("0.3"), Fraction(0.1 + 0.2))
    assert not same_number(Fraction("0.33"), Fraction(1, 3))
    assert not same_number(None, None)
    assert not same_number(Fraction(0), None)
    assert same_number(Fraction(0), Fraction(0))


@given(st.integers(-(10**9), 10**9), st.integers(0, 99))
def test_a_number_is_found_as_it_was_written(whole: int, cents: int) -> None:
    wanted = Fraction(f"{whole}.{cents:02}")
    for text in (
        f"{whole}.{cents:02}",
        f"{whole:,}.{cents:02}",
        f"it is {whole}.{cents:02} dollars.",
        f"#### {whole}.{cents:02}",
    ):
        assert final_number(text) == wanted
    assert exact_number(shown(wanted)) == wanted


@given(st.text(max_size=300) | st.text("0123456789,./-$ {}\\#boxedfrac", max_size=300))
def test_any_text_is_read(text: str) -> None:
    found = final_number(text)
    assert found is None or isinstance(found, Fraction)
