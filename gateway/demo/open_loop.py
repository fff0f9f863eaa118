"""Requests sent at fixed times, whatever becomes of them; and what the way to an engine costs; does I/O."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

from engines.reports import Usage
from engines.simulated.profile import EngineProfile
from gateway.demo.fleet import SimulatedEngine
from gateway.demo.replay import chat_body
from gateway.demo.workload import Arrival
from gateway.serving.engine_client import EngineClient, EngineGoneError
from gateway.wire.request import Endpoint
from gateway.wire.stream import StreamWatcher

_PROBES: Final = 12
_LEAD_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Answered:
    """One request of the open loop as its user saw it; `late_s` is how much after its time it was sent (wall)."""

    number: int
    replica: str
    ttft_s: float
    usage: Usage
    late_s: float


async def delay_ms(engines: Sequence[SimulatedEngine], profiles: Sequence[EngineProfile], arrival: Arrival) -> float:
    """Milliseconds that sockets and processes add to the engines' own time: the median over some idle requests.

    `profiles` are the engines' in the same order; their caches are to be flushed afterwards.
    """
    client = EngineClient()
    body = chat_body(arrival.messages, arrival.answer_tokens)
    added: list[float] = []
    try:
        for engine, profile in zip(engines, profiles, strict=True):
            for _ in range(_PROBES):
                answer = await _ask(client, engine.url, 0, arrival.session, body, time.monotonic())
                cached = answer.usage.cached_tokens or 0
                if cached:  # the first one has all to compute, and a process to warm up
                    own_ms = profile.chunk_ms(0, answer.usage.prompt_tokens - cached, cached)
                    added.append(answer.ttft_s * 1000 - own_ms)
    finally:
        await client.close()
    return max(median(added), 0.0)


async def send_all(url: str, arrivals: Sequence[Arrival], speed: float) -> list[Answered]:
    """Send each request at its time over `speed`; the answers, in that order. Raises ValueError when one fails.

    Request ids are the numbers in that order.
    """
    client = EngineClient()
    bodies = [chat_body(arrival.messages, arrival.answer_tokens) for arrival in arrivals]
    tasks: list[asyncio.Task[Answered]] = []
    began = time.monotonic() + _LEAD_S
    try:
        for number, arrival in enumerate(arrivals):
            due = began + arrival.at_s / speed
            await asyncio.sleep(due - time.monotonic())
            tasks.append(asyncio.create_task(_ask(client, url, number, arrival.session, bodies[number], due)))
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await client.close()


async def _ask(client: EngineClient, url: str, number: int, session: str, body: bytes, due: float) -> Answered:
    watcher = StreamWatcher(Endpoint.CHAT, strip_usage=False)
    headers = (
        (b"content-type", b"application/json"),
        (b"x-session-id", session.encode()),
        (b"x-request-id", b"%d" % number),
    )
    ttft_s: float | None = None
    sent = time.monotonic()
    try:
        response = await client.send(url, "POST", Endpoint.CHAT, headers, body)
        while chunk := await response.read():
            watcher.feed(chunk)
            if ttft_s is None and watcher.first_token:
                ttft_s = time.monotonic() - sent
    except EngineGoneError as error:
        raise ValueError(f"request {number} failed: {error}") from error
    if response.status != 200 or ttft_s is None or watcher.usage is None or watcher.error is not None:
        raise ValueError(f"the answer to request {number} has status {response.status} and is not a whole stream")
    replica = response.header(b"x-prefixgate-replica").decode()
    return Answered(number, replica, ttft_s, watcher.usage, sent - due)
