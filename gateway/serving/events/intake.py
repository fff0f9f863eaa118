"""Turns the messages of one rank's publisher into facts about its cache, whatever was lost on the way; pure.

It asks nobody itself: `repair` says that messages may be missing, and the feed brings a replay's answers.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal

from engines.cache_events import EventBatch
from gateway.routing.facts import CacheEvents, CacheFenced, CacheLost, CacheSynced, Fact
from gateway.wire.event_sequence import EventSequence, Step, digest, read_published

State = Literal["connecting", "live", "fenced", "lost"]

ROUNDS: Final = 64
"""Replays that one repair may ask for. Engines drop the middle of a long replay when they outrun the network."""
HISTORIES: Final = 4
HISTORY_SPAN_S: Final = 10.0
"""An engine whose messages make no sense has its whole history read at most this often in that time."""


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """How one rank's feed stands. "connecting": never in step so far; "live": all that the rank says is known;
    "fenced": messages may be missing; "lost": nobody listens, or not yet again.

    `replays`: missed messages can be asked for, and were given when last asked. `damaged` counts messages and
    events that could not be read. `last_event_at` is on the gateway's clock. `reason` is why it is not live, or
    was not the last time.
    """

    replica: str
    rank: int
    endpoint: str
    replays: bool
    state: State
    last_seq: int | None = None
    batches: int = 0
    events: int = 0
    gaps: int = 0
    replays_done: int = 0
    losses: int = 0
    damaged: int = 0
    bytes: int = 0
    last_event_at: float | None = None
    reason: str = ""


class ReplayEnd(Enum):
    """How a replay ended."""

    WHOLE = "whole"
    """With the engine's end mark."""
    STOPPED = "stopped"
    """By us: the rest was of no use."""
    SILENT = "silent"
    """Without an end mark in time, or without an end at all."""


@dataclass(slots=True)
class Repair:
    """What is being asked of a replay. `pending` is the message that revealed the gap, to be taken at the end.

    A replay is asked for from the last message that was seen, and has to repeat it first: else the publisher is
    another process, or no longer has what is missing.
    """

    pending: tuple[int, bytes] | None = None
    rounds: int = 0
    hole: int | None = None
    """A number that a replay left out; a second one that leaves it out too settles that it was never published."""
    heard: bool = False
    refuted: bool = False
    moved: bool = False

    def again(self) -> None:
        """Ready for the next round."""
        self.heard = self.refuted = self.moved = False


class EventIntake:
    """One rank's messages in, facts out. A message is taken only while `repair` is None."""

    def __init__(
        self,
        replica: str,
        rank: int,
        read_events: Callable[[bytes], EventBatch | None],
        observe: Callable[[Fact], None],
        clock: Callable[[], float],
    ) -> None:
        self.state: State = "connecting"
        self.repair: Repair | None = None
        self.mute = False
        """Whether the last replay that was asked for gave nothing at all, not even an end."""
        self.last_event_at: float | None = None
        self._replica = replica
        self._rank = rank
        self._read_events = read_events
        self._observe = observe
        self._clock = clock
        self._sequence = EventSequence()
        self._blank = True  # the router believes nothing of the rank, and no fence is up
        self._histories: deque[float] = deque(maxlen=HISTORIES)
        self._batches = self._events = self._gaps = self._replays_done = self._losses = self._damaged = 0
        self._bytes = 0
        self._reason = ""

    @property
    def batches(self) -> int:
        """Messages taken."""
        return self._batches

    def status(self, endpoint: str, *, replays: bool) -> FeedStatus:
        """The counters now. `replays`: there is a replay endpoint."""
        return FeedStatus(
            replica=self._replica,
            rank=self._rank,
            endpoint=endpoint,
            replays=replays and not self.mute,
            state=self.state,
            last_seq=self._sequence.last,
            batches=self._batches,
            events=self._events,
            gaps=self._gaps,
            replays_done=self._replays_done,
            losses=self._losses,
            damaged=self._damaged,
            bytes=self._bytes,
            last_event_at=self.last_event_at,
            reason=self._reason,
        )

    def connected(self) -> None:
        """Messages come from now on; those before have to be made up for."""
        self.repair = Repair()

    def disconnected(self) -> None:
        """Messages are being missed."""
        self.repair = None
        self._fence("the connection broke")

    def lost(self, reason: str) -> None:
        """What is known no longer holds, and nothing is heard: the next connection starts from nothing."""
        self.repair = None
        self._lose(reason)

    def check(self) -> None:
        """Have a replay say whether the last message seen is the last one: a lost tail shows in no number."""
        if self.repair is None and self.state == "live":
            self.repair = Repair()

    def take(self, frames: Sequence[bytes]) -> None:
        """One message of the publisher. Afterwards `repair` may ask for a replay."""
        message = read_published(frames)
        if message is None:
            self._damaged += 1
            return
        number, payload = message
        self.last_event_at = self._clock()
        mark = digest(payload)
        step = self._sequence.step(number, mark)
        if step is Step.NEXT:
            self._accept(number, mark, payload)
        elif step is Step.GAP:
            self._gaps += 1
            self._fence(f"message {self._sequence.next} did not come, {number} did")
            self.repair = Repair(message)
        elif step is Step.BACK:
            self._lose(f"message {number} came after {self._sequence.last}: the publisher began anew")
            self._read_history(Repair(message))

    def ask_from(self) -> int:
        """The number from which a replay is needed: the last one seen, or 0."""
        return self._sequence.last or 0

    def take_replayed(self, number: int, payload: bytes) -> bool:
        """One answer of the replay; False when its rest is of no use."""
        repair, sequence = self.repair, self._sequence
        if repair is None:  # overtaken: the connection broke, or the process is a new one
            return False
        mark = digest(payload)
        if not repair.heard and sequence.last is not None:
            repair.heard = True
            repair.refuted = not sequence.proves(number, mark)
            return not repair.refuted
        repair.heard = True
        step = sequence.step(number, mark)
        if step is Step.GAP and sequence.next == repair.hole:
            self._lose(f"message {repair.hole} is not to be had")
            step = Step.NEXT
        if step is Step.GAP:
            repair.hole = sequence.next
        if step is Step.NEXT:
            repair.moved = True
            self._accept(number, mark, payload)
        repair.refuted = step is Step.BACK
        return step in (Step.NEXT, Step.DUPLICATE)

    def replay_ended(self, end: ReplayEnd) -> None:
        """No more answers to what was asked last. Afterwards `repair` is None, or asks for another replay."""
        repair = self.repair
        if repair is None:
            return
        self.mute = end is ReplayEnd.SILENT and not repair.heard
        whole = end is ReplayEnd.WHOLE
        self._replays_done += whole
        repair.rounds += 1
        if repair.refuted or (whole and self._sequence.last is not None and not repair.heard):
            self._lose("the publisher began anew, or no longer has what is missing")
            self._read_history(Repair(repair.pending, repair.rounds))
        elif whole:
            if self._sequence.next is None:
                self._sequence.expect(0)
            self._finish(repair)
        elif (repair.moved or end is ReplayEnd.STOPPED or self.state == "live") and repair.rounds < ROUNDS:
            self._fence("a replay was incomplete")
            repair.again()
        else:
            self.give_up("a replay got no answer" if self.mute else "a replay had no end")

    def give_up(self, reason: str) -> None:
        """What is missing is not to be had: knowledge begins now."""
        repair = self.repair or Repair()
        self._lose(reason)
        self._finish(repair)

    def _read_history(self, repair: Repair) -> None:
        """Have a replay from 0, unless that was done too often of late."""
        now = self._clock()
        if len(self._histories) == HISTORIES and now - self._histories[0] < HISTORY_SPAN_S:
            self._finish(repair)
            return
        self._histories.append(now)
        self.repair = repair

    def _finish(self, repair: Repair) -> None:
        self.repair = None
        if repair.pending is not None:
            number, payload = repair.pending
            mark = digest(payload)
            step = self._sequence.step(number, mark)
            if step in (Step.GAP, Step.BACK):
                self._lose(f"message {self._sequence.next} is not to be had")
            if step is not Step.DUPLICATE:
                self._accept(number, mark, payload)
        if self.state != "live":
            self.state = "live"
            self._blank = False
            self._observe(CacheSynced(self._replica, self._clock(), self._rank))

    def _accept(self, number: int, mark: int, payload: bytes) -> None:
        self._sequence.accept(number, mark)
        self._batches += 1
        self._bytes += len(payload)
        batch = self._read_events(payload)
        damaged = 1 if batch is None else batch.damaged
        live = self.state == "live"
        if damaged:
            self._damaged += damaged
            reason = f"message {number} could not be read"
            self._fence(reason)
            self._forget(reason)
        if batch is not None and batch.events:
            self._events += len(batch.events)
            self._blank = False
            self._observe(CacheEvents(self._replica, self._clock(), self._rank, batch.events))
        if damaged and live:
            self.state = "live"
            self._blank = False
            self._observe(CacheSynced(self._replica, self._clock(), self._rank))

    def _fence(self, reason: str) -> None:
        if self.state == "live":
            self.state = "fenced"
            self._reason = reason
            self._observe(CacheFenced(self._replica, self._clock(), self._rank, reason))

    def _lose(self, reason: str) -> None:
        self._sequence.forget()
        self._forget(reason)

    def _forget(self, reason: str) -> None:
        self._reason = reason
        if self.state != "connecting":
            self.state = "lost"
        if not self._blank:
            self._blank = True
            self._losses += 1
            self._observe(CacheLost(self._replica, self._clock(), self._rank, reason))
