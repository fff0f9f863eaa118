"""A near miss: two prompts that say much the same and share little of it, as something early differs; pure."""

from enum import StrEnum
from typing import Final, NamedTuple

from gateway.serving.prefixes.sketch import Place, Sketch

LEAST_BYTES: Final = 1024
"""Said by both after the place where they part; with less nothing is lost that counts."""


class Breaker(StrEnum):
    """What differs where they part."""

    TIMESTAMP = "timestamp"
    IDENTIFIER = "identifier"
    NUMBER = "number"
    VALUES = "values"
    TOOL_ORDER = "tool-order"
    ORDER = "order"
    LINE = "line"


class NearMiss(NamedTuple):
    """Where two prompts part, at byte `at`, and how many bytes both say after that. `theme` names what they say: it is
    the same for most pairs that do.
    """

    breaker: Breaker
    place: Place
    at: int
    shared_bytes: int
    theme: int


def near_miss(one: Sketch, other: Sketch) -> NearMiss | None:
    """How `one` misses what `other` had left in a cache; None where it does not, or not by much."""
    least = min(len(one.raw), len(other.raw))
    parts = next((piece for piece in range(least) if one.raw[piece] != other.raw[piece]), least)
    if parts == least:
        return None
    later = set(other.raw[parts:])
    shared = [piece for piece in range(parts, len(one.raw)) if one.raw[piece] in later]
    shared_bytes = sum(map(one.size, shared))
    if shared_bytes < LEAST_BYTES:
        return None
    place = one.place(parts)
    theme = min(one.raw[piece] for piece in shared)
    return NearMiss(_breaker(one, other, parts, place), place, one.begins(parts), shared_bytes, theme)


def _breaker(one: Sketch, other: Sketch, at: int, place: Place) -> Breaker:
    """Whether tools only stand in another order; else the first mask under which both are the same there."""
    if place.name in ("tools", "functions") and _reordered(one, other, at):
        return Breaker.TOOL_ORDER
    for breaker, masked, theirs in (
        (Breaker.TIMESTAMP, one.times, other.times),
        (Breaker.IDENTIFIER, one.identifiers, other.identifiers),
        (Breaker.NUMBER, one.numbers, other.numbers),
        (Breaker.VALUES, one.values, other.values),
    ):
        if masked[at] == theirs[at]:
            return breaker
    return Breaker.ORDER if one.raw[at] in other.raw[at:] and other.raw[at] in one.raw[at:] else Breaker.LINE


def _reordered(one: Sketch, other: Sketch, at: int) -> bool:
    """Whether most of what follows in the same place is the same, the first and last items being cut differently."""
    place = one.place(at)
    mine, theirs = ({sketch.raw[piece] for piece in range(at, len(sketch.raw)) if sketch.place(piece) == place}
                    for sketch in (one, other))  # fmt: skip
    return len(mine & theirs) * 2 > max(len(mine), len(theirs))
