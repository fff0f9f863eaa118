"""Traces and fleets: what prompts share, what a load is, which fleets can be, and what workloads look like."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.lines import FleetPool
from gateway.simulation.fleet import (
    DEFAULT_FLEET,
    FleetError,
    largest_prompt,
    parse_fleet,
    recorded_fleet,
)
from gateway.simulation.trace import Trace, TraceRequest, at_load, in_order, load_of
from gateway.simulation.workloads import WORKLOADS

WIDTHS = st.sampled_from([512.0, 256.0, 261.37, 3.5])


@given(width=WIDTHS, shared=st.integers(0, 6), tokens=st.integers(1, 4000), others=st.integers(1, 4000))
def test_prompts_are_equal_exactly_where_their_ids_are(width: float, shared: int, tokens: int, others: int) -> None:
    one = TraceRequest(0.0, tokens, 1, (*range(shared), 100, 101), width).prompt(0)
    other = TraceRequest(0.0, others, 1, (*range(shared), 200, 201), width).prompt(1)
    assert len(one) == 4 * tokens
    assert len(other) == 4 * others
    common = 4 * min(int(shared * width), tokens, others)
    assert one[:common] == other[:common]
    assert one[common : common + 4] != other[common : common + 4] or common >= min(len(one), len(other))


def test_what_no_id_covers_is_shared_with_nobody() -> None:
    one, other = (TraceRequest(0.0, 1000, 1, (7,), 512.0) for _ in range(2))
    assert one.prompt(0)[: 512 * 4] == other.prompt(1)[: 512 * 4]
    assert one.prompt(0)[512 * 4 :] != other.prompt(1)[512 * 4 :]
    assert Trace("t", (one, other)).uncached() == [1000, 488]


def test_requests_start_at_zero_in_order_of_time() -> None:
    late, early = TraceRequest(7.0, 1, 1, ()), TraceRequest(5.0, 2, 1, ())
    assert [(one.at, one.tokens) for one in in_order([late, early])] == [(0.0, 2), (2.0, 1)]
    assert in_order([]) == ()


@pytest.mark.parametrize("load", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("fleet", [DEFAULT_FLEET, "vllm-w4a8:1", "vllm-w4a8:3@2,sglang-fp4:1@0.5"])
def test_a_trace_is_stretched_to_a_load(load: float, fleet: str) -> None:
    replicas = parse_fleet(fleet)
    trace = WORKLOADS["chat"](1, 200)
    stretched = at_load(trace, load, replicas)
    assert load_of(stretched, replicas) == pytest.approx(load)
    gaps = [(b.at - a.at) / stretched.span_s for a, b in pairwise(stretched.requests)]
    assert gaps == pytest.approx([(b.at - a.at) / trace.span_s for a, b in pairwise(trace.requests)])
    assert [one.ids for one in stretched.requests] == [one.ids for one in trace.requests]


def test_load_is_work_over_capacity() -> None:
    """Ten prompts of one second each within twenty seconds are half of what a replica can do, a quarter of two."""
    (replica,) = parse_fleet("vllm-w4a8:1")
    tokens = 8192
    seconds = replica.prefill_s(tokens)
    requests = tuple(TraceRequest(place * 2 * seconds * 10 / 9, tokens, 1, (place,), 16.0) for place in range(10))
    trace = Trace("t", requests)
    assert load_of(trace, [replica]) == pytest.approx(0.5)
    assert load_of(trace, [replica] * 2) == pytest.approx(0.25)
    assert load_of(trace.part(1), [replica]) == float("inf")


def test_a_fleet_from_text() -> None:
    fleet = parse_fleet("vllm-w4a8:2, vllm-w4a8:1@0.5,sglang-fp4:1", 500_000, 16_384)
    assert [one.name for one in fleet] == ["vllm-w4a8-0", "vllm-w4a8-1", "vllm-w4a8-2-0", "sglang-fp4-0"]
    assert len({one.name for one in fleet}) == 4
    assert {one.limits.chunk_tokens for one in fleet} == {16_384}
    assert fleet[0].limits.kv_tokens < 500_000  # a larger chunk takes some
    assert fleet[2].prefill_s(5000) == pytest.approx(2 * fleet[0].prefill_s(5000))
    assert largest_prompt(fleet) == fleet[0].limits.kv_tokens


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("vllm-w4a8", "is not PROFILE:COUNT"),
        ("vllm-w4a8:2@", "is not PROFILE:COUNT"),
        ("vllm-w4a8:-1", "is not PROFILE:COUNT"),
        ("vllm:2", "no engine profile is called `vllm`; there are vllm-w4a8"),
        ("vllm-w4a8:0", "at least one replica"),
        ("vllm-w4a8:1@0", "speed must be above 0"),
    ],
)
def test_a_fleet_that_cannot_be(text: str, complaint: str) -> None:
    with pytest.raises(FleetError, match=complaint):
        parse_fleet(text)


def test_settings_that_no_engine_starts_with() -> None:
    with pytest.raises(FleetError, match="multiple of block_tokens"):
        parse_fleet("sglang-fp4:1", chunk_tokens=1000)
    with pytest.raises(FleetError, match="leaves no room"):
        parse_fleet("vllm-w4a8:1", kv_tokens=100)


def test_a_recorded_fleet_has_what_was_recorded() -> None:
    pools = (
        FleetPool("fast", "vllm", ("a", "b"), kv_tokens=(512_000, None), chunk_tokens=16_384),
        FleetPool("slow", "sglang", ("c",)),
    )
    fleet = recorded_fleet(pools)
    assert [(one.name, one.pool) for one in fleet] == [("a", "fast"), ("b", "fast"), ("c", "slow")]
    assert [one.limits.chunk_tokens for one in fleet] == [16_384, 16_384, 8192]
    assert fleet[0].limits.kv_tokens == 512_000
    assert fleet[2].limits.kv_tokens == 1_000_000 - 1_000_000 % 256
    smaller = recorded_fleet(pools, chunk_tokens=8192)
    assert smaller[0].limits.kv_tokens > 512_000  # what the larger chunk took
    assert {one.limits.kv_tokens for one in recorded_fleet(pools, 256_000, 8192)} == {256_000}


def test_a_recorded_fleet_that_cannot_be() -> None:
    with pytest.raises(FleetError, match="nothing simulates the engine `other` of the journal's pool `p`"):
        recorded_fleet([FleetPool("p", "other", ("a",))])
    with pytest.raises(FleetError, match="no replicas"):
        recorded_fleet([FleetPool("p", "vllm", ())])


@pytest.mark.parametrize(
    ("name", "least", "most"),
    [("chat", 0.4, 0.6), ("sessions", 0.8, 0.95), ("agents", 0.9, 0.99), ("hot-tools", 0.6, 0.8),
     ("cold-bursts", 0.75, 0.95)],
)  # fmt: skip
def test_workloads_are_what_they_are_said_to_be(name: str, least: float, most: float) -> None:
    """The same from the same seed, in order of time, and with ideal hit rates within a band."""
    trace = WORKLOADS[name](3, 1500)
    assert trace == WORKLOADS[name](3, 1500)
    assert trace != WORKLOADS[name](4, 1500)
    assert trace.name == name
    assert len(trace.requests) == 1500
    assert all(a.at <= b.at for a, b in pairwise(trace.requests))
    assert trace.requests[0].at == 0
    prompt = sum(one.tokens for one in trace.requests)
    assert least < 1 - sum(trace.uncached()) / prompt < most
    assert max(one.tokens for one in trace.requests) < 131_072
    assert min(one.output_tokens for one in trace.requests) >= 1


def test_every_workload_has_a_band() -> None:
    assert set(WORKLOADS) == {"chat", "sessions", "agents", "hot-tools", "cold-bursts"}
