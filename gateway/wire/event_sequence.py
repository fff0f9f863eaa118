"""The numbers of one publisher's messages: what comes next, came before, is missing, or began anew; pure."""

from array import array
from collections.abc import Sequence
from enum import Enum
from typing import Final

from xxhash import xxh3_64_intdigest

MEMORY: Final = 16_384
"""Messages whose digests are remembered: more than the 10,000 that engines keep for a replay (128 KiB)."""
END_OF_REPLAY: Final = (1 << 64) - 1
"""The number of the message that ends a replay."""
_NUMBER_BYTES: Final = 8


class Step(Enum):
    """What a message is to those before it."""

    NEXT = "next"
    DUPLICATE = "duplicate"
    """Seen before, with the same payload."""
    GAP = "gap"
    """Some before it are missing, from `EventSequence.next` on."""
    BACK = "back"
    """An old number with another payload, or one too old to tell: the publisher began anew."""


class EventSequence:
    """Where one publisher's sequence stands. `next` is the number that has to come, None while any may begin it.

    Numbers alone do not tell one process from the next, since a new one counts from 0 too and may have passed the
    old one: the digest of the last payload does, when a replay repeats it (`proves`).
    """

    __slots__ = ("_digests", "_first", "next")

    def __init__(self, memory: int = MEMORY) -> None:
        self.next: int | None = None
        self._first = 0
        self._digests = array("Q", bytes(8 * memory))

    @property
    def last(self) -> int | None:
        """The number of the last message; None when none was accepted."""
        return None if self.next is None or self.next == self._first else self.next - 1

    def step(self, number: int, digest: int) -> Step:
        """What this message is; nothing is remembered of it."""
        if self.next is None or number == self.next:
            return Step.NEXT
        if number > self.next:
            return Step.GAP
        return Step.DUPLICATE if self._was(number, digest) else Step.BACK

    def accept(self, number: int, digest: int) -> None:
        """This message is the last one now. One that is not `next` begins the sequence."""
        if number != self.next:
            self._first = number
        self.next = number + 1
        self._digests[number % len(self._digests)] = digest

    def expect(self, number: int) -> None:
        """Nothing was published before this number."""
        self.next = self._first = number

    def forget(self) -> None:
        """Any message may begin the sequence."""
        self.next = None

    def proves(self, number: int, digest: int) -> bool:
        """Whether this is the last message again, so that what a replay says after it continues the sequence."""
        return number == self.last and self._was(number, digest)

    def _was(self, number: int, digest: int) -> bool:
        size = len(self._digests)
        known = self.next is not None and max(self._first, self.next - size) <= number < self.next
        return known and self._digests[number % size] == digest


def digest(payload: bytes) -> int:
    """What is remembered of a payload: 64 bits."""
    return xxh3_64_intdigest(payload)


def read_published(frames: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Number and payload of a published message, `[topic, number, payload]` or without the topic; else None."""
    message = _read(frames) if 2 <= len(frames) <= 3 else None
    return None if message is None or message[0] == END_OF_REPLAY else message


def read_replayed(frames: Sequence[bytes]) -> tuple[int, bytes] | None:
    """Number and payload of a replay's answer, which begins with an empty frame and has a topic in newer engines.

    The last answer has the number END_OF_REPLAY. None for anything else.
    """
    return _read(frames) if 3 <= len(frames) <= 4 and not frames[0] else None


def _read(frames: Sequence[bytes]) -> tuple[int, bytes] | None:
    *_, number, payload = frames
    return (int.from_bytes(number, "big"), payload) if len(number) == _NUMBER_BYTES else None


def replay_request(first: int) -> list[bytes]:
    """The frames that ask for all messages from this number on."""
    return [b"", first.to_bytes(_NUMBER_BYTES, "big")]
