"""The scoreboard: what was predicted and what was delivered, summed per pool, replica and model; pure."""

from collections import Counter, OrderedDict, deque
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from engines.reports import Usage
from gateway.routing.decision import Decision
from gateway.routing.experiments.definition import Exposure
from gateway.routing.facts import Cause, Outcome
from gateway.routing.histogram import (
    ERROR_SECONDS,
    ERROR_TOKENS,
    ITL_SECONDS,
    OWN_SECONDS,
    SECONDS,
    Histogram,
)
from gateway.routing.replica import Booking
from gateway.routing.waterfall import Waterfall, Waterfalls

RECENT_TTFTS: Final = 512
RECENT_REQUESTS: Final = 1000
TENANTS: Final = 1000
FAMILIES: Final = 5000
EXPOSURES: Final = 1000
"""Arms that are counted: the oldest are forgotten."""


class Key(NamedTuple):
    """The labels of a series; pool and replica are "" for requests that no replica took."""

    pool: str
    replica: str
    model: str


@dataclass(slots=True)
class Series:
    """Sums for one key. `waterfall` covers the requests whose cached tokens the engine reported.

    `unreported_prompt_tokens` are those of `prompt_tokens` for which the engine never says what was cached.
    """

    outcomes: dict[Outcome, int] = field(default_factory=dict)
    retries: int = 0
    given_up: dict[Cause, int] = field(default_factory=dict)
    """The same by why: attempts after which the request went on elsewhere."""
    broken_streams: dict[str, int] = field(default_factory=dict)
    """By what came of them."""
    prompt_tokens: int = 0
    unreported_prompt_tokens: int = 0
    completion_tokens: int = 0
    waterfall: Waterfall = field(default_factory=Waterfall)
    ttft: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    itl: Histogram = field(default_factory=lambda: Histogram(ITL_SECONDS))
    request: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    route: Histogram = field(default_factory=lambda: Histogram(OWN_SECONDS))
    overhead: Histogram = field(default_factory=lambda: Histogram(OWN_SECONDS))
    held: Histogram = field(default_factory=lambda: Histogram(SECONDS))
    prediction_error: Histogram = field(default_factory=lambda: Histogram(ERROR_TOKENS))
    ttft_error: Histogram = field(default_factory=lambda: Histogram(ERROR_SECONDS))
    recent_ttfts: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=RECENT_TTFTS))
    """When first tokens came, and their seconds from accept."""

    def end(self, outcome: Outcome) -> None:
        """One request ended so."""
        self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1

    def first_token(self, booking: Booking, now: float) -> None:
        """Count a time to first token, from accept, and how far its prediction was off."""
        ttft_s = now - booking.accepted_at
        self.ttft.observe(ttft_s)
        self.recent_ttfts.append((now, ttft_s))
        self.ttft_error.observe(now - booking.booked_at - booking.predicted_ttft_ms / 1000)

    def used(self, booking: Booking, usage: Usage, delivered: int | None) -> None:
        """Count a request's tokens; `delivered` None: the engine does not say what was cached."""
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        if delivered is None:
            self.unreported_prompt_tokens += usage.prompt_tokens
        else:
            self.prediction_error.observe(delivered - booking.routed_tokens)


@dataclass(slots=True)
class RequestRecord:
    """One request's last decision and what came of it, kept for `explain`.

    `replicas` are those of all its attempts, in order.
    """

    decision: Decision
    accepted_at: float
    replicas: tuple[str, ...]
    outcome: Outcome | None = None
    ttft_s: float | None = None
    usage: Usage | None = None

    @property
    def attempts(self) -> int:
        """How many replicas the request was sent to, each time counted."""
        return len(self.replicas)


class Scoreboard:
    """All series, and the most recent requests."""

    def __init__(self) -> None:
        self.series: dict[Key, Series] = {}
        self.requests: OrderedDict[str, RequestRecord] = OrderedDict()
        self.tenants: Waterfalls[str] = Waterfalls(TENANTS)
        self.families: Waterfalls[int | None] = Waterfalls(FAMILIES)
        self.exposures: Counter[tuple[str, str]] = Counter()
        """By experiment and arm."""

    def of(self, pool: str, replica: str, model: str) -> Series:
        """The series of those labels, made when first asked for."""
        key = Key(pool, replica, model)
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series()
        return series

    def exposed(self, exposure: Exposure) -> None:
        """A request was let into an experiment. Names of arms are few, but experiments come and go."""
        self.exposures[exposure.experiment, exposure.arm] += 1
        if len(self.exposures) > EXPOSURES:
            del self.exposures[next(iter(self.exposures))]

    def decided(self, decision: Decision, accepted_at: float) -> None:
        """Remember a decision; a retry replaces the one before it."""
        before = self.requests.pop(decision.request_id, None)
        earlier = () if before is None or before.outcome is not None else before.replicas
        record = RequestRecord(decision, accepted_at, (*earlier, decision.chosen.replica))
        record.ttft_s = before.ttft_s if before is not None and earlier else None
        self.requests[decision.request_id] = record
        while len(self.requests) > RECENT_REQUESTS:
            self.requests.popitem(last=False)
