"""The outbox: what this gateway's requests teach, as records that wait to be told to others; bounded; pure."""

from collections.abc import Callable, Sequence
from typing import Final

from engines.reports import Usage
from gateway.routing.batch import MOST_RECORDS, Batch, Booked, End, Progress, Record, Stored, packed
from gateway.routing.curves import Prefill
from gateway.routing.replica import Booking, Replica

MOST_WAITING: Final = 8192
"""Records; beyond it the oldest are dropped, and the gap in the batches' numbers says so."""

BRIEF_MS: Final = 20.0
"""A booking that is predicted to have its first token sooner changes nobody's mind."""
BRIEF_S: Final = 0.05


class Outbox:
    """Records of bookings and of what became of them; what is not sent yet is said in one record per attempt."""

    def __init__(self, sender: str, ring: Callable[[], None] = lambda: None) -> None:
        self.sender = sender
        self._ring = ring
        self.dropped = 0
        """Records that were never sent."""
        self._records: dict[int, Record] = {}  # in order; attempts' under their ticket, others' below 0
        self._others = 0
        self._number = 0

    def __len__(self) -> int:
        return len(self._records)

    def booked(self, replica: Replica, booking: Booking) -> None:
        """An attempt begins."""
        chain, text = booking.chain, booking.text
        self._put(
            booking.ticket,
            Booked(
                booking.ticket,
                booking.booked_at,
                replica.spec.url,
                packed(chain.hashes),
                chain.length,
                chain.form.block,
                chain.form.counts_tokens,
                chain.salted,
                chain.plain,
                text.length,
                text.family,
                booking.overlap,
                booking.streams,
                booking.prompt_tokens,
                booking.routed_tokens,
                booking.wait_ms,
                booking.prefill_ms,
                booking.token_count,
            ),
        )

    def first_token(self, ticket: int, at: float) -> None:
        """Its first token came."""
        self._of(ticket).first_at = at

    def ended(
        self, ticket: int, at: float, *, completed: bool, usage: Usage | None = None, prefill: Prefill | None = None
    ) -> None:
        """It ended: what the engine said of the prompt, and what its prefill took, where that is known."""
        uncached_tokens, ms = prefill or (0, None)
        prompt_tokens, cached_tokens = (None, None) if usage is None else (usage.prompt_tokens, usage.cached_tokens)
        self._of(ticket).end = End(at, completed, prompt_tokens, cached_tokens, uncached_tokens, ms)

    def stored(self, replica: Replica, response_id: str) -> None:
        """A replica keeps a Responses object."""
        self._others -= 1
        self._put(self._others, Stored(replica.spec.url, response_id))

    def take(self, now: float) -> Batch | None:
        """The next records to send, as of `now` on the clock of their times; None where there are none yet."""
        records = self._taken(now) if self._records else ()
        return self.alive(now, records) if records else None

    def alive(self, now: float, records: Sequence[Record] = ()) -> Batch:
        """A batch that says at least that this gateway is there."""
        self._number += 1
        return Batch(self.sender, self._number, now, list(records))

    def _taken(self, now: float) -> list[Record]:
        keys = [key for key, record in self._records.items() if not _is_brief(record, now)]
        return [self._records.pop(key) for key in keys[:MOST_RECORDS]]

    def _of(self, ticket: int) -> Booked | Progress:
        record = self._records.get(ticket)
        if record is None:
            record = Progress(ticket)
            self._put(ticket, record)
        assert not isinstance(record, Stored)  # noqa: S101 - those are below 0
        return record

    def _put(self, key: int, record: Record) -> None:
        if not self._records:
            self._ring()
        self._records[key] = record
        if len(self._records) > MOST_WAITING:
            del self._records[next(iter(self._records))]
            self.dropped += 1
            self._number += 1  # others shall miss it


def _is_brief(record: Record, now: float) -> bool:
    """Whether what becomes of it will be known in a moment: saying it all at once costs others half as much."""
    if type(record) is not Booked or record.end is not None:
        return False
    return record.wait_ms + record.prefill_ms < BRIEF_MS and now - record.at < BRIEF_S
