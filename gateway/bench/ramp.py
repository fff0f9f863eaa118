"""How many long prompts an engine runs at once before one waits or is thrown out: a ramp; does I/O."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpx

from gateway.bench.ask import Held, held
from gateway.bench.subject import Subject

DEFAULT_MOST: Final = 256
OUTPUT_TOKENS: Final = 1024
"""What each may write, for which engines keep room too: enough to stay, and little beside its prompt."""
_LOOK_S: Final = 0.02
_GRACE_S: Final = 0.5
_TIMES: Final = 2.0


class RampEnd(StrEnum):
    """Why no more were added."""

    WAITS = "the next one waits"
    PREEMPTED = "one was preempted"
    REFUSED = "the next one was refused"
    LIMIT = "the ramp's own limit"
    ENDED = "earlier ones had ended"
    """The engine writes faster than it reads prompts: the figure is the most that ran, and more may fit."""


@dataclass(frozen=True, slots=True)
class Ramp:
    """So many prompts of `isl` tokens ran at once, each with room for its output."""

    isl: int
    concurrency: int
    end: RampEnd


async def ramp(client: httpx.AsyncClient, subject: Subject, isl: int, most: int = DEFAULT_MOST) -> Ramp:
    """Add prompts, each kept in the engine with its output, until the next finds no place.

    One more than runs is always queued, so that the engine goes from prefill to prefill and those that run hardly grow.
    All are given up at the end. Raises AskError where the first one fails.
    """
    watch = _Watch(subject, (await subject.load(client)).preemptions_total or 0)
    room = OUTPUT_TOKENS if subject.context_tokens is None else subject.context_tokens - isl
    output_tokens = min(OUTPUT_TOKENS, room)
    sent: list[Held] = []
    slowest_s = 0.0
    async with AsyncExitStack() as stack:
        for number in range(most):
            while len(sent) < min(number + 2, most):
                post = subject.prepared(subject.prompts.fresh(isl), output_tokens)
                sent.append(await stack.enter_async_context(held(client, post)))
            began = time.monotonic()
            end = await watch.end(client, sent[number], number, _GRACE_S + _TIMES * slowest_s if number else None)
            if end is not None:
                return Ramp(isl, watch.at_once(number), end)
            slowest_s = max(slowest_s, time.monotonic() - began)
    return Ramp(isl, watch.at_once(most), RampEnd.LIMIT)


class _Watch:
    """Looks at the engine's load while requests are added."""

    def __init__(self, subject: Subject, preempted_before: int) -> None:
        self._subject = subject
        self._preempted_before = preempted_before
        self._most_running: int | None = None

    def at_once(self, started: int) -> int:
        """How many of those that started ran at the same time: some may have ended before others began."""
        return started if self._most_running is None else min(started, self._most_running)

    async def end(self, client: httpx.AsyncClient, one: Held, number: int, patience_s: float | None) -> RampEnd | None:
        """None once the request, before which `number` were sent, has its first token.

        It waits in vain when it is not even begun for `patience_s`; None waits for that as long as it takes. Raises
        AskError where it fails then.
        """
        begun_at = time.monotonic()
        while True:
            started = await one.started_within(_LOOK_S)
            load = await self._subject.load(client)
            running = load.running_requests
            if running is not None:
                self._most_running = max(running, self._most_running or 0)
            if (load.preemptions_total or 0) > self._preempted_before:
                return RampEnd.PREEMPTED
            if started:
                return RampEnd.ENDED if running is not None and running < number else None
            if one.failure is not None:
                if patience_s is None:
                    raise one.failure
                return RampEnd.REFUSED
            if (running is not None and running > number) or load.waiting_requests == 0:
                begun_at = time.monotonic()  # the engine is at it, or has not heard of it yet
            if patience_s is not None and time.monotonic() - begun_at > patience_s:
                return RampEnd.WAITS
