"""Advice on a pool's chunk: what twice or half of it would buy and cost, by what is known here; pure."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil
from statistics import fmean, median
from typing import Final

from gateway.routing.curves import DOUBLED_GAIN, ENOUGH, LONG_TOKENS, REFERENCE_CHUNK, reload_ms
from gateway.routing.snapshot import ChunkCurve, ReplicaView, Snapshot

ENOUGH_PREFILLS: Final = 32
LONG_SHARE: Final = 0.05
"""Of all prompts so many must be longer than the chunk before a larger one is worth anything."""
WORTH: Final = 0.02
"""The share of all prefill time that a change must save, or that a smaller chunk may cost."""
ROOMY: Final = 0.8
"""A KV cache that was never fuller has room to give away."""
CROWDED: Final = 0.95


class Verdict(StrEnum):
    """What is advised."""

    RAISE = "raise"
    LOWER = "lower"
    KEEP = "keep"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Option:
    """Another chunk. Milliseconds are of a prompt of `long_tokens` uncached tokens, the usual one of those longer than
    the chunk that runs. `saved` and `saved_of_long` are shares of the prefill time of all prompts, and of that one
    (negative: it costs). `step_ms` is the longest step, for which answers under way wait: (now, then). `kv_tokens` is
    what the KV cache gains; None: not known here. `ground` says where the figures come from.
    """

    chunk_tokens: int
    long_tokens: int
    long_ms: tuple[float, float]
    saved_of_long: float
    saved: float
    step_ms: tuple[float, float]
    kv_tokens: int | None
    ground: str
    sentence: str


@dataclass(frozen=True, slots=True)
class Advice:
    """On one pool, whose replicas mostly run `chunk_tokens`. `to` is the chunk that is advised, unless it is kept."""

    pool: str
    verdict: Verdict
    chunk_tokens: int | None
    to: int | None
    sentence: str
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True)
class _Traffic:
    """What the replicas with the chunk that runs have seen."""

    prefills: int
    usual: int
    long_share: float
    long: int
    kv_peak: float | None
    preemptions: int | None


def advise(snapshot: Snapshot, pool: str) -> Advice:
    """By its replicas' recent prefills, their curves, and how full their KV caches were in the last hour."""
    replicas = [one for one in snapshot.replicas if one.pool == pool]
    chunks = Counter(chunk for one in replicas if (chunk := one.prefill_actual.chunk_tokens) is not None)
    if not chunks:
        return Advice(pool, Verdict.UNKNOWN, None, None, "no replica says which chunk it runs")
    runs = max(chunks, key=lambda chunk: (chunks[chunk], chunk))
    same = [one for one in replicas if one.prefill_actual.chunk_tokens == runs]
    traffic = _traffic(same)
    curve = _curve(snapshot, pool, runs)
    if traffic is None or curve is None or curve.observations < ENOUGH:
        seen = sum(one.recent.prefills for one in same)
        return Advice(
            pool, Verdict.UNKNOWN, runs, None, f"only {seen} prefills were measured: {ENOUGH_PREFILLS} would do"
        )
    larger, smaller = (_option(snapshot, pool, replicas, curve, traffic, chunk) for chunk in (2 * runs, runs // 2))
    verdict, sentence = _verdict(traffic, larger, smaller, _capacity(replicas, runs))
    to = {Verdict.RAISE: larger.chunk_tokens, Verdict.LOWER: smaller.chunk_tokens}.get(verdict)
    return Advice(pool, verdict, runs, to, sentence, (larger, smaller))


def _verdict(traffic: _Traffic, larger: Option, smaller: Option, capacity: int | None) -> tuple[Verdict, str]:
    seen = f"{traffic.long_share:.0%} of {traffic.prefills} prompts had more uncached tokens than the chunk"
    full = "the KV cache does not say how full it is" if traffic.kv_peak is None else (
        f"the KV cache was {traffic.kv_peak:.0%} full at most in the last hour"
    )  # fmt: skip
    crowded = (traffic.kv_peak or 0.0) >= CROWDED or bool(traffic.preemptions)
    if traffic.preemptions:
        full += f", and {traffic.preemptions} requests were preempted"
    if crowded:
        if smaller.saved > -WORTH:
            return Verdict.LOWER, f"{full}; a smaller chunk gives it room: {smaller.sentence}"
        return Verdict.KEEP, f"{full}, but a smaller chunk costs too much time: {smaller.sentence}"
    if traffic.long_share < LONG_SHARE:
        return Verdict.KEEP, f"only {seen}: a larger one would help few; {full}"
    if larger.saved < WORTH:
        return Verdict.KEEP, f"{seen}, but a larger one saves only {larger.saved:.1%} of all prefill time; {full}"
    shrinks = 1.0 if larger.kv_tokens is None or not capacity else capacity / max(capacity + larger.kv_tokens, 1)
    if traffic.kv_peak is not None and traffic.kv_peak * shrinks > ROOMY:
        return Verdict.KEEP, f"{seen}, but there is no room for a larger one: {full}; {larger.sentence}"
    return Verdict.RAISE, f"{seen}, and {full}; {larger.sentence}"


def _option(
    snapshot: Snapshot, pool: str, replicas: Sequence[ReplicaView], now: ChunkCurve, traffic: _Traffic, chunk: int
) -> Option:
    then = _curve(snapshot, pool, chunk)
    long, usual = traffic.long, traffic.usual
    if then is not None and then.observations >= ENOUGH:
        saved_ms = [now.predict_ms(size) - then.predict_ms(size) for size in (usual, long)]
        step_ms = now.predict_ms(now.chunk_tokens), then.predict_ms(chunk)
        ground = f"measured here, where {then.observations} prefills were seen with {chunk:,}"
    else:
        # What a small chunk reads again is less than what the price was measured with.
        price_ms = reload_ms(now.predict_ms(LONG_TOKENS), now.chunk_tokens)
        price_ms *= min(1.0, min(now.chunk_tokens, chunk) / REFERENCE_CHUNK)
        saved_ms = [price_ms * (ceil(size / now.chunk_tokens) - ceil(size / chunk)) for size in (usual, long)]
        step_ms = now.predict_ms(now.chunk_tokens), now.predict_ms(chunk)
        ground = f"from the published {DOUBLED_GAIN:.0%} at {LONG_TOKENS:,} tokens, not measured here"
    usual_ms, long_ms = now.predict_ms(usual), now.predict_ms(long)
    every_ms = (1 - traffic.long_share) * usual_ms + traffic.long_share * long_ms
    saved = ((1 - traffic.long_share) * saved_ms[0] + traffic.long_share * saved_ms[1]) / every_ms
    capacities = _capacity(replicas, now.chunk_tokens), _capacity(replicas, chunk)
    kv_tokens = None if None in capacities else (capacities[1] or 0) - (capacities[0] or 0)
    told = "what it does to the KV cache is not measured here" if kv_tokens is None else (
        f"the KV cache changes by {kv_tokens:+,} tokens (measured)"
    )  # fmt: skip
    sentence = (
        f"{now.chunk_tokens:,} → {chunk:,}: a prompt of {long:,} uncached tokens takes {long_ms:.0f} → "
        f"{long_ms - saved_ms[1]:.0f} ms ({-saved_ms[1] / long_ms:+.1%}; {ground}), all prefill {-saved:+.1%}; answers "
        f"under way wait up to {step_ms[0]:.0f} → {step_ms[1]:.0f} ms for one step; {told}"
    )
    return Option(
        chunk,
        long,
        (long_ms, long_ms - saved_ms[1]),
        saved_ms[1] / long_ms,
        saved,
        step_ms,
        kv_tokens,
        ground,
        sentence,
    )


def _traffic(replicas: Sequence[ReplicaView]) -> _Traffic | None:
    """Replicas weigh as much as the prefills that were measured of them."""
    views = [one.recent for one in replicas if one.recent.prefills]
    prefills = sum(one.prefills for one in views)
    if prefills < ENOUGH_PREFILLS:
        return None
    chunk = next(one.prefill_actual.chunk_tokens for one in replicas) or 0
    peaks = [one.recent.kv_peak for one in replicas if one.recent.kv_peak is not None]
    preempted = [one.recent.preemptions for one in replicas if one.recent.preemptions is not None]
    long = [one.long_p50 for one in views if one.long_p50 is not None]
    return _Traffic(
        prefills,
        int(median(one.uncached_p50 or 0 for one in views)),
        sum((one.long_share or 0.0) * one.prefills for one in views) / prefills,
        int(median(long)) if long else max(LONG_TOKENS, 2 * chunk),
        max(peaks, default=None),
        sum(preempted) if preempted else None,
    )


def _curve(snapshot: Snapshot, pool: str, chunk: int) -> ChunkCurve | None:
    curves = next((one.curves for one in snapshot.pools if one.name == pool), ())
    return next((one for one in curves if one.chunk_tokens == chunk), None)


def _capacity(replicas: Sequence[ReplicaView], chunk: int) -> int | None:
    same = [one for one in replicas if one.prefill_actual.chunk_tokens == chunk]
    told = [one.report.kv_capacity_tokens or one.description.kv_capacity_tokens for one in same]
    known = [tokens for tokens in told if tokens is not None]
    return round(fmean(known)) if known else None
