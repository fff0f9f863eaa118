"""What a published policy sees and answers in a simulation: prompts, workers and one choice; pure.

Every baseline is our reading of a published definition, named in its `source`. All of them are given what their
authors' systems would have at best: exact tokens, exact counts of their own requests, fresh load reports.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import ClassVar

from engines.reports import LoadReport


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request as routers see it. `blocks` names its full blocks of `block_tokens` tokens.

    A name stands for the block and all before it: equal names, equal prefixes. `number` is unique in a run.
    `session` is what a client sends to keep a conversation together, None where it sends nothing.
    """

    number: int
    tokens: int
    blocks: tuple[int, ...]
    block_tokens: int
    session: str | None = None


@dataclass(slots=True, eq=False)
class Worker:
    """A replica as routers see it: its capacity, what was sent there, and its last load report.

    `inflight` are all prompts sent and not finished, counted from the moment of choice; `unstarted` those of them
    without a first token. Both are kept by the driver, in order of sending.
    """

    slot: int
    name: str
    pool: str
    kv_tokens: int
    block_tokens: int
    chunk_tokens: int
    inflight: dict[int, Prompt] = field(default_factory=dict)
    unstarted: dict[int, Prompt] = field(default_factory=dict)
    report: LoadReport = LoadReport()


class Baseline(ABC):
    """One published policy. The driver calls `choose`, then `sent`, then what happens; all times are seconds.

    Only those with `hears_events` are told `stored`, `removed` and `lost`, in the order in which engines say so.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    """Where its definition was published."""
    hears_events: ClassVar[bool] = False

    def __init__(self, workers: Sequence[Worker], rng: Random) -> None:
        self.workers = workers
        self.rng = rng

    @abstractmethod
    def choose(self, prompt: Prompt, up: Sequence[Worker], now: float) -> Worker:
        """One of the workers that are up (at least one, in slot order). May learn, as the published ones do."""

    def sent(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """The prompt went to the worker; it is in its `inflight` from here on."""

    def first_token(self, prompt: Prompt, worker: Worker, cached_tokens: int, ttft_s: float, now: float) -> None:
        """Its first token came, `ttft_s` after sending."""

    def finished(self, prompt: Prompt, worker: Worker, now: float) -> None:
        """The prompt is over, well or not; it has left `inflight`."""

    def stored(self, worker: Worker, blocks: Sequence[int]) -> None:
        """The worker's cache holds these blocks from now on."""

    def removed(self, worker: Worker, blocks: Sequence[int]) -> None:
        """The worker's cache dropped these blocks."""

    def lost(self, worker: Worker) -> None:
        """The worker is gone, or came back with an empty cache: told to all baselines."""
