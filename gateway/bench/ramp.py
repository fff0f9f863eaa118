"""How many long prompts an engine runs at once before one waits or is thrown out: a ramp; does I/O."""

import time
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import httpx

from gateway.bench.ask import AskError, Held, held
from gateway.bench.subject import Subject

DEFAULT_MOST: Final = 256
_OUTPUT_TOKENS: Final = 2048
"""What each may write while further ones come: enough to stay, and little beside its prompt."""
_LOOK_S: Final = 0.02
_GRACE_S: Final = 0.5
_TIMES: Final = 2.0


class RampEnd(StrEnum):
    """Why no more were added."""

    WAITS = "the next one waits"
    PREEMPTED = "one was preempted"
    REFUSED = "the next one was refused"
    LIMIT = "the ramp's own limit"


@dataclass(frozen=True, slots=True)
class Ramp:
    """So many prompts of `isl` tokens ran at once."""

    isl: int
    concurrency: int
    end: RampEnd


async def ramp(client: httpx.AsyncClient, subject: Subject, isl: int, most: int = DEFAULT_MOST) -> Ramp:
    """Add prompts, each kept in the engine with its output, until the next finds no place.

    One more than runs is always queued, so that the engine goes from prefill to prefill and those that run hardly grow.
    All are given up at the end. Raises AskError where the first one fails.
    """
    preempted_before = (await subject.load(client)).preemptions_total or 0
    room = _OUTPUT_TOKENS if subject.context_tokens is None else subject.context_tokens - isl
    output_tokens = min(_OUTPUT_TOKENS, room)
    sent: list[Held] = []
    slowest_s = 0.0
    async with AsyncExitStack() as stack:
        for number in range(most):
            while len(sent) < min(number + 2, most):
                post = subject.prepared(subject.prompts.fresh(isl), output_tokens)
                sent.append(await stack.enter_async_context(held(client, post)))
            began = time.monotonic()
            patience_s = _GRACE_S + _TIMES * slowest_s if number else None
            end = await _end(client, subject, sent[number], patience_s, preempted_before)
            if end is not None:
                return Ramp(isl, number, end)
            slowest_s = max(slowest_s, time.monotonic() - began)
    return Ramp(isl, most, RampEnd.LIMIT)


async def _end(
    client: httpx.AsyncClient, subject: Subject, one: Held, patience_s: float | None, preempted_before: int
) -> RampEnd | None:
    """None once it has its first token; `patience_s` None waits for that as long as it takes. Raises AskError then."""
    began = time.monotonic()
    while True:
        started = await one.started_within(_LOOK_S)
        load = await subject.load(client)
        if (load.preemptions_total or 0) > preempted_before:
            return RampEnd.PREEMPTED
        if started:
            return None
        if one.failure is not None:
            if patience_s is None:
                raise AskError(str(one.failure))
            return RampEnd.REFUSED
        if patience_s is not None and time.monotonic() - began > patience_s:
            return RampEnd.WAITS
