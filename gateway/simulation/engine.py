"""One simulated engine in virtual time: steps end when they end, and runs of decodes are taken in one stride; pure."""

from collections.abc import Callable
from math import ceil
from typing import Final

from engines.simulated.model import EngineModel
from engines.simulated.sequences import CacheEvent, Job, Sequence, Step, StepResult
from gateway.simulation.clock import Clock

_MOST_DECODES: Final = 1_000_000


class VirtualEngine:
    """Drives an engine model by the clock; `ended` is told what each step brought, `changed` the cache events."""

    def __init__(
        self,
        model: EngineModel,
        clock: Clock,
        ended: Callable[[StepResult], None],
        changed: Callable[[tuple[CacheEvent, ...]], None],
    ) -> None:
        self.model = model
        self._clock = clock
        self._ended = ended
        self._changed = changed
        self._step: Step | None = None
        self._began = 0.0
        self._plan = 0  # of the step that is going on; a plan that was changed is not the one to end

    def submit(self, job: Job) -> Sequence:
        """Queue a job; it is looked at when the step that is going on ends."""
        sequence = self.model.submit(job, self._clock.now)
        assert sequence is not None  # noqa: S101 - simulated queues have no end
        if self._step is None:
            self._begin()
        elif self._step.steps > 1:
            self._cut_short(self._step)
        return sequence

    def kill(self) -> None:
        """The process is gone; what it held goes back to its pool, which other engines may share."""
        self._plan += 1
        self._step = None
        for sequence in (*self.model.running, *self.model.waiting):
            self.model.abort(sequence)
        self._publish()

    def _begin(self) -> None:
        step = self._step = self.model.begin_step(self._clock.now, _MOST_DECODES)
        if step is None:
            self._publish()
            return
        self._began = self._clock.now
        self._end_after(step.steps)

    def _cut_short(self, step: Step) -> None:
        """Somebody waits: the decodes that are going on end with the current one."""
        done = ceil((self._clock.now - self._began) / step.duration_s) if step.duration_s else 1
        if done < step.steps:
            self._end_after(max(done, 1))

    def _end_after(self, steps: int) -> None:
        assert self._step is not None  # noqa: S101
        self._plan += 1
        plan = self._plan
        self._clock.at(self._began + steps * self._step.duration_s, lambda: self._end(plan, steps))

    def _end(self, plan: int, steps: int) -> None:
        step = self._step
        if plan != self._plan or step is None:
            return
        self._step = None
        result = self.model.end_step(step, self._clock.now, steps)
        self._publish()
        self._begin()
        self._ended(result)

    def _publish(self) -> None:
        events = self.model.drain_events()
        if events:
            self._changed(events)
