"""What a run comes to: one row of figures, and a digest that tells whether two runs were the same; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from math import isfinite

from gateway.routing.snapshot import quantile
from gateway.simulation.reading import Recorded
from gateway.simulation.run import RunResult, Served


@dataclass(frozen=True, slots=True)
class Row:
    """One policy on one workload at one load. `load` None: all requests came at once.

    `hit_rate` is cached over prompt tokens; times are from a request's arrival to its first token, None where none
    was measured. `broken` are streams that died with their engine. `digest` is equal where every request went to the
    same replica and had its first token at the same microsecond.
    """

    workload: str
    policy: str
    load: float | None
    hit_rate: float | None
    ttft_mean_ms: float | None
    ttft_p50_ms: float | None
    ttft_p90_ms: float | None
    ttft_p99_ms: float | None
    requests: int
    broken: int
    digest: str


def row_of(workload: str, policy: str, load: float, result: RunResult) -> Row:
    """The figures of a run."""
    prompt = sum(one.tokens for one in result.served)
    cached = sum(one.cached_tokens for one in result.served)
    return Row(
        workload,
        policy,
        _load(load),
        round(cached / prompt, 6) if prompt else None,
        *_times([one.ttft_s for one in result.served]),
        requests=len(result.served),
        broken=result.broken,
        digest=digest(result.served),
    )


def recorded_row(workload: str, load: float, recorded: Recorded) -> Row:
    """What a journal says was measured, as a row: `recorded`, or `recorded:POLICY` of one policy of several."""
    policy = f"recorded:{recorded.policy}" if recorded.policy else "recorded"
    hit_rate = None if recorded.hit_rate is None else round(recorded.hit_rate, 6)
    times = _times(recorded.ttfts_s)
    return Row(workload, policy, _load(load), hit_rate, *times, recorded.requests, recorded.broken, "")


def digest(served: Iterable[Served]) -> str:
    """Sixteen hexadecimal digits over where each request went and when its first token came."""
    hashed = blake2b(digest_size=8)
    for one in sorted(served):
        hashed.update(b"%d %d %d\n" % (one.number, one.slot, round(one.ttft_s * 1e6)))
    return hashed.hexdigest()


def _load(load: float) -> float | None:
    return round(load, 4) if isfinite(load) else None


def _times(ttfts_s: Sequence[float]) -> tuple[float | None, float | None, float | None, float | None]:
    """Mean, median, 90th and 99th percentile in ms."""
    ordered = sorted(ttfts_s)
    if not ordered:
        return None, None, None, None
    p50, p90, p99 = (_ms(quantile(ordered, share) or 0.0) for share in (0.5, 0.9, 0.99))
    return _ms(sum(ordered) / len(ordered)), p50, p90, p99


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
