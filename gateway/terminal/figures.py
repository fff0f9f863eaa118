"""What happened between two snapshots of a gateway: rates, shares and quantiles; pure."""

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.routing.histogram import Histogram, bucket_quantile
from gateway.routing.snapshot import SeriesView, Snapshot

WINDOW_S: Final = 30.0
"""Figures are of so long."""
HISTORY: Final = 60
"""Points of the small curves."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Counters of some series together; `ttft` counts per bucket."""

    requests: int
    failed: int
    prompt_tokens: int
    reported_tokens: int
    available_tokens: int
    routed_tokens: int
    delivered_tokens: int
    completion_tokens: int
    ttft: tuple[int, ...]

    def since(self, before: "Sums") -> "Sums":
        """What was added. Counters that went back are of a new process: all of it is new."""
        if self.requests < before.requests or self.prompt_tokens < before.prompt_tokens:
            return self
        old = before.ttft or (0,) * len(self.ttft)
        return Sums(
            self.requests - before.requests,
            self.failed - before.failed,
            self.prompt_tokens - before.prompt_tokens,
            self.reported_tokens - before.reported_tokens,
            self.available_tokens - before.available_tokens,
            self.routed_tokens - before.routed_tokens,
            self.delivered_tokens - before.delivered_tokens,
            self.completion_tokens - before.completion_tokens,
            tuple(new - was for new, was in zip(self.ttft, old, strict=True)) if self.ttft else (),
        )


NOTHING: Final = Sums(0, 0, 0, 0, 0, 0, 0, 0, ())
_FAILED: Final = ("engine_failed", "timed_out")


def sums(series: Iterable[SeriesView]) -> Sums:
    """The series together."""
    those = list(series)
    counts = [one.histograms["ttft_seconds"].counts for one in those]
    return Sums(
        requests=sum(sum(one.outcomes.values()) for one in those),
        failed=sum(one.outcomes.get(outcome, 0) for one in those for outcome in _FAILED),
        prompt_tokens=sum(one.prompt_tokens for one in those),
        reported_tokens=sum(one.prompt_tokens - one.unreported_prompt_tokens for one in those),
        available_tokens=sum(one.available_tokens for one in those),
        routed_tokens=sum(one.routed_tokens for one in those),
        delivered_tokens=sum(one.delivered_tokens for one in those),
        completion_tokens=sum(one.completion_tokens for one in those),
        ttft=tuple(map(sum, zip(*counts, strict=True))),
    )


@dataclass(frozen=True, slots=True)
class Flow:
    """What went through in `seconds`; shares are of the prompt tokens whose engine said what was cached."""

    seconds: float
    added: Sums
    bounds: tuple[float, ...]

    @property
    def requests_per_s(self) -> float:
        """Requests that ended."""
        return self.added.requests / self.seconds if self.seconds else 0.0

    @property
    def prompt_tokens_per_s(self) -> float:
        """Prompt tokens of those."""
        return self.added.prompt_tokens / self.seconds if self.seconds else 0.0

    @property
    def skipped_tokens_per_s(self) -> float:
        """Prompt tokens that were not prefilled."""
        return self.added.delivered_tokens / self.seconds if self.seconds else 0.0

    def share(self, tokens: int) -> float | None:
        """Of the reported prompt tokens; None without any."""
        return tokens / self.added.reported_tokens if self.added.reported_tokens else None

    @property
    def hit_rate(self) -> float | None:
        """Delivered over prompt tokens."""
        return self.share(self.added.delivered_tokens)

    def ttft_s(self, share: float) -> float | None:
        """That quantile of the times to first token, within its bucket as if evenly spread; None without any."""
        return bucket_quantile(self.bounds, self.added.ttft, share)


class Watched:
    """The latest snapshots of one gateway, `WINDOW_S` back, and small curves of what they said."""

    def __init__(self) -> None:
        self.hit_rates: deque[float | None] = deque(maxlen=HISTORY)
        self.rates: deque[float] = deque(maxlen=HISTORY)
        self._seen: deque[Snapshot] = deque()

    def add(self, snapshot: Snapshot) -> None:
        """The newest."""
        if self._seen and snapshot.at < self._seen[-1].at:
            self._seen.clear()  # another process with another clock
        self._seen.append(snapshot)
        while len(self._seen) > 2 and snapshot.at - self._seen[1].at >= WINDOW_S:
            self._seen.popleft()
        if len(self._seen) > 1:
            last = self._flow(self._seen[-2], snapshot.series, self._seen[-2].series)
            self.hit_rates.append(last.hit_rate)
            self.rates.append(last.requests_per_s)

    @property
    def latest(self) -> Snapshot:
        """The newest; IndexError before there is one."""
        return self._seen[-1]

    def whole(self) -> Flow:
        """All traffic of the window; of the gateway's whole life while there is one snapshot only."""
        return self._flow(self._seen[0], self.latest.series, self._before())

    def by_replica(self) -> dict[str, Flow]:
        """The traffic of the window by the replica that took it."""
        now, then = _grouped(self.latest.series), _grouped(self._before())
        return {name: self._flow(self._seen[0], series, then.get(name, [])) for name, series in now.items()}

    def _before(self) -> Sequence[SeriesView]:
        return self._seen[0].series if len(self._seen) > 1 else ()

    def _flow(self, since: Snapshot, now: Iterable[SeriesView], then: Iterable[SeriesView]) -> Flow:
        added = sums(now).since(sums(then))
        return Flow(self.latest.at - since.at, added, _bounds(self.latest.series))


def _grouped(series: Iterable[SeriesView]) -> dict[str, list[SeriesView]]:
    groups: dict[str, list[SeriesView]] = defaultdict(list)
    for one in series:
        groups[one.replica].append(one)
    return groups


def _bounds(series: Sequence[SeriesView]) -> tuple[float, ...]:
    histograms: list[Histogram] = [one.histograms["ttft_seconds"] for one in series]
    return tuple(histograms[0].bounds) if histograms else ()
