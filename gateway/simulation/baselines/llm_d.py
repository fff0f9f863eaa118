"""llm-d's weighted scorers, with prefixes guessed by a cache per worker or known from events; pure."""

from collections.abc import Sequence
from random import Random
from typing import Final, NamedTuple

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.event_based import EventBaseline
from gateway.simulation.baselines.prefix_sets import PrefixSets
from gateway.simulation.baselines.recent_blocks import RecentBlocks

MAX_MATCHED_TOKENS: Final = 131_072


class Weights(NamedTuple):
    """What each scorer's 0..1 counts in the sum."""

    prefix: float
    queue: float
    kv: float


DEFAULT_WEIGHTS: Final = Weights(prefix=3, queue=2, kv=2)
PRECISE_WEIGHTS: Final = Weights(prefix=2, queue=1, kv=1)


class WeightedScorers:
    """The sum of weight × score, each 0..1; the highest wins, ties in rotation as its max-score picker does.

    Prefix: blocks matched over blocks of the prompt. Queue: (max - waiting) / (max - min), 1 where all are equal.
    KV: 1 - usage, 0 for a worker that has reported nothing. In its favour: as waiting counts what was sent there and
    has no first token yet, known at once and with what is being prefilled; the engine's own waiting requests, scraped
    every 50 ms, leave out the latter, and gave mean TTFTs up to four times as long.
    """

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        self._turn = 0

    def pick(self, up: Sequence[Worker], matched: Sequence[float]) -> Worker:
        """The best worker; `matched` is each one's share of the prompt, in the same order."""
        weights = self._weights
        totals = [
            weights.prefix * prefix + weights.queue * queue + weights.kv * _kv_score(worker)
            for worker, prefix, queue in zip(up, matched, _queue_scores(up), strict=True)
        ]
        highest = max(totals)
        tied = [worker for worker, total in zip(up, totals, strict=True) if total == highest]
        if len(tied) == 1:
            return tied[0]
        worker = tied[self._turn % len(tied)]
        self._turn = 0 if self._turn + 1 >= len(tied) else self._turn + 1
        return worker


def _queue_scores(up: Sequence[Worker]) -> list[float]:
    waiting = [len(worker.unstarted) for worker in up]
    low, high = min(waiting), max(waiting)
    if low == high:
        return [1.0] * len(up)
    return [(high - queue) / (high - low) for queue in waiting]


def _kv_score(worker: Worker) -> float:
    usage = worker.report.kv_usage
    return 0.0 if usage is None else 1 - usage


class LlmDApproximate(Baseline):
    """Scorers 3 prefix, 2 queue, 2 KV usage (the default profile); prefixes from an LRU of blocks sent to each worker.

    Its size is tuned to the worker's KV blocks. A prompt's blocks are touched first to last, as published, so the
    head of the coldest prompt leaves first; no more than 131,072 tokens of a prompt are matched. In its favour: exact
    tokens and block size, sizes known from the start, and a worker that is lost is forgotten even if it comes back.
    """

    name = "llm-d-approximate"
    source = "llm-d-router ebab687, default profile: prefix-cache, queue and kv-cache-utilization scorers"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._scorers = WeightedScorers(DEFAULT_WEIGHTS)
        self._held = PrefixSets(len(workers))
        self._recent = RecentBlocks(self._held, [worker.kv_tokens // worker.block_tokens for worker in workers])

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The highest sum."""
        blocks = _matchable(prompt)
        depths = self._held.depths(blocks)
        return self._scorers.pick(up, [depths[worker.slot] / max(len(blocks), 1) for worker in up])

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Into the worker's LRU."""
        self._recent.touch(worker.slot, _matchable(prompt))

    def lost(self, worker: Worker) -> None:
        """Its LRU goes with it."""
        self._recent.forget(worker.slot)


class LlmDPrecise(EventBaseline):
    """Scorers 2 prefix, 1 queue, 1 KV usage (the sample configuration); prefixes from events, speculation off.

    In its favour: events come without delay and none is lost, also when a worker restarts.
    """

    name = "llm-d-precise"
    source = "llm-d-router ebab687, sample configuration of the precise prefix cache scorer"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._scorers = WeightedScorers(PRECISE_WEIGHTS)

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """The highest sum."""
        depths = self.held.depths(prompt.blocks)
        return self._scorers.pick(up, [depths[worker.slot] / max(len(prompt.blocks), 1) for worker in up])


def _matchable(prompt: Prompt) -> tuple[int, ...]:
    return prompt.blocks[: MAX_MATCHED_TOKENS // prompt.block_tokens]
