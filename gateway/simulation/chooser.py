"""What the simulation asks where requests go: the product's Router, a baseline, or a bound; pure."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from engines.reports import LoadReport
from engines.simulated.sequences import CacheEvent


class Asked(NamedTuple):
    """A request at the gateway. `prompt` is its token ids (4-byte little endian), `blocks` its engine block hashes."""

    number: int
    tokens: int
    prompt: bytes
    blocks: Sequence[bytes]
    session: str | None


class Ended(NamedTuple):
    """A request as its engine ended it."""

    prompt_tokens: int
    output_tokens: int
    cached_tokens: int


class Placement(NamedTuple):
    """Where a request goes: the slot of a replica in the fleet's order."""

    number: int
    slot: int


class Chooser(Protocol):
    """Told everything that a gateway would be told, at the time when it would be; times are seconds.

    After each call the driver takes `placements`: decisions that were made since, also on requests asked earlier.
    """

    poll_s: float
    """It is told each replica's load this often."""
    reads_waiting_tokens: bool
    """Whether that is with the uncached tokens that wait (where engines say them), which take long to count."""

    def ask(self, asked: Asked, now: float) -> None:
        """Where should it go? Also asked again when an engine failed it before its first token."""

    def placements(self, now: float) -> list[Placement]:
        """Decisions made since the last call."""

    def look_at(self, now: float) -> float:
        """When to take placements although nothing has happened; infinity for never."""

    def first_token(self, number: int, cached_tokens: int, now: float) -> None:
        """The request's first token came. `cached_tokens` is what its usage will say at the end."""

    def finished(self, number: int, ended: Ended, now: float) -> None:
        """The request is over and well."""

    def failed(self, number: int, now: float) -> None:
        """Its engine is gone."""

    def reported(self, slot: int, report: LoadReport, now: float) -> None:
        """The replica was polled."""

    def changed(self, slot: int, events: Sequence[CacheEvent], now: float) -> None:
        """The replica's cache said what happened to it."""

    def down(self, slot: int, now: float) -> None:
        """The replica does not answer."""

    def up(self, slot: int, now: float) -> None:
        """The replica is back, with an empty cache."""
