"""A multi-turn, shared-prefix workload whose texts repeat for one seed; pure.

Sessions share a few system prompts, each has a document of its own, and grows by an answer and a question a turn.
The order of turns is drawn, so that a session may wait while others push it out of a small cache.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, field

WORDS = (
    *("cache", "prefix", "token", "router", "engine", "replica", "prefill", "decode"),
    *("queue", "block", "stream", "batch", "tensor", "kernel", "latency", "budget"),
    *("scheduler", "attention", "gateway", "request", "answer", "session", "window", "index"),
    *("measure", "evict", "expert", "layer", "weight", "quantise"),
)


@dataclass(frozen=True)
class Shape:
    """How large the workload is; lengths in words (about 1.3 tokens of a small tokenizer)."""

    sessions: int = 60
    turns: int = 5
    systems: int = 5
    system_words: int = 700
    document_words: int = 900
    question_words: int = 60
    live_sessions: int = 24
    """Sessions that take turns at a time: the more, the longer each is idle."""


@dataclass
class Session:
    """One conversation; `messages` is what the next request sends."""

    number: int
    messages: list[dict[str, str]]
    turns_left: int
    rng: random.Random = field(repr=False)

    def answered(self, text: str, question_words: int) -> None:
        """Go on after an answer."""
        self.turns_left -= 1
        self.messages = [
            *self.messages,
            {"role": "assistant", "content": text},
            {"role": "user", "content": sentence(self.rng, question_words)},
        ]


def sentence(rng: random.Random, words: int) -> str:
    """Words at random, with a number now and then so that texts differ."""
    return " ".join(rng.choice(WORDS) if rng.random() < 0.85 else str(rng.randrange(10_000)) for _ in range(words))


def sessions(shape: Shape, seed: int) -> Iterator[Session]:
    """All sessions, in the order in which they begin."""
    rng = random.Random(seed)
    systems = [sentence(rng, shape.system_words) for _ in range(shape.systems)]
    for number in range(shape.sessions):
        own = random.Random(f"{seed}-{number}")
        messages = [
            {"role": "system", "content": rng.choice(systems)},
            {"role": "user", "content": sentence(own, shape.document_words)},
        ]
        yield Session(number, messages, shape.turns, own)


class Turns:
    """Who speaks next: one of the live sessions that is not waiting for an answer, drawn at random."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self.shape = shape
        self._waiting = sessions(shape, seed)
        self._rng = random.Random(seed + 1)
        self._idle: list[Session] = []
        self._live = 0

    def next(self) -> Session | None:
        """A session to send a request of; None when none is free."""
        while self._live < self.shape.live_sessions and (session := next(self._waiting, None)):
            self._idle.append(session)
            self._live += 1
        return self._idle.pop(self._rng.randrange(len(self._idle))) if self._idle else None

    def answered(self, session: Session, text: str) -> None:
        """The session's request was answered; it may speak again, unless it is over."""
        session.answered(text, self.shape.question_words)
        if session.turns_left:
            self._idle.append(session)
        else:
            self._live -= 1
