"""Runs: every request is served once, under every policy, also while replicas die; and nothing is left behind."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from gateway.simulation.baselines.base import Prompt
from gateway.simulation.baselines.registry import BASELINES
from gateway.simulation.bounds import PooledChooser
from gateway.simulation.chooser import Chooser
from gateway.simulation.compared import ComparedChooser
from gateway.simulation.contest import (
    ALL,
    CONTESTANTS,
    CaseError,
    Comparison,
    Kind,
    Terms,
    case_at,
    play,
)
from gateway.simulation.fleet import SimulatedReplica, parse_fleet
from gateway.simulation.misjudged import (
    Misjudged,
    misjudge_depths,
    misjudged_prompts,
    told_fleet,
    true_fleet,
)
from gateway.simulation.results import digest, row_of
from gateway.simulation.routed import RoutedChooser
from gateway.simulation.run import Outage, Run, RunResult, Served
from gateway.simulation.trace import Trace, TraceRequest, at_load
from gateway.simulation.workloads import WORKLOADS

FLEET = parse_fleet("vllm-w4a8:2,sglang-fp4:1", kv_tokens=150_000)
NEVER = float("inf")
OUTAGES = {
    "none": (),
    "one dies and returns": (Outage(0, 0.3, 0.5),),
    "one dies for good": (Outage(1, 0.3, NEVER),),
    "all die": (Outage(0, 0.3, 0.35), Outage(1, 0.3, 0.4), Outage(2, 0.31, 0.5)),
}


def chat(requests: int = 120, load: float = 0.4, seed: int = 5) -> Trace:
    made = WORKLOADS["chat"](seed, requests).requests
    return at_load(Trace("chat", tuple(one for one in made if one.tokens < 50_000)), load, FLEET)


def chooser(policy: str, fleet: Sequence[SimulatedReplica] = FLEET, seed: int = 1) -> Chooser:
    if policy in BASELINES:
        return ComparedChooser(fleet, BASELINES[policy], seed)
    if policy == "pooled":
        return PooledChooser(fleet)
    return RoutedChooser(fleet, policy.removesuffix("-guess"), seed, events=not policy.endswith("-guess"))


def assert_sound(trace: Trace, result: RunResult, outages: Sequence[Outage]) -> None:
    assert sorted(one.number for one in result.served) == list(range(len(trace.requests)))
    for one in result.served:
        asked = trace.requests[one.number]
        assert one.tokens == asked.tokens
        assert 0 <= one.cached_tokens < one.tokens
        assert one.cached_tokens % FLEET[0].limits.block_tokens == 0
        assert one.ttft_s > 0
        first = asked.at + one.ttft_s
        for outage in outages:
            assert one.slot != outage.slot or not (
                outage.since * trace.span_s < first <= outage.until * trace.span_s
            ), "a dead replica gave a first token"
    assert result.broken == 0 or outages


@pytest.mark.parametrize("outages", OUTAGES.values(), ids=OUTAGES)
@pytest.mark.parametrize("policy", ["ttft", "ttft-guess", "prefix", "session", "pooled", *BASELINES])
def test_every_request_is_served_once(policy: str, outages: tuple[Outage, ...]) -> None:
    trace = chat()
    one = chooser(policy)
    result = Run(trace, FLEET, one, outages=outages, pooled=int(policy == "pooled")).run()
    assert_sound(trace, result, outages)
    if isinstance(one, RoutedChooser):
        assert_nothing_booked(one)


def assert_nothing_booked(one: RoutedChooser) -> None:
    assert one.router.holds == 0
    assert [len(replica.bookings) for replica in one.router._fleet.replicas] == [0] * len(FLEET)
    assert (one._tickets, one._held, one._rejected) == ({}, {}, [])


def test_the_router_holds_some_and_lets_all_go() -> None:
    trace = chat(load=2.0)
    one = chooser("ttft")
    assert isinstance(one, RoutedChooser)
    most = 0

    def watch(_: int) -> None:
        nonlocal most
        most = max(most, one.router.holds)

    run = Run(trace, FLEET, one, progress=watch)
    assert_sound(trace, run.run(), ())
    assert most > 0
    assert_nothing_booked(one)


def test_broken_streams_are_those_that_had_begun() -> None:
    """A replica that dies in the middle of a long answer breaks it; what had no first token goes elsewhere."""
    long = TraceRequest(0.0, 1000, 5000, (1,), 512.0)
    trace = Trace("t", (long, replace(long, at=100.0, ids=(2,))))
    (alone,) = fleet = parse_fleet("vllm-w4a8:1")
    assert alone.prefill_s(1000) < 0.3
    result = Run(trace, fleet, chooser("ttft", fleet), outages=[Outage(0, 0.1, 0.2)]).run()
    assert (len(result.served), result.broken) == (2, 1)
    early = Run(trace, fleet, chooser("ttft", fleet), outages=[Outage(0, 0.0001, 0.2)]).run()
    assert (len(early.served), early.broken) == (2, 0)
    assert early.served[0].ttft_s > 20


def test_a_shared_cache_outlives_an_engine() -> None:
    """What the dead engine used is given back, so that the pool never runs full of it."""
    trace = chat(load=1.5)
    outages = tuple(Outage(slot, start / 10, start / 10 + 0.05) for start in range(1, 9) for slot in (0, 1))
    run = Run(trace, FLEET, PooledChooser(FLEET), outages=outages, pooled=1)
    assert len(run.run().served) == len(trace.requests)
    assert run._pool is not None
    assert (run._pool.used_blocks, run._pool.promised_blocks) == (0, 0)


def test_an_endless_shared_cache_hits_all_that_was_ever_there() -> None:
    """With requests far apart every whole block is hit that an earlier prompt (or its answer) has filled."""
    trace = chat(150)
    trace = trace.stretched(200_000 / trace.span_s)
    block = FLEET[0].limits.block_tokens
    seen: set[bytes] = set()
    ideal = {}
    for number, request in enumerate(trace.requests):
        prompt = request.prompt(number)
        starts = [prompt[: 4 * end] for end in range(block, len(prompt) // 4 + 1, block)]
        hits = next((place for place, start in enumerate(starts) if start not in seen), len(starts))
        ideal[number] = min(hits, (request.tokens - 1) // block) * block
        seen.update(starts)
    result = Run(trace, FLEET, PooledChooser(FLEET), pooled=1000).run()
    assert {one.number: one.cached_tokens for one in result.served} == ideal
    assert sum(ideal.values()) > 0.3 * sum(one.tokens for one in trace.requests)


def test_one_request_on_an_idle_fleet_takes_its_prefill() -> None:
    trace = Trace("t", (TraceRequest(0.0, 5000, 10, ()),))
    for policy in ("ttft", "pooled"):
        (served,) = Run(trace, FLEET, chooser(policy)).run().served
        assert served.ttft_s == pytest.approx(FLEET[served.slot].prefill_s(5000))


def test_no_requests_is_a_run_too() -> None:
    result = Run(Trace("t", ()), FLEET, chooser("ttft")).run()
    row = row_of("t", "ttft", NEVER, result)
    assert (row.requests, row.hit_rate, row.ttft_mean_ms, row.load) == (0, None, None, None)


# ── comparisons ──────────────────────────────────────────────────────────────────────────────────


def test_all_is_ours_every_baseline_and_both_bounds() -> None:
    assert {*ALL} == {"ttft", "ttft-guess", *BASELINES, "pooled", "pooled-infinite"}
    assert {name: CONTESTANTS[name].kind for name in ("ttft", "random", "round-robin", "pooled")} == {
        "ttft": Kind.OURS,
        "random": Kind.BASELINE,
        "round-robin": Kind.BASELINE,
        "pooled": Kind.BOUND,
    }
    assert all(one.source for one in CONTESTANTS.values())


def test_a_row_is_the_run_in_figures() -> None:
    served = [Served(number, 0, (number + 1) / 10, 1000, 250 * (number % 2)) for number in range(10)]
    row = row_of("w", "p", 0.5, RunResult(served, broken=2))
    assert (row.workload, row.policy, row.load, row.requests, row.broken) == ("w", "p", 0.5, 10, 2)
    assert row.hit_rate == 0.125
    assert (row.ttft_mean_ms, row.ttft_p50_ms, row.ttft_p90_ms, row.ttft_p99_ms) == (550.0, 500.0, 900.0, 1000.0)


def test_a_digest_tells_slots_and_microseconds() -> None:
    served = [Served(0, 1, 0.5, 10, 0), Served(1, 0, 0.25, 10, 0)]
    same = digest(served)
    assert same == digest(reversed(served))
    assert len(same) == 16
    assert same != digest([served[0], served[1]._replace(slot=1)])
    assert same != digest([served[0], served[1]._replace(ttft_s=0.250001)])
    assert same == digest([served[0], served[1]._replace(ttft_s=0.2500000001)])


def test_what_no_replica_can_hold_is_left_out_and_told() -> None:
    requests = (TraceRequest(0.0, 1000, 1, ()), TraceRequest(1.0, 400_000, 1, ()), TraceRequest(2.0, 149_760, 1, ()))
    case = case_at(Trace("t", requests), None, FLEET)
    assert len(case.trace.requests) == 1
    (note,) = case.notes
    assert note.endswith(": 2")
    with pytest.raises(CaseError, match="no request that the fleet can serve"):
        case_at(Trace("t", requests[1:]), None, FLEET)
    with pytest.raises(CaseError, match="come at one time"):
        case_at(Trace("t", requests[:1]), 0.5, FLEET)


def test_ours_hears_events_unless_told_to_guess() -> None:
    """They differ where caches overflow."""
    small = parse_fleet("vllm-w4a8:2,sglang-fp4:1", kv_tokens=60_000)
    case = case_at(WORKLOADS["sessions"](1, 150), 0.1, small)
    guessing = case_at(WORKLOADS["sessions"](1, 150), 0.1, small, Terms(events=False))
    hears, guesses = (play(Comparison(case, policy)).row.digest for policy in ("ttft", "ttft-guess"))
    assert hears != guesses
    assert play(Comparison(guessing, "ttft")).row.digest == guesses


def test_progress_counts_requests() -> None:
    told: list[int] = []
    case = case_at(chat(250), None, FLEET)
    outcome = play(Comparison(case, "random"), told.append)
    assert told == sorted(told)
    assert told[-1] == len(case.trace.requests) == outcome.row.requests == len(outcome.ttfts_s)


# ── misjudged ────────────────────────────────────────────────────────────────────────────────────


def test_true_speeds_and_told_capacities_differ_within_the_share() -> None:
    wrong = Misjudged(speed=0.3, capacity=0.3)
    true, told = true_fleet(FLEET, wrong, 1), told_fleet(FLEET, wrong, 1)
    speeds = [one.prefill_s(5000) / other.prefill_s(5000) for one, other in zip(FLEET, true, strict=True)]
    sizes = [other.limits.kv_tokens / one.limits.kv_tokens for one, other in zip(FLEET, told, strict=True)]
    for factors in (speeds, sizes):
        assert len({round(factor, 3) for factor in factors}) == len(FLEET)
        assert all(0.69 < factor < 1.31 for factor in factors)
    assert true_fleet(FLEET, wrong, 1) == true_fleet(FLEET, wrong, 1) != true_fleet(FLEET, wrong, 2)
    assert true_fleet(FLEET, Misjudged(), 1) == told_fleet(FLEET, Misjudged(), 1) == FLEET


def test_the_router_believes_what_it_is_told_of_a_capacity() -> None:
    told = told_fleet(FLEET, Misjudged(capacity=0.3), 1)
    one = RoutedChooser(told, "ttft", 1, events=True)
    Run(chat(40), FLEET, one).run()
    known = {replica.spec.name: replica.report.kv_capacity_tokens for replica in one.router._fleet.replicas}
    assert known == {replica.name: replica.limits.kv_tokens for replica in told}
    assert all(replica.report.running_requests is not None for replica in one.router._fleet.replicas)  # it was polled


def test_cached_prefixes_look_longer_and_shorter() -> None:
    one, trace = chooser("ttft"), chat()
    assert isinstance(one, RoutedChooser)
    misjudge_depths(one.router, 0.2, 1)
    result = Run(trace, FLEET, one).run()
    assert_sound(trace, result, ())
    assert_nothing_booked(one)
    assert digest(result.served) != digest(Run(trace, FLEET, chooser("ttft")).run().served)


def test_a_baseline_sees_fewer_blocks_or_all() -> None:
    seen = misjudged_prompts(0.2, 1)
    prompts = [Prompt(number, 100 * 256, tuple(range(100)), 256) for number in range(200)]
    lengths = [len(seen(prompt).blocks) for prompt in prompts]
    assert lengths == [len(seen(prompt).blocks) for prompt in prompts]
    assert min(lengths) >= 80
    assert 60 < sum(length == 100 for length in lengths) < 140
    assert all(seen(prompt).tokens == prompt.tokens for prompt in prompts)


@pytest.mark.parametrize("policy", ALL)
def test_every_policy_stands_every_error(policy: str) -> None:
    terms = Terms(misjudged=Misjudged(0.3, 0.3, 0.2), outages=(Outage(0, 0.4, 0.6),))
    case = case_at(chat(80), 0.4, FLEET, terms)
    right = case_at(chat(80), 0.4, FLEET, replace(terms, misjudged=Misjudged()))
    row = play(Comparison(case, policy)).row
    assert row.requests == len(case.trace.requests)
    assert row.digest != play(Comparison(right, policy)).row.digest
