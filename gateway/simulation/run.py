"""One simulated run: a trace through a chooser over engines in virtual time, measured as its users would; pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from engines.reports import LoadReport
from engines.simulated.cache import BlockPool, hash_blocks
from engines.simulated.sequences import Job, StepResult
from engines.simulated.sequences import Sequence as EngineSequence
from gateway.simulation.chooser import Asked, Chooser, Ended
from gateway.simulation.clock import Clock
from gateway.simulation.engine import VirtualEngine
from gateway.simulation.fleet import SimulatedReplica
from gateway.simulation.trace import Trace, TraceRequest, own_tokens

_PROGRESS_EVERY: Final = 100


class Outage(NamedTuple):
    """A replica that dies and comes back (`until` infinity: never), empty; as shares of the trace's span."""

    slot: int
    since: float
    until: float


class Served(NamedTuple):
    """What became of one request. `ttft_s` is from its arrival at the gateway."""

    number: int
    slot: int
    ttft_s: float
    tokens: int
    cached_tokens: int


@dataclass(slots=True)
class RunResult:
    """All requests of a run, in order of their first tokens. `broken`: streams that died with their engine."""

    served: list[Served] = field(default_factory=list)
    broken: int = 0
    span_s: float = 0.0
    prefill_busy_s: float = 0.0


class Run:
    """Plays a trace once. `pooled`: all engines share one cache of their total capacity times this factor."""

    def __init__(
        self,
        trace: Trace,
        fleet: Sequence[SimulatedReplica],
        chooser: Chooser,
        *,
        outages: Sequence[Outage] = (),
        pooled: int = 0,
        progress: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._trace = trace
        self._fleet = fleet
        self._chooser = chooser
        self._progress = progress
        self._clock = Clock()
        self._result = RunResult()
        self._engines: list[VirtualEngine] = []
        self._pool = BlockPool(_blocks(fleet) * pooled) if pooled else None
        self._asked: dict[int, tuple[TraceRequest, Asked]] = {}  # not yet over
        self._sent: dict[str, tuple[int, int, EngineSequence]] = {}  # by job: number, slot
        self._jobs = 0
        self._left = len(trace.requests)
        self._look = float("inf")
        for slot in range(len(fleet)):
            self._engines.append(self._engine(slot))
        for outage in outages:
            self._clock.at(outage.since * trace.span_s, partial(self._die, outage.slot))
            if outage.until < float("inf"):
                self._clock.at(outage.until * trace.span_s, partial(self._rise, outage.slot))

    def run(self) -> RunResult:
        """From the first arrival until the last request is over."""
        if self._left:
            self._poll()
            self._clock.at(self._trace.requests[0].at, partial(self._arrive, 0))
        while self._left and self._clock.run_next():
            self._place()
        self._result.span_s = self._clock.now
        self._result.prefill_busy_s = sum(engine.model.counters.prefill_busy_s for engine in self._engines)
        return self._result

    # ── requests ─────────────────────────────────────────────────────────────────────────────────

    def _arrive(self, number: int) -> None:
        requests = self._trace.requests
        request = requests[number]
        if number + 1 < len(requests):
            self._clock.at(requests[number + 1].at, partial(self._arrive, number + 1))
        prompt = request.prompt(number)
        blocks = hash_blocks(prompt, self._fleet[0].limits.block_tokens, b"")
        asked = Asked(number, request.tokens, prompt, blocks, request.session)
        self._asked[number] = request, asked
        self._chooser.ask(asked, self._clock.now)

    def _place(self) -> None:
        """Send whatever was decided, until nothing more is, and see when to look again."""
        now = self._clock.now
        while placements := self._chooser.placements(now):
            for number, slot in placements:
                self._send(number, slot)
        look = self._chooser.look_at(now)
        if look < self._look or self._look <= now:
            self._look = look
            if look < float("inf"):
                self._clock.at(look, lambda: None)

    def _send(self, number: int, slot: int) -> None:
        request, asked = self._asked[number]
        self._jobs += 1
        output = own_tokens(number | 1 << 62, max(request.output_tokens, 1))
        job = Job(id=str(self._jobs), prompt=asked.prompt, output=output, hashes=asked.blocks)
        self._sent[job.id] = number, slot, self._engines[slot].submit(job)

    def _ended(self, result: StepResult) -> None:
        now = self._clock.now
        for sequence in result.first:
            number, slot, _ = self._sent[sequence.job.id]
            request, _ = self._asked[number]
            served = Served(number, slot, now - request.at, request.tokens, sequence.cached_tokens)
            self._result.served.append(served)
            self._chooser.first_token(number, sequence.cached_tokens, now)
        for sequence in result.finished:
            number, _, _ = self._sent.pop(sequence.job.id)
            ended = Ended(sequence.prompt_tokens, sequence.output_tokens, sequence.cached_tokens)
            self._chooser.finished(number, ended, now)
            self._over(number)

    def _over(self, number: int) -> None:
        del self._asked[number]
        self._left -= 1
        if self._left % _PROGRESS_EVERY == 0:
            self._progress(len(self._trace.requests) - self._left)

    # ── replicas ─────────────────────────────────────────────────────────────────────────────────

    def _engine(self, slot: int) -> VirtualEngine:
        model = self._fleet[slot].engine()
        if self._pool is not None:
            model.pool = self._pool
        chooser, clock = self._chooser, self._clock
        return VirtualEngine(model, clock, self._ended, lambda events: chooser.changed(slot, events, clock.now))

    def _poll(self) -> None:
        now = self._clock.now
        for slot, engine in enumerate(self._engines):
            self._chooser.reported(slot, _report(engine, waiting_tokens=self._chooser.reads_waiting_tokens), now)
        self._clock.at(now + self._chooser.poll_s, self._poll)

    def _die(self, slot: int) -> None:
        now = self._clock.now
        self._engines[slot].kill()
        self._engines[slot] = self._engine(slot)
        lost = [(job, number, sequence) for job, (number, at, sequence) in self._sent.items() if at == slot]
        self._chooser.down(slot, now)
        for job, number, sequence in lost:
            del self._sent[job]
            self._chooser.failed(number, now)
            if sequence.first_token_at is None:
                self._chooser.ask(self._asked[number][1], now)
            else:
                self._result.broken += 1
                self._over(number)

    def _rise(self, slot: int) -> None:
        self._chooser.up(slot, self._clock.now)


def _report(engine: VirtualEngine, *, waiting_tokens: bool) -> LoadReport:
    model = engine.model
    tells = waiting_tokens and model.profile.engine == "sglang"
    return LoadReport(
        running_requests=len(model.running),
        waiting_requests=len(model.waiting),
        waiting_uncached_tokens=model.waiting_uncached_tokens() if tells else None,
        kv_usage=model.pool.used_blocks / model.pool.capacity_blocks,
        kv_capacity_tokens=model.max_sequence_tokens,
        block_tokens=model.limits.block_tokens,
    )


def _blocks(fleet: Sequence[SimulatedReplica]) -> int:
    return sum(replica.limits.kv_tokens // replica.limits.block_tokens for replica in fleet)
