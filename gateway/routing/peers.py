"""Peers: other gateways' requests, learned by the very code that learns from our own, and counted nowhere; pure."""

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from engines.reports import Usage
from gateway.routing.batch import Batch, Booked, End, Progress, Stored, unpacked
from gateway.routing.beliefs import Beliefs
from gateway.routing.calibration import Overlap
from gateway.routing.chain import ChainForm, PrefixChain
from gateway.routing.congestion import Congestion
from gateway.routing.curves import Prefill
from gateway.routing.fleet import Fleet
from gateway.routing.learning import Learner
from gateway.routing.lessons import confirmed_blocks, surprises
from gateway.routing.replica import Booking, Replica

_NUMBER_BITS: Final = 20
_UNNAMED: Final = "a peer's"
"""The encoding of its token chains where we have none; they are of no use, and do no harm."""


@dataclass(slots=True)
class Peer:
    """Another gateway process: the number of its last batch, when it was heard, its tickets in flight as ours."""

    number: int
    batch: int = 0
    heard_at: float = 0.0
    open: dict[int, Replica] = field(default_factory=dict)


class Peers:
    """Takes batches. A peer's bookings stand beside ours on the same replicas, under tickets below 0.

    What cannot be placed is left out: replicas that we do not have, tickets whose booking we missed, what was heard
    before. Whoever is missing a batch does not know what ended in it, so all that its sender had in flight is let go.
    """

    def __init__(self, fleet: Fleet, beliefs: Beliefs, congestion: Congestion, learner: Learner) -> None:
        self._fleet = fleet
        self._beliefs = beliefs
        self._congestion = congestion
        self._learner = learner
        self._peers: dict[str, Peer] = {}
        self._numbers = 0

    def __len__(self) -> int:
        return len(self._peers)

    def hear(self, batch: Batch, at: float) -> list[tuple[str, str]]:
        """Learn a batch that was sent `at`, on our clock; names of replicas and ids of what they stored."""
        peer = self._peers.get(batch.sender)
        if peer is None:
            self._numbers += 1
            peer = self._peers[batch.sender] = Peer(self._numbers % (1 << _NUMBER_BITS))
        if batch.number <= peer.batch:
            return []
        if peer.batch and batch.number != peer.batch + 1:
            self._let_go(peer, at)
        peer.batch, peer.heard_at = batch.number, at
        ahead = at - batch.sent_at  # of our clock
        stored = []
        for record in batch.records:
            match record:
                case Booked():
                    self._booked(peer, record, ahead)
                case Progress():
                    self._progress(peer, record, ahead)
                case Stored():
                    replica = self._fleet.by_url.get(record.replica)
                    if replica is not None:
                        stored.append((replica.spec.name, record.response_id))
        return stored

    def gone(self, sender: str, at: float) -> None:
        """A peer ended: what it had in flight is let go."""
        peer = self._peers.pop(sender, None)
        if peer is not None:
            self._let_go(peer, at)

    def lapse(self, since: float, at: float) -> None:
        """Peers that were not heard since then are taken to be gone."""
        for sender in [sender for sender, peer in self._peers.items() if peer.heard_at < since]:
            self.gone(sender, at)

    def _booked(self, peer: Peer, record: Booked, ahead: float) -> None:
        replica = self._fleet.by_url.get(record.replica)
        if replica is None:
            return
        self._congestion.routed(record.at + ahead, replica.slot, record.prefill_ms)
        chain = _chain(replica, record)
        if (
            record.end is not None
            and record.end.completed
            and self._is_usual(replica, chain, record, record.end, ahead)
        ):
            return
        booking = _booking(-(record.ticket << _NUMBER_BITS | peer.number), chain, record, ahead)
        if record.end is not None:  # it is over already: there is nothing to promise
            replica.load.sent(booking.prompt_tokens)
            self._end(replica, booking, record.first_at, record.end, ahead)
            return
        self._beliefs.claim(replica.cache, booking)
        self._learner.booked(replica, booking)
        peer.open[booking.ticket] = replica
        if record.first_at is not None:
            self._learner.first_token(replica, booking, record.first_at + ahead)

    def _is_usual(self, replica: Replica, chain: PrefixChain, record: Booked, end: End, ahead: float) -> bool:
        """Whether a request that is over went as expected, so that only its prompt is noted; else all is learned."""
        confirmed = 0
        usage = _usage(end)
        if usage is not None:
            if replica.may_teach(end.at + ahead) or surprises(replica, chain, record, usage):
                return False
            confirmed = confirmed_blocks(replica, chain, usage)
        replica.load.sent(record.prompt_tokens)
        self._learner.heard_of(replica, chain, confirmed, (record.first_at or end.at) + ahead)
        return True

    def _progress(self, peer: Peer, record: Progress, ahead: float) -> None:
        ticket = -(record.ticket << _NUMBER_BITS | peer.number)
        replica = peer.open.get(ticket)
        if replica is None:
            return
        booking = replica.bookings[ticket]
        if record.end is not None:
            del peer.open[ticket]
            self._end(replica, booking, record.first_at, record.end, ahead)
        elif record.first_at is not None and booking.first_token_at is None:
            self._learner.first_token(replica, booking, record.first_at + ahead)
            replica.standing = None

    def _end(self, replica: Replica, booking: Booking, first_at: float | None, end: End, ahead: float) -> None:
        if first_at is not None and booking.first_token_at is None:
            if end.completed:  # `ended` will say that the prompt is there, so once is enough
                self._learner.prefilled(replica, booking, first_at + ahead)
            else:
                self._learner.first_token(replica, booking, first_at + ahead)
        self._learner.ended(
            replica,
            booking,
            end.at + ahead,
            completed=end.completed,
            usage=_usage(end),
            prefill=None if end.prefill_ms is None else Prefill(end.uncached_tokens, end.prefill_ms),
        )
        replica.standing = None

    def _let_go(self, peer: Peer, at: float) -> None:
        for ticket, replica in peer.open.items():
            self._learner.ended(replica, replica.bookings[ticket], at, completed=False)
            replica.standing = None
        peer.open.clear()


def _usage(end: End) -> Usage | None:
    return None if end.prompt_tokens is None else Usage(end.prompt_tokens, 0, end.cached_tokens)


def _chain(replica: Replica, record: Booked) -> PrefixChain:
    encoding = (replica.pool.spec.encoding or _UNNAMED) if record.counts_tokens else ""
    form = _form(record.block, encoding)
    return PrefixChain(unpacked(record.links), record.length, form, record.salted, record.plain)


def _booking(ticket: int, chain: PrefixChain, record: Booked, ahead: float) -> Booking:
    """The peer's booking as one of ours; whose request it is, and what it is called, is not our concern."""
    text, family = chain, record.family
    if record.counts_tokens:
        text = PrefixChain(() if family is None else (family,), record.text_length)
    booked_at = record.at + ahead
    return Booking(
        ticket,
        "",
        "",
        "",
        chain,
        text,
        Overlap(*record.overlap),
        record.streams,
        booked_at,
        booked_at,
        record.prompt_tokens,
        0,
        record.routed_tokens,
        record.wait_ms,
        record.prefill_ms,
        token_count=record.token_count,
    )


@lru_cache(maxsize=1024)
def _form(block: int, encoding: str) -> ChainForm:
    return ChainForm(block, encoding)
