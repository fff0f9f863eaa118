"""Prompts of an exact number of tokens that no engine can have cached; pure, with randomness as an argument.

An engine that takes token ids gets ids, drawn from those that its own tokeniser made of some text: so each is in its
vocabulary, and as many are sent as are counted. Any other gets words, as many as two calibrating answers say.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Final, Protocol

WORDS: Final = tuple(
    """
    time year people way day man thing woman life child world school state family student group country problem hand
    part place case week company system program question work government number night point home water room mother
    area money story fact month lot right study book eye job word business issue side kind head house service friend
    father power hour game line end member law car city community name president team minute idea body back parent
    face level office door health person art war history party result change morning reason research girl guy moment
    air teacher force education foot boy age policy music market sense nation plan college interest death experience
    """.split()  # noqa: SIM905 - a hundred lines otherwise
)
"""Common words: most tokenisers have each, with the space before it, as one token."""
_FEWEST_IDS: Final = 16
_SAMPLE_WORDS: Final = 1500


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids, or a text; `tokens` is how many tokens it is meant to be."""

    tokens: int
    ids: tuple[int, ...] = ()
    text: str = ""


class Prompts(Protocol):
    """Makes prompts for one target."""

    shared_tokens: int
    """How many tokens all prompts begin with, such as a chat template's: these may be cached, whatever we do."""

    def fresh(self, tokens: int) -> Prompt:
        """One that was never sent, from its first token on."""

    def extended(self, prompt: Prompt, tokens: int) -> Prompt:
        """One of so many tokens that begins with another, and goes on as none did."""


def sample_text(rng: random.Random) -> str:
    """Letters at random, whose tokens are a pool of many different valid ids."""
    return " ".join("".join(rng.choices(ascii_lowercase, k=rng.randint(2, 5))) for _ in range(_SAMPLE_WORDS))


class IdPrompts:
    """Prompts of token ids. Consecutive ones differ in their first id until all ids have been first."""

    shared_tokens = 0

    def __init__(self, ids: Sequence[int], rng: random.Random) -> None:
        """`ids` are valid ones, at least 16 different; ValueError otherwise."""
        self._ids = sorted(set(ids))
        if len(self._ids) < _FEWEST_IDS:
            raise ValueError(f"{len(self._ids)} different token ids are too few to make prompts of")
        self._rng = rng
        self._firsts: list[int] = []

    def fresh(self, tokens: int) -> Prompt:
        """So many ids; the first is one that was not first for long, since some caches match single tokens."""
        if not self._firsts:
            self._firsts = self._rng.sample(self._ids, len(self._ids))
        first = self._firsts.pop()
        return Prompt(tokens, (first, *self._rng.choices(self._ids, k=tokens - 1)))

    def extended(self, prompt: Prompt, tokens: int) -> Prompt:
        """The prompt's ids and further ones."""
        more = self._rng.choices(self._ids, k=tokens - len(prompt.ids))
        return Prompt(tokens, (*prompt.ids, *more))


@dataclass(frozen=True, slots=True)
class WordCount:
    """tokens = overhead + per_word × words: by the engine's own usage, chat template included."""

    overhead: float
    per_word: float

    def words(self, tokens: int) -> int:
        """So many words make a prompt of about so many tokens."""
        return max(1, round((tokens - self.overhead) / self.per_word))


def calibrated(short: tuple[int, int], long: tuple[int, int]) -> WordCount:
    """From (words, tokens) of two prompts. ValueError where more words did not make more tokens."""
    (few, few_tokens), (many, many_tokens) = short, long
    per_word = (many_tokens - few_tokens) / (many - few)
    if per_word <= 0:
        raise ValueError("the engine's count of prompt tokens does not grow with the prompt")
    return WordCount(few_tokens - per_word * few, per_word)


class WordPrompts:
    """Prompts of words, whose tokens are an estimate: the answer's usage tells how many they were."""

    def __init__(self, rng: random.Random, count: WordCount) -> None:
        self._rng = rng
        self.count = count
        self.shared_tokens = max(0, round(count.overhead))

    def fresh(self, tokens: int) -> Prompt:
        """Random words."""
        return Prompt(tokens, text=self.words(self.count.words(tokens)))

    def extended(self, prompt: Prompt, tokens: int) -> Prompt:
        """The prompt's words and further ones."""
        missing = self.count.words(tokens) - len(prompt.text.split())
        return Prompt(tokens, text=f"{prompt.text} {self.words(max(missing, 1))}")

    def words(self, number: int) -> str:
        """So many random words in one line."""
        return " ".join(self._rng.choices(WORDS, k=number))
