"""What a prefix cache saved a replica: prefill that it did not have to compute, in GPU time; pure."""

from collections.abc import Mapping

from gateway.routing.snapshot import ReplicaView, Snapshot


def skipped_gpu_s(replica: ReplicaView, gpus: int, requests: int, prompt_tokens: int, cached_tokens: int) -> float:
    """GPU-seconds that so many requests would have cost more at the replica without its cache.

    By its fitted prefill curve a + b·u + c·u², for a request of mean length P of which D are cached: b·D +
    c·(P² − (P − D)²) ms, times its `gpus`. The base a is paid with or without a cache.
    """
    if not requests:
        return 0.0
    mean, cached = prompt_tokens / requests, cached_tokens / requests
    quadratic = mean**2 - (mean - cached) ** 2
    ms = replica.curve_ms_per_token * cached + replica.curve_ms_per_token2 * quadratic
    return requests * ms * gpus / 1000


def skipped_by_replica(snapshot: Snapshot, gpus: Mapping[str, int]) -> dict[str, float]:
    """The same for all that each replica was asked so far, by replica; `gpus` are those of a replica, by pool."""
    views = {replica.name: replica for replica in snapshot.replicas}
    sums: dict[str, float] = {}
    for one in snapshot.series:
        view = views.get(one.replica)
        if view is None:
            continue  # it was removed, and its curve with it
        prompt_tokens = one.prompt_tokens - one.unreported_prompt_tokens
        skipped = skipped_gpu_s(
            view, gpus.get(view.pool, 1), one.reported_requests, prompt_tokens, one.delivered_tokens
        )
        sums[one.replica] = sums.get(one.replica, 0.0) + skipped
    return sums
