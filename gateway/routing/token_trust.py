"""Whether our token ids are the engine's: its own count of every prompt is the proof; pure."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

AGREEMENTS: Final = 8
"""Agreements in a row after which a shape of requests that was wrong is trusted again."""
_SHAPES: Final = 256


@dataclass(slots=True)
class Agreement:
    """How often our count of a shape's tokens was the engine's, and the last time that it was not."""

    agreed: int = 0
    disagreed: int = 0
    last_ours: int = 0
    last_theirs: int = 0
    probation: int = 0
    """Agreements still wanted before the shape is trusted."""


class TokenTrust:
    """One pool's record, by shape of request (chat, chat with tools, …): each shape is rendered alike.

    An approximation of tokens must never pass for tokens: after one wrong count the shape's chains are of text,
    until enough of its prompts, counted on the side, were right again.
    """

    def __init__(self) -> None:
        self.shapes: OrderedDict[str, Agreement] = OrderedDict()

    def trusts(self, shape: str) -> bool:
        """Whether the shape's tokens may be used; yes until the engine says otherwise."""
        agreement = self.shapes.get(shape)
        return agreement is None or agreement.probation == 0

    def observe(self, shape: str, ours: int, theirs: int) -> bool:
        """Compare our count of a prompt's tokens with the engine's; whether they agree."""
        agreement = self.shapes.get(shape)
        if agreement is None:
            agreement = self.shapes[shape] = Agreement()
            if len(self.shapes) > _SHAPES:
                self.shapes.popitem(last=False)
        if ours == theirs:
            agreement.agreed += 1
            agreement.probation = max(agreement.probation - 1, 0)
            return True
        agreement.disagreed += 1
        agreement.last_ours, agreement.last_theirs, agreement.probation = ours, theirs, AGREEMENTS
        return False

    @property
    def sentences(self) -> list[str]:
        """One for each shape that is not trusted."""
        return [
            f"our tokens of {shape} prompts are not the engine's (last: {one.last_ours:,} counted, "
            f"{one.last_theirs:,} reported), so their text is hashed instead: check `tokens` of the pool, that the "
            "tokenizer and chat template are the engine's, and what default template arguments it was started with"
            for shape, one in self.shapes.items()
            if one.probation
        ]
