"""The number that an answer ends with, however it is written; pure."""

import re
from fractions import Fraction
from typing import Final

TOLERANCE: Final = Fraction(1, 1_000_000)
"""Numbers are the same that differ by less than this share of themselves: 0.1 + 0.2 is 0.3."""
_LONGEST: Final = 60
"""Characters of a number; what is longer is garbage."""

_SIGN: Final = r"(?P<sign>(?<![\w.)\]}%])[-−–])?"  # between two numbers it is a minus or a dash
_CURRENCY: Final = r"(?:[$€£¥][ ]?(?P<minus>-)?)?"
_PLAIN: Final = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d{1,2}(?!\w))?|(?<![\d.])\.\d+"
_NUMBER: Final = re.compile(
    rf"{_SIGN}{_CURRENCY}(?P<plain>{_PLAIN})"
    r"(?:[ ](?P<top>\d{1,9})/(?P<under>\d{1,9})(?![\d/])|[ ]?/[ ]?(?P<below>\d{1,9})(?![\d/.]))?"
)
_BOXED: Final = re.compile(r"\\boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_MARK: Final = re.compile(r"####[ \t]*([^\n]*)")
_SPACED: Final = re.compile(r"(?<=\d)(?:[\u00a0\u2009\u202f]|\\,|\\!|\{,\}|\\ )(?=\d{3}(?!\d))")
_LATEX_COMMA: Final = re.compile(r"(?<=\d)\{,\}|(?<=\d),\\!")
_FRACTION: Final = re.compile(r"\\[dt]?frac\s*\{\s*([^{}]{1,20})\s*\}\s*\{\s*([^{}]{1,20})\s*\}")


def final_number(text: str, *, complete: bool = True) -> Fraction | None:
    """What comes last of: the number after `####`, the number in a box (LaTeX), else the last number of the text.

    An answer that was cut off before its end (not `complete`) has no number but a marked one.
    """
    marked = [*_MARK.findall(text)][-1:] or [*_BOXED.findall(text)][-1:]
    if marked and (found := _numbers(marked[0])):
        return found[-1]
    return _last(text) if complete else None


def exact_number(text: str) -> Fraction | None:
    """The number that a text is, all of it; None where it is anything else."""
    found = _NUMBER.fullmatch(text.strip())
    return None if found is None else _value(found)


def same_number(one: Fraction | None, other: Fraction | None) -> bool:
    """Whether both are numbers, and equal but for rounding."""
    return one is not None and other is not None and abs(one - other) <= TOLERANCE * max(abs(one), abs(other))


def shown(number: Fraction | None) -> str:
    """For people: `-` for none."""
    if number is None:
        return "-"
    if number.denominator == 1:
        return str(number.numerator)
    decimal = f"{float(number):.15g}"
    return decimal if exact_number(decimal) == number else f"{number.numerator}/{number.denominator}"


def _last(text: str) -> Fraction | None:
    found = _numbers(text)
    return found[-1] if found else None


def _numbers(text: str) -> list[Fraction]:
    plain = _FRACTION.sub(r" \1/\2 ", _LATEX_COMMA.sub(",", _SPACED.sub(",", text)))
    plain = plain.replace("\\$", "$").replace("\\,", " ")
    values = (_value(found) for found in _NUMBER.finditer(plain))
    return [value for value in values if value is not None]


def _value(found: re.Match[str]) -> Fraction | None:
    if len(found[0]) > _LONGEST:
        return None
    value = Fraction(found["plain"].replace(",", ""))
    if found["top"] is not None:
        value = _mixed(value, int(found["top"]), int(found["under"]))
    elif found["below"] is not None and int(found["below"]):
        value /= int(found["below"])
    return -value if (found["sign"] is not None) != (found["minus"] is not None) else value


def _mixed(whole: Fraction, top: int, under: int) -> Fraction:
    """2 1/2; where it cannot be such a number, the fraction is the last one."""
    if under == 0:
        return whole
    part = Fraction(top, under)
    return whole + part if whole.denominator == 1 and part < 1 else part
