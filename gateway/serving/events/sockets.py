"""ZMQ sockets on the event loop: a subscription that knows when it was cut off, and what both kinds need; does I/O.

Plain sockets whose file descriptors wake the loop: `zmq.asyncio` costs twice as much for each waking.
"""

import asyncio
import socket
import time
from contextlib import ExitStack
from typing import ClassVar, Final

import zmq
from zmq.utils.monitor import parse_monitor_message

Context = zmq.Context[zmq.Socket[bytes]]
Frames = list[bytes]

LARGEST_MESSAGE_BYTES: Final = 64 << 20
QUEUED_MESSAGES: Final = 1000
"""Of a subscription: beyond that the publisher has to keep them (engines keep 100,000) or drop them."""
TURN_S: Final = 0.001
"""How long feeds work before the event loop's other tasks have their turn."""
_RECEIVED_BYTES: Final = 4 << 20
_RECEIVED_MESSAGES: Final = 64
_HEARTBEAT_MS: Final = 1000
_HEARTBEAT_TIMEOUT_MS: Final = 3000
_RECONNECT_MS: Final = 100
_RECONNECT_MAX_MS: Final = 10_000
_READABLE: Final = int(zmq.POLLIN)
_WATCHED: Final = zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_DISCONNECTED


async def needs_ipv6(host: str) -> bool:
    """Whether the host has no IPv4 address. Engines listen on IPv4 alone unless told otherwise, and a ZMQ socket
    that may use IPv6 prefers it.
    """
    try:
        await asyncio.get_running_loop().getaddrinfo(host, None, family=socket.AF_INET)
    except (OSError, UnicodeError):
        return True
    return False


def open_socket(context: Context, kind: int, *, ipv6: bool, queued: int) -> "zmq.Socket[bytes]":
    """A socket with limits to what a peer can make us keep, that notices when the peer's machine is gone."""
    opened = context.socket(kind)
    opened.setsockopt(zmq.LINGER, 0)
    opened.setsockopt(zmq.RCVHWM, queued)
    opened.setsockopt(zmq.MAXMSGSIZE, LARGEST_MESSAGE_BYTES)
    opened.setsockopt(zmq.IPV6, int(ipv6))
    opened.setsockopt(zmq.HEARTBEAT_IVL, _HEARTBEAT_MS)
    opened.setsockopt(zmq.HEARTBEAT_TIMEOUT, _HEARTBEAT_TIMEOUT_MS)
    opened.setsockopt(zmq.RECONNECT_IVL, _RECONNECT_MS)
    opened.setsockopt(zmq.RECONNECT_IVL_MAX, _RECONNECT_MAX_MS)
    return opened


def receive_now(source: "zmq.Socket[bytes]") -> Frames | None:
    """The next message, None when there is none yet."""
    try:
        return source.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None


class Doorbell:
    """Rings when one of the sockets may have something to read.

    It rings once for any number of messages: wait only after `receive_now` found nothing more.
    """

    def __init__(self, *sockets: "zmq.Socket[bytes]") -> None:
        self._rung = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._descriptors = [int(each.getsockopt(zmq.FD)) for each in sockets]
        for descriptor in self._descriptors:
            self._loop.add_reader(descriptor, self._rung.set)

    def ring(self) -> None:
        """Wake who waits."""
        self._rung.set()

    def hush(self) -> None:
        """Wait for what comes from now on; look at the sockets after this."""
        self._rung.clear()

    async def wait(self, longest_s: float) -> None:
        """Until it rings, which it does after `longest_s` in any case."""
        timer = self._loop.call_later(longest_s, self._rung.set)
        try:
            await self._rung.wait()
        finally:
            timer.cancel()

    def close(self) -> None:
        """Before the sockets are closed."""
        for descriptor in self._descriptors:
            self._loop.remove_reader(descriptor)


class Turn:
    """Bounds how long feeds keep the event loop: `if turn.over: await turn.pass_on()`.

    All who have more to do at a time share one turn, since the loop runs them one after another.
    """

    _passed_on: ClassVar[int] = 0

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """The turn begins now."""
        self._began = time.perf_counter()

    @property
    def over(self) -> bool:
        """Whether others should have their turn."""
        return time.perf_counter() - self._began > TURN_S / (1 + Turn._passed_on)

    async def pass_on(self) -> None:
        """Let them."""
        Turn._passed_on += 1
        try:
            await asyncio.sleep(0)
        finally:
            Turn._passed_on -= 1
        self.begin()


class Subscription:
    """One connection to a publisher, made again whenever it breaks.

    `connected` and `breaks` are as of the last `receive` or `look`: all messages received before came before any
    break that is not counted yet. `drained`: there was no further message, so that the bell rings for the next.
    """

    def __init__(self, context: Context, endpoint: str, topic: str, *, ipv6: bool) -> None:
        self.connected = False
        self.breaks = 0
        self.drained = False
        with ExitStack() as opened:
            self._subscriber = open_socket(context, zmq.SUB, ipv6=ipv6, queued=QUEUED_MESSAGES)
            opened.callback(self._subscriber.close, linger=0)
            self._monitor = self._subscriber.get_monitor_socket(_WATCHED)
            opened.callback(self._monitor.close, linger=0)
            opened.callback(self._subscriber.disable_monitor)
            self.bell = Doorbell(self._subscriber, self._monitor)
            opened.callback(self.bell.close)
            self._subscriber.subscribe(topic)
            self._subscriber.connect(endpoint)
            self._opened = opened.pop_all()

    def close(self) -> None:
        """Close the connection; what has not been received is dropped."""
        self._opened.close()

    def receive(self) -> list[Frames]:
        """Some of the messages that have come; what became of the connection is seen after them."""
        messages: list[Frames] = []
        size = 0
        self.bell.hush()
        self.drained = False
        while size < _RECEIVED_BYTES and len(messages) < _RECEIVED_MESSAGES:
            frames = receive_now(self._subscriber)
            if frames is None:
                self.drained = True
                break
            messages.append(frames)
            size += sum(map(len, frames))
        self.look()
        return messages

    def look(self) -> None:
        """See what became of the connection."""
        while int(self._monitor.get(zmq.EVENTS)) & _READABLE:  # cheaper than to try in vain
            event = parse_monitor_message(self._monitor.recv_multipart(zmq.NOBLOCK))["event"]
            if event == zmq.EVENT_DISCONNECTED:
                self.breaks += self.connected
                self.connected = False
            elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
                self.connected = True

    def drop(self) -> None:
        """Drop what has come over connections that broke, and maybe some of what came later."""
        for _ in range(QUEUED_MESSAGES):
            if receive_now(self._subscriber) is None:
                return
