"""The demo's workload: multi-turn sessions over shared system prompts; pure, from a seed."""

from dataclasses import dataclass, replace
from random import Random
from typing import Final

BYTES_PER_TOKEN: Final = 4
OPEN_ANSWER_S: Final = 0.5
_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class Shape:
    """The workload in figures; sizes in tokens, times in seconds of the engines' (not the wall's) clock.

    A session opens with one of `families` system prompts and a document of its own; each turn adds a
    question and the answer so far. Sessions start as a Poisson process; a user thinks between turns.
    """

    families: int = 6
    system_tokens: int = 4000
    document_tokens: int = 8000
    question_tokens: int = 120
    answer_tokens: int = 24
    sessions: int = 60
    turns: int = 6
    sessions_per_s: float = 0.62
    think_s: float = 7.0

    @property
    def requests(self) -> int:
        """How many requests the whole workload makes."""
        return self.sessions * self.turns


@dataclass(frozen=True, slots=True)
class Session:
    """One user: starts at `start_s`, asks `questions` one after another, thinking `think_s[i]` before turn i."""

    name: str
    start_s: float
    system: str
    document: str
    questions: tuple[str, ...]
    think_s: tuple[float, ...]


def sessions(shape: Shape, seed: int) -> list[Session]:
    """The same sessions for the same seed."""
    rng = Random(seed)
    systems = [_text(rng, shape.system_tokens) for _ in range(shape.families)]
    made = []
    start_s = 0.0
    for number in range(shape.sessions):
        start_s += rng.expovariate(shape.sessions_per_s)
        made.append(
            Session(
                name=f"session-{number}",
                start_s=start_s,
                system=rng.choice(systems),
                document=_text(rng, shape.document_tokens),
                questions=tuple(_text(rng, shape.question_tokens) for _ in range(shape.turns)),
                think_s=(0.0, *(rng.expovariate(1 / shape.think_s) for _ in range(shape.turns - 1))),
            )
        )
    return made


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of the open loop: sent at `at_s` whatever became of those before it, so its answers are ours."""

    at_s: float
    session: str
    messages: tuple[dict[str, str], ...]
    answer_tokens: int


def arrivals(shape: Shape, seed: int) -> list[Arrival]:
    """The sessions' requests at fixed times, in order, from 0; an answer is taken to last `OPEN_ANSWER_S`."""
    rng = Random(f"answers {seed}")
    made = []
    for session in sessions(shape, seed):
        at_s = session.start_s
        messages = [{"role": "system", "content": session.system}]
        for turn, question in enumerate(session.questions):
            at_s += session.think_s[turn]
            asked = f"{session.document}\n\n{question}" if turn == 0 else question
            messages.append({"role": "user", "content": asked})
            made.append(Arrival(at_s, session.name, tuple(messages), shape.answer_tokens))
            messages.append({"role": "assistant", "content": _text(rng, shape.answer_tokens)})
            at_s += OPEN_ANSWER_S
    made.sort(key=lambda arrival: arrival.at_s)
    return [replace(arrival, at_s=arrival.at_s - made[0].at_s) for arrival in made]


def _text(rng: Random, tokens: int) -> str:
    """Words of random letters, `tokens` × 4 bytes long in all."""
    length = tokens * BYTES_PER_TOKEN
    words = []
    size = 0
    while size <= length:
        word = "".join(rng.choices(_LETTERS, k=rng.randint(2, 9)))
        words.append(word)
        size += len(word) + 1
    return " ".join(words)[:length]
