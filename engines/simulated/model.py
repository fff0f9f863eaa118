"""The engine proper: admission, chunked prefill, decode, prefix cache and the time they take, step by step; pure.

Time is whatever the caller says. A step is planned by `begin_step` and takes effect in `end_step`, which the caller
invokes `duration_s` later; between the two, requests may arrive and be aborted.
"""

from collections import deque
from collections.abc import Callable, Iterator

from engines.simulated import tokens
from engines.simulated.cache import BlockPool, hash_blocks
from engines.simulated.profile import EngineProfile
from engines.simulated.sequences import (
    BlocksCleared,
    BlocksRemoved,
    BlocksStored,
    CacheEvent,
    Counters,
    EngineLimits,
    Finish,
    Job,
    Sequence,
    Step,
    StepResult,
)


class EngineModel:
    """One engine without its server. Single owner; nothing here waits."""

    def __init__(self, profile: EngineProfile, limits: EngineLimits) -> None:
        self.profile = profile
        self.limits = limits
        self.counters = Counters()
        self.pool = BlockPool(limits.kv_tokens // limits.block_tokens)
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._events: list[CacheEvent] = []

    # -- requests ------------------------------------------------------------------------------------------------

    def submit(self, job: Job, now: float) -> Sequence | None:
        """Queue a job; None when the queue is full. The caller has checked it against `max_sequence_tokens`."""
        if self.limits.max_queued is not None and len(self.waiting) >= self.limits.max_queued:
            self.counters.refused_requests += 1
            return None
        hashes = job.hashes
        if hashes is None:
            hashes = hash_blocks(job.prompt, self.limits.block_tokens, job.root)
        sequence = Sequence(
            job=job,
            submitted_at=now,
            prompt_tokens=tokens.count(job.prompt),
            output_tokens=tokens.count(job.output),
            hashes=list(hashes),
        )
        self.waiting.append(sequence)
        return sequence

    def abort(self, sequence: Sequence) -> bool:
        """Drop a sequence at once; what it had cached stays cached. False when it had finished before."""
        if sequence.finish is not None:
            return False
        if sequence.scheduled_at is None:
            self.waiting.remove(sequence)
        self._retire(sequence, "abort")
        return True

    def reset_cache(self) -> bool:
        """Forget the whole cache; False while any request holds a block."""
        cleared = self.pool.clear()
        if cleared:
            self._events.append(BlocksCleared())
        return cleared

    @property
    def max_sequence_tokens(self) -> int:
        """The longest prompt plus output that can ever be admitted."""
        return self.pool.capacity_blocks * self.limits.block_tokens

    @property
    def used_tokens(self) -> int:
        """Tokens of KV held by running requests, in whole blocks."""
        return self.pool.used_blocks * self.limits.block_tokens

    def waiting_uncached_tokens(self) -> int:
        """Prefill work in the queue after prefix hits."""
        return sum(sequence.prompt_tokens - self._count_hit_tokens(sequence) for sequence in self.waiting)

    def drain_events(self) -> tuple[CacheEvent, ...]:
        """What happened to the cache since the last call, in order."""
        events, self._events = tuple(self._events), []
        return events

    # -- steps ---------------------------------------------------------------------------------------------------

    def begin_step(self, now: float, most_decodes: int = 1) -> Step | None:
        """Plan the next step and take the KV blocks it writes to; None when there is nothing to do.

        Where nothing is to be prefilled, the plan may cover up to `most_decodes` steps alike, until a sequence ends:
        for callers in virtual time, who need not look at each.
        """
        decodes = [sequence for sequence in self.running if not sequence.is_prefilling]
        budget = self.limits.chunk_tokens
        if self.limits.mixed_chunk:
            budget -= len(decodes)
        prefills = self._plan_prefills(budget, now)
        if prefills and not self.limits.mixed_chunk:
            decodes = []
        if not prefills and not decodes:
            return None
        for sequence, chunk_tokens in prefills:
            self._reserve(sequence, sequence.computed_tokens + chunk_tokens)
        steps = 1
        if not prefills and most_decodes > 1:
            left = min(sequence.output_tokens - sequence.generated_tokens for sequence in decodes)
            steps = max(min(left, most_decodes), 1)
        for sequence in decodes:
            self._reserve(sequence, sequence.computed_tokens + 1)
        return Step(self._duration_s(prefills, decodes), tuple(prefills), tuple(decodes), steps)

    def end_step(self, step: Step, now: float, steps: int = 1) -> StepResult:
        """Apply a planned step, or the first `steps` that it covers; sequences aborted since then are left out."""
        decodes = [sequence for sequence in step.decodes if sequence.finish is None]
        for sequence in decodes if steps > 1 else ():  # of the others the plan took what they write to
            self._reserve(sequence, sequence.computed_tokens + steps)
        advanced = [self._advance(sequence, steps, now) for sequence in decodes]
        first = []
        for sequence, chunk_tokens in step.prefills:
            if sequence.finish is None:
                self.counters.prefilled_tokens += chunk_tokens
                self._advance(sequence, chunk_tokens, now)
                if not sequence.is_prefilling:
                    first.append(sequence)
        if step.prefills:
            self.counters.prefill_busy_s += step.duration_s
        advanced += first
        finished = [s for s in advanced if s.generated_tokens >= s.output_tokens]
        for sequence in finished:
            self._retire(sequence, sequence.job.finish)
        return StepResult(tuple(advanced), tuple(first), tuple(finished))

    def _plan_prefills(self, budget: int, now: float) -> list[tuple[Sequence, int]]:
        """Chunks in order of arrival: running prompts first, then waiting ones while they fit."""
        prefills: list[tuple[Sequence, int]] = []
        if budget <= 0:
            return prefills
        candidates: list[Callable[[], Iterator[Sequence]]] = [self._partial, lambda: self._admitted(now)]
        for candidate in candidates:
            for sequence in candidate():
                chunk_tokens = self._chunk(sequence, budget)
                if chunk_tokens:
                    prefills.append((sequence, chunk_tokens))
                    budget -= chunk_tokens
                if budget <= 0 or not chunk_tokens:
                    return prefills
        return prefills

    def _partial(self) -> Iterator[Sequence]:
        yield from [sequence for sequence in self.running if sequence.is_prefilling]

    def _admitted(self, now: float) -> Iterator[Sequence]:
        while self.waiting and len(self.running) < self.limits.max_running and self._admit(self.waiting[0], now):
            sequence = self.waiting.popleft()
            self.running.append(sequence)
            yield sequence

    def _chunk(self, sequence: Sequence, budget: int) -> int:
        """How much of the prompt goes into this step; SGLang cuts a prompt at block boundaries only."""
        remaining = sequence.prompt_tokens - sequence.computed_tokens
        if remaining <= budget or self.profile.engine == "vllm":
            return max(0, min(remaining, budget))
        return budget - budget % self.limits.block_tokens

    def _admit(self, sequence: Sequence, now: float) -> bool:
        hit_tokens = self._count_hit_tokens(sequence)
        hits = hit_tokens // self.limits.block_tokens
        total_tokens = sequence.prompt_tokens + sequence.output_tokens
        further = -(-total_tokens // self.limits.block_tokens) - hits
        if not self.pool.admit(sequence.hashes[:hits], further):
            return False
        sequence.promised_blocks = further
        sequence.stored_blocks = hits
        sequence.cached_tokens = sequence.computed_tokens = hit_tokens
        sequence.scheduled_at = now
        self.counters.queried_tokens += sequence.prompt_tokens
        self.counters.hit_tokens += hit_tokens
        self.counters.last_hit_rate = hit_tokens / sequence.prompt_tokens
        return True

    def _count_hit_tokens(self, sequence: Sequence) -> int:
        """Whole cached blocks, at most all but the last token of the prompt: that one must be computed."""
        usable = (sequence.prompt_tokens - 1) // self.limits.block_tokens
        return self.pool.count_hits(sequence.hashes[:usable]) * self.limits.block_tokens

    def _duration_s(self, prefills: list[tuple[Sequence, int]], decodes: list[Sequence]) -> float:
        """The prompts' own curves added up, and the decodes; the decode base is hidden behind any prefill.

        Prompts that begin in the same step share one floor: it is the price of a forward pass, not of a prompt.
        """
        duration_ms = self.profile.decode_sequence_ms * len(decodes)
        begun = 0
        for sequence, chunk_tokens in prefills:
            done_tokens = sequence.computed_tokens - sequence.cached_tokens
            begun += not done_tokens
            duration_ms += self.profile.chunk_ms(done_tokens, chunk_tokens, sequence.cached_tokens)
        duration_ms -= self.profile.floor_ms * max(0, begun - 1)
        if not prefills:
            duration_ms += self.profile.decode_base_ms
        return duration_ms / 1000

    def _advance(self, sequence: Sequence, computed_tokens: int, now: float) -> Sequence:
        """Move on by computed tokens; whoever is past the prompt then has one more token to show, or one each."""
        sequence.computed_tokens += computed_tokens
        if not sequence.is_prefilling:
            generated = computed_tokens
            if not sequence.generated_tokens:
                generated = 1
                sequence.first_token_at = now
                self.counters.prompt_tokens += sequence.prompt_tokens
                self.counters.cached_tokens += sequence.cached_tokens
            sequence.generated_tokens += generated
            sequence.last_token_at = now
            self.counters.generated_tokens += generated
        # SGLang's tree learns a prompt chunk by chunk but an answer only when it is complete.
        if self.profile.engine == "vllm" or sequence.computed_tokens <= sequence.prompt_tokens:
            self._store(sequence)
        return sequence

    def _reserve(self, sequence: Sequence, tokens_to_hold: int) -> None:
        held = sequence.stored_blocks + sequence.private_blocks
        needed = max(0, -(-tokens_to_hold // self.limits.block_tokens) - held)
        self._events += [BlocksRemoved(block) for block in self.pool.take(needed)]
        sequence.promised_blocks -= needed
        sequence.private_blocks += needed

    def _store(self, sequence: Sequence) -> None:
        """Cache the blocks that have become full."""
        full = sequence.computed_tokens // self.limits.block_tokens
        if full <= sequence.stored_blocks:
            return
        width = self.limits.block_tokens * tokens.TOKEN_BYTES
        text = sequence.job.prompt
        if full > len(sequence.hashes):
            text += sequence.job.output
            parent = sequence.hashes[-1] if sequence.hashes else sequence.job.root
            filled = text[: full * width]
            sequence.hashes += hash_blocks(filled, self.limits.block_tokens, parent, len(sequence.hashes))
        start = sequence.stored_blocks
        new = [index for index in range(start, full) if self.pool.store(sequence.hashes[index])]
        sequence.stored_blocks = full
        sequence.private_blocks -= full - start
        for first, last in _runs(new):
            self._events.append(
                BlocksStored(
                    parent=sequence.hashes[first - 1] if first else None,
                    hashes=tuple(sequence.hashes[first : last + 1]),
                    tokens=text[first * width : (last + 1) * width],
                    cache_salt=sequence.job.cache_salt,
                    adapter=sequence.job.adapter,
                )
            )

    def _retire(self, sequence: Sequence, finish: Finish) -> None:
        if sequence.scheduled_at is not None:
            self._store(sequence)
            self.pool.release(
                sequence.hashes[: sequence.stored_blocks], sequence.private_blocks, sequence.promised_blocks
            )
            self.running.remove(sequence)
        sequence.finish = finish
        self.counters.finished_requests[finish] += 1


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """The maximal runs of consecutive numbers as (first, last)."""
    start = 0
    for index in range(1, len(numbers) + 1):
        if index == len(numbers) or numbers[index] != numbers[index - 1] + 1:
            yield numbers[start], numbers[index - 1]
            start = index
