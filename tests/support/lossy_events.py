"""A relay for KV events that loses messages when told to; does I/O."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import zmq
import zmq.asyncio


class LossyEvents:
    """Between an engine's two event sockets and a gateway. `lose` messages are dropped next; replays pass."""

    def __init__(self) -> None:
        self.lose = 0
        self.lost = 0
        self.passed = 0
        self.port = 0
        self.replay_port = 0


@asynccontextmanager
async def lossy_events(event_port: int, replay_port: int) -> AsyncIterator[LossyEvents]:
    """Relay what the engine on this machine publishes and replays."""
    relay = LossyEvents()
    context = zmq.asyncio.Context()
    inward, outward = context.socket(zmq.SUB), context.socket(zmq.PUB)
    asked, asking = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
    sockets = (inward, outward, asked, asking)
    inward.subscribe(b"")
    inward.connect(f"tcp://127.0.0.1:{event_port}")
    asking.connect(f"tcp://127.0.0.1:{replay_port}")
    relay.port = outward.bind_to_random_port("tcp://127.0.0.1")
    relay.replay_port = asked.bind_to_random_port("tcp://127.0.0.1")

    async def events() -> None:
        while True:
            frames = await inward.recv_multipart()
            if relay.lose > 0:
                relay.lose -= 1
                relay.lost += 1
            else:
                relay.passed += 1
                await outward.send_multipart(frames)

    async def replays() -> None:
        while True:
            client, *question = await asked.recv_multipart()
            await asking.send_multipart(question)
            while True:
                answer = await asking.recv_multipart()
                await asked.send_multipart([client, *answer])
                if b"\xff" * 8 in answer:
                    break

    tasks = [asyncio.create_task(events()), asyncio.create_task(replays())]
    try:
        yield relay
    finally:
        for task in tasks:
            task.cancel()
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        for socket in sockets:
            socket.close(linger=0)
        context.term()
