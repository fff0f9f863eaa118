"""Reads the few wanted samples out of a page in the Prometheus text format; pure.

An engine's page is about 55 KB and is read once a second per replica, so only lines that start with a wanted
name are looked at; everything else is skipped by the regex engine's search for a literal.
"""

import functools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sample:
    """One line of the page. `value` may be NaN or infinite, as the format allows."""

    name: str
    labels: dict[str, str]
    value: float


# Possessive quantifiers: a hostile page must cost linear time.
_LABELS = rb'\{((?:[^"}\n]|"(?:[^"\\\n]|\\.)*+")*+)\}'
_REST = rb"(?:" + _LABELS + rb")?[ \t]*+([-+.0-9A-Za-z]++)(?=[ \t\r\n]|\Z)"
_LABEL = re.compile(rb'([a-zA-Z_][a-zA-Z0-9_]*+)[ \t]*="((?:[^"\\]|\\.)*+)"')
_ESCAPE = re.compile(r"\\(.)")
_UNESCAPED = {"n": "\n", '"': '"', "\\": "\\"}


def read_samples(page: bytes, names: Iterable[str]) -> list[Sample]:
    """The samples with one of `names` (whole names, as on the page), in page order.

    Lines that are not samples are skipped; a label that cannot be read is left out. Never raises.
    """
    samples = []
    # The leading newline lets the pattern begin with a literal, which `re` finds by memchr.
    for name, labels, value in _pattern(frozenset(names)).findall(b"\n" + page):
        number = _read_number(value)
        if number is not None:
            samples.append(Sample(name.decode(), _read_labels(labels), number))
    return samples


def finite_values(samples: Iterable[Sample], *names: str) -> list[float]:
    """The finite values of the first of `names` that has any: newer names first, older ones as fall-back."""
    for name in names:
        values = [s.value for s in samples if s.name == name and math.isfinite(s.value)]
        if values:
            return values
    return []


def total(samples: Sequence[Sample], *names: str) -> float | None:
    """The sum over all series of the first of `names` that occurs, or None."""
    values = finite_values(samples, *names)
    return sum(values) if values else None


def peak(samples: Sequence[Sample], *names: str) -> float | None:
    """The largest value over all series of the first of `names` that occurs, or None."""
    return max(finite_values(samples, *names), default=None)


@functools.lru_cache(maxsize=32)
def _pattern(names: frozenset[str]) -> re.Pattern[bytes]:
    wanted = b"|".join(re.escape(name.encode()) for name in sorted(names)) or rb"(?!)"
    return re.compile(rb"\n(" + wanted + rb")(?=[{ \t])[ \t]*+" + _REST)


def _read_labels(block: bytes) -> dict[str, str]:
    return {name.decode(): _unescape(value.decode(errors="replace")) for name, value in _LABEL.findall(block)}


def _unescape(value: str) -> str:
    if "\\" not in value:
        return value
    return _ESCAPE.sub(lambda match: _UNESCAPED.get(match[1], match[0]), value)


def _read_number(value: bytes) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
