"""Reads the JSON that engines send, believing nothing about its shape; pure.

Every reader takes any value and answers None (or something empty) when the value is not of the wanted kind, so
a dialect names the field it wants and need not guard each step.
"""

import math
from collections.abc import Iterator, Mapping

import msgspec

from engines.reports import ModelCard

Json = Mapping[str, object]
"""A JSON object."""

_LARGEST_COUNT = 2**63 - 1


def read_json(body: bytes) -> object:
    """The JSON value of a body; None when it is not JSON (or is `null`, which says as little)."""
    try:
        return msgspec.json.decode(body)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors; nesting may be thousands deep
        return None


def read_page(pages: Mapping[str, bytes], path: str) -> Json:
    """The JSON object of the page at `path`; an empty one when the page is missing or anything else."""
    return read_object(read_json(pages.get(path, b"")))


def read_object(value: object) -> Json:
    """The value when it is a JSON object, else an empty one."""
    return value if isinstance(value, dict) else {}


def read_objects(value: object) -> list[Json]:
    """The JSON objects of a list; other elements are left out."""
    return [element for element in value if isinstance(element, dict)] if isinstance(value, list) else []


def read_text(value: object) -> str | None:
    """The value when it is a string that is not blank."""
    return value if isinstance(value, str) and value.strip() else None


def read_flag(value: object) -> bool | None:
    """The value when it is a JSON boolean."""
    return value if isinstance(value, bool) else None


def read_count(value: object) -> int | None:
    """A whole number from 0 to 2^63-1, also from a float (Prometheus knows no others)."""
    number = read_number(value)
    return int(number) if number is not None and 0 <= number <= _LARGEST_COUNT else None


def read_fraction(value: object) -> float | None:
    """A share, held to 0..1: engines may overshoot by rounding."""
    number = read_number(value)
    return None if number is None else min(max(float(number), 0.0), 1.0)


def read_number(value: object) -> int | float | None:
    """The value when it is a finite number; booleans are not numbers, and integers past 64 bits are no counts."""
    if isinstance(value, int):
        return value if not isinstance(value, bool) and abs(value) <= _LARGEST_COUNT else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def read_digits(text: str | None) -> int | None:
    """The count that a label value spells, such as `304672`; None for `None`, `auto` and the like."""
    spells_count = text is not None and text.isascii() and text.isdigit() and len(text) <= len(str(_LARGEST_COUNT))
    return read_count(int(text)) if spells_count and text is not None else None


def read_model_cards(body: bytes) -> tuple[ModelCard, ...]:
    """The models of a `/v1/models` body, which is OpenAI's plus `max_model_len` and `parent` on both engines."""
    return tuple(_cards(read_objects(read_object(read_json(body)).get("data"))))


def _cards(models: list[Json]) -> Iterator[ModelCard]:
    for model in models:
        name = read_text(model.get("id"))
        if name is not None:
            yield ModelCard(name, read_count(model.get("max_model_len")), read_text(model.get("parent")))
