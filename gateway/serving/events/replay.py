"""Asks a publisher's replay endpoint for messages once more; does I/O."""

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import zmq

from gateway.serving.events.intake import ReplayEnd
from gateway.serving.events.sockets import Context, Doorbell, Turn, open_socket, receive_now
from gateway.wire.event_sequence import END_OF_REPLAY, read_replayed, replay_request

PATIENCE_S: Final = 2.0
"""Without an answer. vLLM looks for requests ten times a second, or after each message that it publishes."""
LONGEST_S: Final = 30.0
MOST_MESSAGES: Final = 100_000
MOST_BYTES: Final = 1 << 30
QUEUED_MESSAGES: Final = 10_000
"""Answers that wait for us: all that engines keep, since they drop those that do not get away fast enough."""

_GLANCE_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class ReplayLine:
    """Where to ask. Each question has a connection of its own, so no late answer is taken for another's."""

    context: Context
    endpoint: str
    ipv6: bool = False
    patience_s: float = PATIENCE_S

    async def ask(self, first: int, take: Callable[[int, bytes], bool], overtaken: Callable[[], bool]) -> ReplayEnd:
        """All messages from number `first` on, one by one to `take`, until that says False or no more come.

        `overtaken` is asked now and then whether to go on waiting.
        """
        dealer = open_socket(self.context, zmq.DEALER, ipv6=self.ipv6, queued=QUEUED_MESSAGES)
        with closing(dealer), closing(Doorbell(dealer)) as bell:
            dealer.connect(self.endpoint)
            dealer.send_multipart(replay_request(first), zmq.NOBLOCK)
            return await self._listen(dealer, bell, take, overtaken)

    async def _listen(
        self,
        dealer: "zmq.Socket[bytes]",
        bell: Doorbell,
        take: Callable[[int, bytes], bool],
        overtaken: Callable[[], bool],
    ) -> ReplayEnd:
        heard_at = began_at = time.monotonic()
        count = size = 0
        turn = Turn()
        while count < MOST_MESSAGES and size < MOST_BYTES:
            bell.hush()
            frames = receive_now(dealer)
            now = time.monotonic()
            if frames is not None:
                heard_at = now
                count += 1
                size += sum(map(len, frames))
                message = read_replayed(frames)
                if message is not None and message[0] == END_OF_REPLAY:
                    return ReplayEnd.WHOLE
                if message is not None and not take(*message):
                    return ReplayEnd.STOPPED
            else:
                await bell.wait(_GLANCE_S)
                turn.begin()
            if overtaken():
                return ReplayEnd.STOPPED
            if now > heard_at + self.patience_s or now > began_at + LONGEST_S:
                break
            if turn.over:
                await turn.pass_on()
        return ReplayEnd.SILENT
