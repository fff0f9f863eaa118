"""Baselines and bounds as choosers: keeps what every router counts, so that a baseline is its choice alone; pure."""

from collections.abc import Callable, Sequence
from itertools import groupby
from random import Random

from engines.reports import LoadReport
from engines.simulated.sequences import BlocksRemoved, BlocksStored, CacheEvent
from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.chooser import Asked, Ended, Placement
from gateway.simulation.fleet import SimulatedReplica

_NAME_BYTES = 8


class ComparedChooser:
    """Drives a baseline, polling as often as the most eager does (llm-d). With no replica up, prompts wait.

    `seen` is what a choice may be made from, of a prompt that is counted and learned as it is.
    """

    poll_s = 0.05
    reads_waiting_tokens = False

    def __init__(
        self,
        fleet: Sequence[SimulatedReplica],
        baseline: type[Baseline],
        seed: int,
        *,
        seen: Callable[[Prompt], Prompt] = lambda prompt: prompt,
    ) -> None:
        self._workers = [_worker(slot, replica) for slot, replica in enumerate(fleet)]
        self._up = list(self._workers)
        self._baseline = baseline(tuple(self._workers), Random(seed))
        self._seen = seen
        self._sent: dict[int, tuple[Prompt, Worker, float]] = {}
        self._waiting: list[Prompt] = []
        self._placements: list[Placement] = []

    def ask(self, asked: Asked, now: float) -> None:
        """Choose, and count the prompt at its worker from this moment on."""
        block_tokens = self._workers[0].block_tokens
        blocks = tuple(map(_name, asked.blocks))
        self._choose(Prompt(asked.number, asked.tokens, blocks, block_tokens, asked.session), now)

    def _choose(self, prompt: Prompt, now: float) -> None:
        if not self._up:
            self._waiting.append(prompt)
            return
        worker = self._baseline.choose(self._seen(prompt), self._up, now)
        worker.inflight[prompt.number] = worker.unstarted[prompt.number] = prompt
        self._sent[prompt.number] = prompt, worker, now
        self._baseline.sent(prompt, worker, now)
        self._placements.append(Placement(prompt.number, worker.slot))

    def placements(self, now: float) -> list[Placement]:
        """Decisions made since the last call."""
        made, self._placements = self._placements, []
        return made

    def look_at(self, now: float) -> float:
        """Never: published policies decide at once."""
        return float("inf")

    def first_token(self, number: int, cached_tokens: int, now: float) -> None:
        """Its prefill is done."""
        prompt, worker, sent_at = self._sent[number]
        worker.unstarted.pop(number, None)
        self._baseline.first_token(prompt, worker, cached_tokens, now - sent_at, now)

    def finished(self, number: int, ended: Ended, now: float) -> None:
        """It leaves its worker."""
        self._leave(number, now)

    def failed(self, number: int, now: float) -> None:
        """It leaves its worker, which is gone."""
        self._leave(number, now)

    def _leave(self, number: int, now: float) -> None:
        prompt, worker, _ = self._sent.pop(number)
        worker.inflight.pop(number, None)
        worker.unstarted.pop(number, None)
        self._baseline.finished(prompt, worker, now)

    def reported(self, slot: int, report: LoadReport, now: float) -> None:
        """A poll's answer."""
        self._workers[slot].report = report

    def changed(self, slot: int, events: Sequence[CacheEvent], now: float) -> None:
        """Cache events, to those who hear them."""
        if not self._baseline.hears_events:
            return
        worker = self._workers[slot]
        for kind, run in groupby(events, key=type):
            if kind is BlocksStored:
                stored = [_name(block) for event in run if isinstance(event, BlocksStored) for block in event.hashes]
                self._baseline.stored(worker, stored)
            elif kind is BlocksRemoved:
                self._baseline.removed(worker, [_name(e.block) for e in run if isinstance(e, BlocksRemoved)])

    def down(self, slot: int, now: float) -> None:
        """The worker is gone, with its cache."""
        worker = self._workers[slot]
        self._up = [one for one in self._up if one is not worker]
        self._baseline.lost(worker)

    def up(self, slot: int, now: float) -> None:
        """It is back, empty."""
        worker = self._workers[slot]
        worker.report = LoadReport()
        self._up = sorted({*self._up, worker}, key=lambda one: one.slot)
        waiting, self._waiting = self._waiting, []
        for prompt in waiting:
            self._choose(prompt, now)


def _worker(slot: int, replica: SimulatedReplica) -> Worker:
    limits = replica.limits
    return Worker(slot, replica.name, replica.pool, limits.kv_tokens, limits.block_tokens, limits.chunk_tokens)


def _name(block: bytes) -> int:
    return int.from_bytes(block[:_NAME_BYTES], "little")
