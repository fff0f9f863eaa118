"""Advice on the chunk: what another one would buy and cost, and on what ground that is said."""

from random import Random
from typing import Any

import pytest

from engines.reports import EngineDescription, LoadReport, PrefillSettings, Usage
from gateway.prefill.advice import Advice, Verdict, advise
from gateway.routing.chain import chain
from gateway.routing.curves import DOUBLED_GAIN, LONG_TOKENS, PRIOR_BASE_MS, PRIOR_MS_PER_TOKEN
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, FirstToken, LoadReported, Outcome, ReplicaUp
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

BYTES_PER_TOKEN = 4


class Pool:
    """A router over one pool, whose replicas take so many milliseconds for so many tokens."""

    def __init__(self, chunks: dict[str, int | None], **report: Any) -> None:
        specs = tuple(ReplicaSpec(name, f"http://{name}") for name in chunks)
        self.router = Router([PoolSpec("p", "m", specs)], policy="round-robin", rng=Random(1))
        self.now = 1000.0
        self.asked = 0
        for name, chunk in chunks.items():
            description = EngineDescription(prefill=PrefillSettings(chunk), kv_capacity_tokens=report.get("capacity"))
            self.router.observe(ReplicaUp(name, self.now, (), description))
            self.load(name, **report)

    def load(self, name: str, capacity: int | None = None, **report: Any) -> None:
        self.router.observe(LoadReported(name, self.now, LoadReport(kv_capacity_tokens=capacity, **report)))

    def serve(self, replica: str, tokens: int, times: int, faster: float = 1.0) -> None:
        """So many prompts that nobody has cached, one at a time."""
        for _ in range(times):
            self.asked += 1
            text = f"{self.asked:08d}".encode() + b"x" * (tokens * BYTES_PER_TOKEN - 8)
            links = chain(b"m", text, 512)
            request = RouteRequest(f"{self.asked}", "m", links, True, self.now, pinned_replica=replica)
            decision = self.router.route(request, self.now)
            assert isinstance(decision, Decision)
            self.now += (PRIOR_BASE_MS + PRIOR_MS_PER_TOKEN * tokens) * faster / 1000
            self.router.observe(FirstToken(decision.ticket, self.now))
            self.now += 0.1
            usage = Usage(tokens, 4, 0)
            self.router.observe(Finished(decision.ticket, self.now, Outcome.COMPLETED, usage, 4))

    def advice(self) -> Advice:
        return advise(self.router.snapshot(self.now), "p")


def test_without_measurements_nothing_is_advised() -> None:
    assert Pool({"r": None}).advice().sentence == "no replica says which chunk it runs"
    pool = Pool({"r": 8192})
    pool.serve("r", 1000, 5)
    advice = pool.advice()
    assert (advice.verdict, advice.to) == (Verdict.UNKNOWN, None)
    assert advice.sentence == "only 5 prefills were measured: 32 would do"


def test_long_prompts_and_an_empty_cache_want_a_larger_chunk() -> None:
    pool = Pool({"r": 8192}, kv_usage=0.4, preemptions_total=0, capacity=600_000)
    pool.serve("r", 1000, 20)
    pool.serve("r", LONG_TOKENS, 20)
    advice = pool.advice()
    assert (advice.verdict, advice.chunk_tokens, advice.to) == (Verdict.RAISE, 8192, 16_384)
    larger = advice.options[0]
    assert larger.saved_of_long == pytest.approx(DOUBLED_GAIN, rel=0.05)  # 24,576 tokens take one chunk less
    assert larger.ground == "from the published 7% at 24,576 tokens, not measured here"
    assert larger.kv_tokens is None
    assert "50% of 40 prompts had more uncached tokens than the chunk" in advice.sentence
    assert "the KV cache was 40% full at most in the last hour" in advice.sentence


def test_where_both_sizes_run_it_is_measured() -> None:
    pool = Pool({"r": 8192, "s": 8192, "t": 16_384}, kv_usage=0.3, capacity=600_000)
    pool.load("t", kv_usage=0.3, capacity=534_464)
    for name in "rs":
        pool.serve(name, LONG_TOKENS, 20)
    pool.serve("t", LONG_TOKENS, 40, faster=0.9)
    advice = pool.advice()
    assert advice.verdict is Verdict.RAISE
    larger = advice.options[0]
    assert larger.saved_of_long == pytest.approx(0.1, abs=0.01)
    assert larger.ground == "measured here, where 40 prefills were seen with 16,384"
    assert larger.kv_tokens == 534_464 - 600_000
    assert "the KV cache changes by -65,536 tokens (measured)" in advice.sentence


@pytest.mark.parametrize(
    ("sizes", "report", "verdict", "words"),
    [
        ((1000, 4000), {"kv_usage": 0.4}, Verdict.KEEP, "only 0% of 40 prompts"),
        ((1000, LONG_TOKENS), {"kv_usage": 0.9}, Verdict.KEEP, "there is no room for a larger one"),
        ((1000, 4000), {"kv_usage": 0.97}, Verdict.LOWER, "a smaller chunk gives it room"),
        ((LONG_TOKENS, LONG_TOKENS), {"kv_usage": 0.97}, Verdict.KEEP, "a smaller chunk costs too much time"),
        ((1000, LONG_TOKENS), {}, Verdict.RAISE, "the KV cache does not say how full it is"),
    ],
    ids=["short prompts", "a full cache", "a crowded cache", "crowded, but long prompts", "a silent engine"],
)
def test_it_weighs_time_against_room(
    sizes: tuple[int, int], report: dict[str, Any], verdict: Verdict, words: str
) -> None:
    pool = Pool({"r": 8192}, **report)
    for size in sizes:
        pool.serve("r", size, 20)
    advice = pool.advice()
    assert advice.verdict is verdict
    assert words in advice.sentence
    assert (advice.to is None) == (verdict is Verdict.KEEP)


def test_preemptions_speak_against_a_larger_chunk() -> None:
    pool = Pool({"r": 8192}, kv_usage=0.5, preemptions_total=3)
    pool.serve("r", 1000, 20)
    pool.serve("r", LONG_TOKENS, 20)
    pool.load("r", kv_usage=0.5, preemptions_total=5)
    advice = pool.advice()
    assert advice.verdict is not Verdict.RAISE
    assert "2 requests were preempted" in advice.sentence
    pool.now += 3700
    pool.load("r", kv_usage=0.5, preemptions_total=5)
    assert pool.advice().verdict is Verdict.RAISE  # that was more than an hour ago
