"""Drives the engine model in real time and tells the waiting requests of their tokens; does I/O."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

from engines.simulated.kv_events import KvEventPublisher, event_encoder
from engines.simulated.metrics import Histogram
from engines.simulated.model import EngineModel
from engines.simulated.sequences import Job, StepResult
from engines.simulated.sequences import Sequence as EngineSequence
from engines.simulated.settings import SimulatorSettings

_YIELD_AFTER_S = 0.002
"""When the host cannot keep up, the loop still lets others run this often."""


@dataclass(slots=True, eq=False)
class Ticket:
    """The sequences of one HTTP request; `wake` is set whenever one of them has a new token or has ended."""

    sequences: tuple[EngineSequence, ...]
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def is_over(self) -> bool:
        """Whether every sequence has ended."""
        return all(sequence.finish is not None for sequence in self.sequences)

    async def progress(self) -> None:
        """Wait for the next token or the end of any sequence."""
        await self.wake.wait()
        self.wake.clear()


class EngineService:
    """The engine as its server sees it: submit, abort, counters. Runs inside `running()`."""

    def __init__(self, settings: SimulatorSettings) -> None:
        profile = settings.engine_profile
        self.settings = settings
        # A faster engine instead of a faster clock: model time is then the time of every observer.
        self.model = EngineModel(profile.faster(settings.speed), settings.limits)
        self.publisher: KvEventPublisher | None = None
        self.started_at = time.time()
        self.lag_s = 0.0
        """How far the host is behind the model's clock."""
        self.ttft_s = Histogram.for_ttft(settings.dialect)
        self.queue_s = Histogram.for_latency()
        self.prefill_s = Histogram.for_latency()
        self.e2e_s = Histogram.for_latency()
        self.itl_s = Histogram.for_token_gap()
        self.stalled_until = 0.0
        self._tickets: dict[EngineSequence, Ticket] = {}
        self._last_token_at: dict[EngineSequence, float] = {}
        self._work = asyncio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Publish KV events and step the model for as long as the context lasts; then abort what is left."""
        settings = self.settings
        if settings.kv_events_port is not None:
            encode = event_encoder(settings.dialect, settings.kv_event_encoding, settings.block_tokens)
            self.publisher = KvEventPublisher(
                settings.host,
                settings.kv_events_port,
                settings.kv_events_replay_port,
                settings.kv_events_topic,
                encode,
            )
        loop_task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            loop_task.cancel()
            with suppress(asyncio.CancelledError):
                await loop_task
            self.abort(tuple(self._tickets))
            if self.publisher is not None:
                await self.publisher.close()

    def submit(self, jobs: Sequence[Job]) -> Ticket | None:
        """Queue all jobs of a request; None, and none queued, when the queue is full."""
        now = asyncio.get_running_loop().time()
        sequences: list[EngineSequence] = []
        for job in jobs:
            sequence = self.model.submit(job, now)
            if sequence is None:
                self.abort(sequences)
                return None
            sequences.append(sequence)
        ticket = Ticket(tuple(sequences))
        self._tickets.update(dict.fromkeys(sequences, ticket))
        self._work.set()
        return ticket

    def abort(self, sequences: Sequence[EngineSequence]) -> int:
        """Drop these sequences now; returns how many were still alive."""
        aborted = 0
        for sequence in sequences:
            aborted += self.model.abort(sequence)
            ticket = self._forget(sequence)
            if ticket is not None:
                ticket.wake.set()
        return aborted

    def reset_cache(self) -> bool:
        """Drop the whole prefix cache; False while a request runs."""
        cleared = self.model.reset_cache()
        self._publish()
        return cleared

    def lose_event_batches(self, count: int) -> None:
        """Fault injection: the next batches of KV events are published to nobody."""
        if self.publisher is not None:
            self.publisher.lose(count)

    def slow_down(self, times: float) -> None:
        """Fault injection: every step that begins from now on takes `times` as long as it should."""
        self.model.profile = self.settings.engine_profile.faster(self.settings.speed / times)

    def stall(self, seconds: float) -> None:
        """Fault injection: the engine does nothing for this long."""
        self.stalled_until = asyncio.get_running_loop().time() + seconds

    @property
    def live_sequences(self) -> tuple[EngineSequence, ...]:
        """Every sequence that has not ended."""
        return tuple(self._tickets)

    async def _run(self) -> None:
        """Step after step, each at its deadline: a late wake-up shortens the next sleep, so lateness never adds up."""
        clock = asyncio.get_running_loop().time
        model_time = yielded_at = clock()
        while True:
            if self.stalled_until > clock():
                await asyncio.sleep(self.stalled_until - clock())
                model_time = clock()
            step = self.model.begin_step(model_time)
            if step is None:
                self._publish()
                self._work.clear()
                await self._work.wait()
                model_time = yielded_at = clock()
                continue
            model_time += step.duration_s
            now = clock()
            self.lag_s = max(0.0, now - model_time)
            if model_time > now:
                await asyncio.sleep(model_time - now)
                yielded_at = clock()
            elif now - yielded_at > _YIELD_AFTER_S:
                await asyncio.sleep(0)
                yielded_at = clock()
            self._deliver(self.model.end_step(step, model_time), model_time)

    def _deliver(self, result: StepResult, now: float) -> None:
        self._publish()
        for sequence in result.advanced:
            previous = self._last_token_at.get(sequence)
            if previous is not None:
                self.itl_s.observe(now - previous)
            self._last_token_at[sequence] = now
            self._tickets[sequence].wake.set()
        for sequence in result.first:
            scheduled_at = sequence.scheduled_at if sequence.scheduled_at is not None else now
            self.ttft_s.observe(max(0.0, now - sequence.submitted_at))
            self.queue_s.observe(max(0.0, scheduled_at - sequence.submitted_at))
            self.prefill_s.observe(now - scheduled_at)
        for sequence in result.finished:
            self.e2e_s.observe(now - sequence.submitted_at)
            self._forget(sequence)

    def _forget(self, sequence: EngineSequence) -> Ticket | None:
        self._last_token_at.pop(sequence, None)
        return self._tickets.pop(sequence, None)

    def _publish(self) -> None:
        events = self.model.drain_events()
        if self.publisher is not None:
            self.publisher.publish(events)
