"""Runs a ladder: one request at a time, target after target; does I/O."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import httpx

from gateway.bench.ask import Answer, AskError
from gateway.bench.plan import Rung, Step
from gateway.bench.samples import Sample
from gateway.bench.subject import Subject

_SETTLE_S = 2.0
_LOOK_S = 0.05
_BUSY = 0.01


@dataclass(slots=True)
class Climbed:
    """What there is so far: it stands when a run is interrupted."""

    samples: list[Sample] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    """Sentences, each once."""

    def trouble(self, sentence: str) -> None:
        """Note one."""
        if sentence not in self.troubles:
            self.troubles.append(sentence)


def within_context(rungs: Sequence[Rung], subject: Subject) -> list[Rung]:
    """Those that leave room for the one token of output."""
    limit = subject.context_tokens
    return [rung for rung in rungs if limit is None or rung.isl < limit]


async def climb(
    client: httpx.AsyncClient,
    subjects: Sequence[Subject],
    steps: Iterable[Step],
    climbed: Climbed,
    done: Callable[[Step, Sample | None], None],
) -> None:
    """Take every step and note it in `climbed`; `done` hears of each, with its sample unless it warmed up or failed.

    A step that fails is a trouble, and the run goes on.
    """
    traffic = [_Traffic(subject) for subject in subjects]
    for watch in traffic:
        await watch.begin(client)
    for step in steps:
        subject = subjects[step.target]
        sample = None
        try:
            sample = await _measure(client, subject, traffic[step.target], step)
        except AskError as error:
            climbed.trouble(f"{subject.target.name} at {step.rung.label}: {error}")
        if sample is not None and step.round >= 0:
            climbed.samples.append(sample)
        done(step, sample if step.round >= 0 else None)
    for watch in traffic:
        climbed.troubles += await watch.others(client)


async def _measure(client: httpx.AsyncClient, subject: Subject, traffic: "_Traffic", step: Step) -> Sample:
    """Raises AskError."""
    isl = step.rung.isl
    primed = step.rung.primed_tokens(subject.block_tokens)
    if primed:
        beginning = subject.prompts.fresh(primed)
        traffic.count(await subject.ask(client, beginning))
        prompt = subject.prompts.extended(beginning, isl)
    else:
        prompt = subject.prompts.fresh(isl)
    busy = await _is_busy(client, subject)
    answer = await subject.ask(client, prompt)
    traffic.count(answer)
    usage, timing = answer.usage, answer.timing
    return Sample(
        target=subject.target.name,
        round=step.round,
        isl=isl,
        cached=step.rung.cached,
        ttft_ms=answer.ttft_s * 1000,
        prompt_tokens=isl if usage is None else usage.prompt_tokens,
        primed_tokens=primed,
        shared_tokens=subject.prompts.shared_tokens,
        cached_tokens=_cached_tokens(subject, answer),
        prefill_ms=None if timing is None else timing.prefill_ms,
        queue_ms=None if timing is None else timing.queue_ms,
        busy=busy,
        at=time.time(),
    )


def _cached_tokens(subject: Subject, answer: Answer) -> int | None:
    """As usage says. Where the engine is set to say it and does not, there were none: SGLang leaves a zero out."""
    said = None if answer.usage is None else answer.usage.cached_tokens
    return 0 if said is None and subject.description.reports_cached_tokens else said


async def _is_busy(client: httpx.AsyncClient, subject: Subject) -> bool:
    """Whether the engine still has requests a while after ours has ended."""
    until = time.monotonic() + _SETTLE_S
    while True:
        load = await subject.load(client)
        if not (load.running_requests or load.waiting_requests):
            return False
        if time.monotonic() > until:
            return True
        await asyncio.sleep(_LOOK_S)


class _Traffic:
    """Compares the engine's own counter of prompt tokens with what we sent it."""

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._before: int | None = None
        self._sent = 0

    async def begin(self, client: httpx.AsyncClient) -> None:
        """Read the counter as it stands."""
        self._before = (await self._subject.load(client)).prompt_tokens_total

    def count(self, answer: Answer) -> None:
        """Ours."""
        self._sent += 0 if answer.usage is None else answer.usage.prompt_tokens

    async def others(self, client: httpx.AsyncClient) -> list[str]:
        """A sentence where others sent more than a hundredth of what we did."""
        if self._before is None or not self._sent:
            return []
        after = (await self._subject.load(client)).prompt_tokens_total
        others = 0 if after is None else after - self._before - self._sent
        if others <= _BUSY * self._sent:
            return []
        return [
            f"{self._subject.target.name}: others, or another target of this run that is the same engine, sent it "
            f"{others:,} prompt tokens meanwhile, and we {self._sent:,}"
        ]
