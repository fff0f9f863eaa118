"""One request and its copy: what each of them did, and when both are over; pure."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from gateway.routing.decision import RouteRequest
from gateway.routing.facts import Fact, Finished, Outcome, Refused
from gateway.serving.headers import HeaderList
from gateway.serving.shadowing.timing import Timing
from gateway.tenancy.tenant import Visit
from gateway.wire.answer_text import body_text, stream_text
from gateway.wire.request import Endpoint, InferenceRequest

KEPT_BYTES: Final = 512 * 1024
"""Of one answer that is compared; longer ones are not."""


class Copied(msgspec.Struct, frozen=True):
    """What is sent a second time, as it came, and as it was routed."""

    endpoint: Endpoint
    headers: HeaderList
    body: bytes
    request: InferenceRequest
    visit: Visit | None
    asked: RouteRequest


class Said:
    """An answer's bytes until they are compared. `pieces` None: they are not all there."""

    __slots__ = ("_room", "pieces")

    def __init__(self) -> None:
        self.pieces: list[bytes] | None = []
        self._room = KEPT_BYTES

    def add(self, piece: bytes) -> None:
        """The next bytes."""
        self._room -= len(piece)
        if self._room < 0:
            self.pieces = None
        if self.pieces is not None:
            self.pieces.append(piece)


class Mirror:
    """`own` is the client's request, `copy` the second one."""

    def __init__(self, copied: Copied, offered_at: float, settle: "Callable[[Mirror], None]") -> None:
        """`settle` is called once, when both are over."""
        self.copied: Copied | None = copied
        """None once it was sent: it is long."""
        self.offered_at = offered_at
        self.streams = copied.request.stream
        self.endpoint = copied.endpoint
        self.own = Timing()
        self.copy = Timing()
        self.unwanted = False
        """Whether the client has left, or got no answer: its copy is of no use."""
        self.task: asyncio.Task[None] | None = None
        self.own_said: Sequence[bytes] | None = None
        self.copy_said: Said | None = None
        """None where texts are not compared."""
        self._settle: Callable[[Mirror], None] | None = settle

    def learn(self, fact: Fact) -> None:
        """A fact about the client's request."""
        self.own.learn(fact)
        if isinstance(fact, (Finished, Refused)):
            if fact.outcome is not Outcome.COMPLETED:
                self.unwanted = True
                self.own_said = None
                if self.task is not None:
                    self.task.cancel()
            self._look()

    def answered(self, pieces: Sequence[bytes] | None) -> None:
        """All that the client was sent, before it is told that its request has ended; None: nobody kept it."""
        if self.copy_said is not None and pieces is not None and sum(map(len, pieces)) <= KEPT_BYTES:
            self.own_said = pieces

    def copy_learn(self, fact: Fact) -> None:
        """A fact about the copy."""
        self.copy.learn(fact)
        if isinstance(fact, Finished):
            self._look()

    def _look(self) -> None:
        if self.own.outcome is not None and self.copy.outcome is not None and self._settle is not None:
            settle, self._settle = self._settle, None
            settle(self)

    def texts(self) -> tuple[str, str] | None:
        """Both answers as text; None where they are not compared, or one is not all text. Takes milliseconds."""
        if self.copy_said is None or self.copy_said.pieces is None or self.own_said is None:
            return None
        own, copy = (self._text(pieces) for pieces in (self.own_said, self.copy_said.pieces))
        return None if own is None or copy is None else (own, copy)

    def _text(self, pieces: Sequence[bytes]) -> str | None:
        return stream_text(self.endpoint, pieces) if self.streams else body_text(b"".join(pieces))
