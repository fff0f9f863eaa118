"""SMetric: a session stays where its cache is while that worker can still meet its TTFT target; pure."""

from collections import deque
from collections.abc import Sequence
from random import Random
from typing import Final

from gateway.simulation.baselines.base import Baseline, Prompt, Worker
from gateway.simulation.baselines.prefill_ledger import PrefillLedger
from gateway.simulation.baselines.prefix_sets import PrefixSets
from gateway.simulation.baselines.recent_blocks import RecentBlocks

HIT_RATIO: Final = 0.5
SLACK: Final = 1.0
TTFT_BASE_S: Final = 1.0
TTFT_S_PER_1K_TOKENS: Final = 0.0625
RATE_SAMPLES: Final = 64
RATE_MIN_SAMPLES: Final = 8
RATE_QUANTILE: Final = 0.9
MAX_TREE_TOKENS: Final = 2**26 // 4


class PrefillRate:
    """Tokens a second of one worker: the 90th percentile of its last 64 samples, once there are 8."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=RATE_SAMPLES)
        self.tokens_per_s: float | None = None

    def sample(self, tokens: int, ttft_s: float) -> None:
        """A prompt with so many uncached tokens had its first token after this time, queueing included."""
        if tokens <= 0 or ttft_s <= 0:
            return
        self._samples.append(tokens / ttft_s)
        if len(self._samples) >= RATE_MIN_SAMPLES:
            rank = int((len(self._samples) - 1) * RATE_QUANTILE + 0.5)
            self.tokens_per_s = sorted(self._samples)[rank]


class SMetric(Baseline):
    """queued = uncached tokens of the prompts that wait there + the prompt's own. A follow-up stays with the longest
    match if that is more than 0.5 of what the turn before sent and queued / rate ≤ 1 s + 62.5 ms per 1000 tokens
    there, or nowhere; all else goes to the lowest queued × prompts in flight. Ties in rotation.

    A worker without a learned rate meets any target. Attention costs nothing extra, its default. A follow-up is a
    prompt of a session seen before; without a session, one that extends an earlier prompt (all its full blocks). In
    its favour: exact tokens, its tree (LRU by worker, leaves first, 2^26 characters of 4 a token) is trimmed at once,
    and a worker that is lost is forgotten.
    """

    name = "smetric"
    source = "vllm-project/router src/policies/smetric.rs; arXiv 2607.08565"

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        super().__init__(workers, rng)
        self._tree = PrefixSets(len(workers))
        self._recent = RecentBlocks(self._tree, [MAX_TREE_TOKENS // worker.block_tokens for worker in workers])
        self._prefill = PrefillLedger(len(workers))
        self._rates = [PrefillRate() for _ in workers]
        self._sessions: dict[str, int] = {}  # tokens of the last prompt
        self._ends: dict[int, int] = {}  # last block of an earlier prompt to its tokens
        self._turn = 0

    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """Stay if it may, else balance."""
        start = self._turn % len(up)
        self._turn += 1
        turned = [*up[start:], *up[:start]]
        depths = self._tree.depths(prompt.blocks)
        queued = [self._queued(prompt, worker, depths) for worker in turned]
        budget_s = SLACK * (TTFT_BASE_S + TTFT_S_PER_1K_TOKENS * prompt.tokens / 1000)
        meets = [self._meets(worker, tokens, budget_s) for worker, tokens in zip(turned, queued, strict=True)]
        holder = max(range(len(turned)), key=lambda place: depths[turned[place].slot])
        hit = depths[turned[holder].slot] * prompt.block_tokens
        history = self._history(prompt)
        if history is not None and hit > HIT_RATIO * history and (meets[holder] or not any(meets)):
            return turned[holder]
        return turned[min(range(len(turned)), key=lambda place: queued[place] * len(turned[place].inflight))]

    def _queued(self, prompt: Prompt, worker: Worker, depths: Sequence[int]) -> int:
        own = prompt.tokens - depths[worker.slot] * prompt.block_tokens
        return self._prefill.tokens[worker.slot] + own

    def _meets(self, worker: Worker, queued: int, budget_s: float) -> bool:
        rate = self._rates[worker.slot].tokens_per_s
        return rate is None or queued / rate <= budget_s

    def _history(self, prompt: Prompt) -> int | None:
        """Tokens that the turn before sent; None at a first turn."""
        if prompt.session is not None:
            return self._sessions.get(prompt.session)
        return next((self._ends[block] for block in reversed(prompt.blocks) if block in self._ends), None)

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Books its uncached tokens, then into the tree."""
        own = prompt.tokens - self._tree.depth(worker.slot, prompt.blocks) * prompt.block_tokens
        self._prefill.book(prompt.number, worker.slot, own)
        self._recent.touch(worker.slot, reversed(prompt.blocks))
        if prompt.session is not None:
            self._sessions[prompt.session] = prompt.tokens
        elif prompt.blocks:
            self._ends[prompt.blocks[-1]] = prompt.tokens

    def first_token(self, prompt: Prompt, worker: Worker, cached_tokens: int, ttft_s: float, now: float) -> None:
        """Its prefill is done: a sample of the worker's rate."""
        tokens = self._prefill.settle(prompt.number)
        if tokens is not None:
            self._rates[worker.slot].sample(tokens, ttft_s)

    def finished(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """Nothing of it waits any more."""
        self._prefill.settle(prompt.number)

    def lost(self, worker: Worker) -> None:
        """Its part of the tree goes with it."""
        self._recent.forget(worker.slot)
