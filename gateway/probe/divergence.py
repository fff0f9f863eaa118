"""Where two answers to one question part; pure."""

from itertools import zip_longest

import msgspec

from gateway.probe.answered import Answered
from gateway.wire.answer_text import parting

_AROUND = 24
"""Characters shown where there are no tokens."""


class Divergence(msgspec.Struct, frozen=True):
    """`at` counts `unit`s (`token` or `character`) from 0; `left` and `right` are what stands there, "" at an end."""

    unit: str
    at: int
    left: str
    right: str


def divergence(left: Answered, right: Answered) -> Divergence | None:
    """The first difference: of tokens where both targets told theirs, else of the text; None where there is none."""
    if left.tokens and right.tokens:
        for at, (one, other) in enumerate(zip_longest(left.tokens, right.tokens, fillvalue="")):
            if one != other:
                return Divergence("token", at, one, other)
    parts_at = parting(left.whole, right.whole)
    if parts_at is None:
        return None
    around = slice(parts_at, parts_at + _AROUND)
    return Divergence("character", parts_at, left.whole[around], right.whole[around])
