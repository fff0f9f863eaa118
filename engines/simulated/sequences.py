"""What the engine model works on and tells: jobs, sequences, steps, cache events, counters; pure."""

from collections import Counter
from collections.abc import Sequence as Hashes
from dataclasses import dataclass, field
from typing import Literal

from engines.simulated.cache import BlockHash

Finish = Literal["stop", "length", "abort"]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What one engine is started with. `max_queued` None: the queue has no end."""

    kv_tokens: int
    block_tokens: int = 256
    chunk_tokens: int = 8192
    max_running: int = 256
    max_queued: int | None = None
    mixed_chunk: bool = True
    """Whether a step may hold both prefill chunks and decodes: always so in vLLM, an option in SGLang."""


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to prefill and decode. `output` is at least one token; `root` is the hash before the prompt.

    `finish` is the reason to report when all of `output` has been generated. `hashes` are the prompt's block hashes
    where the caller has them already.
    """

    id: str
    prompt: bytes
    output: bytes
    root: BlockHash = b""
    cache_salt: str | None = None
    adapter: str | None = None
    finish: Finish = "length"
    hashes: Hashes[BlockHash] | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """The state of one job. Times are the caller's, None until they happen; counts are tokens."""

    job: Job
    submitted_at: float
    prompt_tokens: int
    output_tokens: int
    hashes: list[BlockHash]
    cached_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    scheduled_at: float | None = None
    first_token_at: float | None = None
    last_token_at: float | None = None
    finish: Finish | None = None
    stored_blocks: int = 0
    private_blocks: int = 0
    promised_blocks: int = 0

    @property
    def is_prefilling(self) -> bool:
        """Whether part of the prompt is still to be computed."""
        return self.computed_tokens < self.prompt_tokens


@dataclass(frozen=True, slots=True)
class BlocksStored:
    """Consecutive blocks that became hits for others; `parent` is None for the first block of a prompt."""

    parent: BlockHash | None
    hashes: tuple[BlockHash, ...]
    tokens: bytes
    cache_salt: str | None
    adapter: str | None


@dataclass(frozen=True, slots=True)
class BlocksRemoved:
    """One block that is no longer cached."""

    block: BlockHash


@dataclass(frozen=True, slots=True)
class BlocksCleared:
    """The whole cache was dropped."""


CacheEvent = BlocksStored | BlocksRemoved | BlocksCleared


@dataclass(frozen=True, slots=True)
class Step:
    """One forward pass: chunks to prefill, sequences to decode one token each, and how long it takes.

    `steps` alike are covered by the plan, each of that duration: more than one only of decodes, and only if asked.
    """

    duration_s: float
    prefills: tuple[tuple[Sequence, int], ...]
    decodes: tuple[Sequence, ...]
    steps: int = 1


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step brought: sequences with one new token, and those of them with their first and their last."""

    advanced: tuple[Sequence, ...]
    first: tuple[Sequence, ...]
    finished: tuple[Sequence, ...]


@dataclass(slots=True)
class Counters:
    """Totals since the start, in tokens and requests, as the engines' own counters."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefilled_tokens: int = 0
    generated_tokens: int = 0
    refused_requests: int = 0
    finished_requests: Counter[str] = field(default_factory=Counter)
    prefill_busy_s: float = 0.0
    last_hit_rate: float = 0.0
