"""Numbers and verdicts in words."""

import pytest

from gateway.experiments.report import Interval
from gateway.experiments.words import about, amount, listed, quantity, signed, span, tokens_and_cached, units


def test_changes() -> None:
    assert amount(-0.1234, "relative") == "12.3 %"
    assert amount(0.05, "points") == "5 points"
    assert amount(0.00123, "relative") == "0.12 %"
    assert signed(0.02, "relative") == "+2 %"
    assert signed(-1.5, "relative") == "\N{MINUS SIGN}150 %"


def test_intervals_may_be_open() -> None:
    assert span(-0.05, 0.031, "relative") == "\N{MINUS SIGN}5 to +3.1 %"
    assert span(0.01, None, "points") == "+1 points or more"
    assert span(None, 0.01, "points") == "+1 points or less"
    assert span(None, None, "relative") == "no bounds yet"


@pytest.mark.parametrize(("count", "said"), [(1, 1), (99, 99), (101, 110), (876, 880), (12_345, 13_000)])
def test_about_is_never_less(count: int, said: int) -> None:
    assert about(count) == said


def test_lists_and_units() -> None:
    assert [listed(words) for words in ((), ("a",), ("a", "b"), ("a", "b", "c"))] == ["", "a", "a and b", "a, b and c"]
    assert (units(1), units(1200)) == ("1 unit", "1,200 units")


def test_quantities() -> None:
    assert quantity(None, "seconds") == "–"
    assert quantity(0.1234, "seconds") == "123 ms"
    assert quantity(2.5, "seconds") == "2.5 s"
    assert quantity(0.574, "share") == "57.4 %"
    assert quantity(21_926.3, "tokens/s/GPU") == "21,926"
    assert quantity(0.0317, "USD/1M tokens") == "0.0317"


def test_strata() -> None:
    assert tokens_and_cached(Interval(4000, 8000), Interval(0.25, 0.5)) == "4 to 8k, 25 to 50 % cached"
    assert tokens_and_cached(Interval(64_000, None), Interval(0.9, None)) == "64k or more, 90 to 100 % cached"
