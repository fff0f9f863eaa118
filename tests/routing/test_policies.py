"""Each policy picks by its definition, from the table alone, and changes nothing."""

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.calibration import Overlap
from gateway.routing.candidates import Candidate
from gateway.routing.policies import POLICIES, Circumstances


def row(
    replica: str,
    *,
    cached: int = 0,
    inflight: int = 0,
    fill: float = 0.0,
    wait: float = 0.0,
    prefill: float = 100.0,
    others: float = 0.0,
) -> Candidate:
    return Candidate(
        replica=replica,
        pool="p",
        url=f"http://{replica}",
        slot=0,
        prompt_tokens=10_000,
        cached_tokens=cached,
        overlap=Overlap(inferred=cached),
        counted_in="text",
        inflight=inflight,
        fill=fill,
        wait_ms=wait,
        prefill_ms=prefill,
        others_ms=others,
    )


def picked(policy: str, *table: Candidate, turn: int = 0, draw: float = 0.0, unit: bytes = b"") -> str:
    return POLICIES[policy](table, Circumstances(turn, draw, unit)).replica


# ── ttft ─────────────────────────────────────────────────────────────────────────────────────────


def test_ttft_takes_the_lowest_sum_of_the_terms() -> None:
    table = [row("a", wait=300, prefill=20, cached=9000), row("b", wait=0, prefill=250), row("c", wait=90, prefill=90)]
    assert picked("ttft", *table) == "c"


def test_ttft_prefers_recomputing_to_a_long_wait() -> None:
    assert picked("ttft", row("a", cached=9000, wait=600, prefill=20), row("b", prefill=500)) == "b"


def test_ttft_waits_a_little_longer_where_that_spares_the_others_work() -> None:
    assert picked("ttft", row("a", wait=500, prefill=20, others=5), row("b", prefill=500, others=125)) == "a"


def test_ttft_near_ties_go_to_the_longest_prefix_then_to_the_emptiest_cache() -> None:
    near = [row("a", prefill=100, fill=0.9), row("b", prefill=101.5, fill=0.1), row("c", prefill=103, fill=0.0)]
    assert picked("ttft", *near) == "b"
    assert picked("ttft", *near, row("d", prefill=101.9, fill=1.0, cached=256)) == "d"


@pytest.mark.parametrize(("best", "other", "tie"), [(10.0, 10.9, True), (10.0, 11.1, False), (1000.0, 1019.0, True)])
def test_ttft_near_means_one_ms_or_two_percent(best: float, other: float, tie: bool) -> None:
    assert (picked("ttft", row("a", prefill=best, fill=0.5), row("b", prefill=other)) == "b") is tie


def test_ttft_true_ties_take_turns() -> None:
    table = [row("a"), row("b"), row("c")]
    assert [picked("ttft", *table, turn=turn) for turn in range(5)] == list("abcab")


# ── the others ───────────────────────────────────────────────────────────────────────────────────


def test_prefix_takes_the_longest_cached_prefix_whatever_the_wait() -> None:
    assert picked("prefix", row("a", cached=512, wait=9000), row("b", cached=256), row("c")) == "a"


def test_prefix_ties_go_to_the_shortest_wait_then_to_the_fewest_in_flight() -> None:
    assert picked("prefix", row("a", cached=512, wait=10), row("b", cached=512, wait=5), row("c")) == "b"
    assert picked("prefix", row("a", inflight=3), row("b", inflight=2)) == "b"
    assert [picked("prefix", row("a"), row("b"), turn=turn) for turn in range(3)] == ["a", "b", "a"]


def test_least_load_counts_requests_in_flight_only() -> None:
    table = [row("a", inflight=2), row("b", inflight=1, wait=9000, prefill=9000), row("c", inflight=1, cached=512)]
    assert [picked("least-load", *table, turn=turn) for turn in range(3)] == ["b", "c", "b"]


def test_round_robin_takes_turns() -> None:
    table = [row("a", inflight=9), row("b"), row("c", cached=512)]
    assert [picked("round-robin", *table, turn=turn) for turn in range(7)] == list("abcabca")


def test_random_is_the_draw() -> None:
    table = [row("a"), row("b", cached=512), row("c"), row("d", inflight=9)]
    draws = (0.0, 0.24, 0.25, 0.5, 0.75, 0.999_999_999_999)
    assert [picked("random", *table, draw=draw) for draw in draws] == list("aabcdd")


def test_session_stays_whatever_happens_to_the_loads() -> None:
    calm = [row(name) for name in "abcd"]
    busy = [row(name, inflight=9, wait=900.0, cached=256) for name in "abcd"]
    for unit in (b"x", b"y", b"z"):
        assert picked("session", *calm, unit=unit) == picked("session", *busy, unit=unit, turn=5, draw=0.7)


def test_sessions_spread() -> None:
    counts = Counter(picked("session", *map(row, "abcd"), unit=str(n).encode()) for n in range(2000))
    assert set(counts) == set("abcd")
    assert min(counts.values()) > 400


def test_session_without_a_unit_goes_by_load() -> None:
    assert picked("session", row("a", inflight=1), row("b")) == "b"


# ── all of them ──────────────────────────────────────────────────────────────────────────────────

COSTS = st.floats(0, 1e6)
NAMES = st.text("abcdefgh", min_size=1, max_size=6)
TABLES = st.lists(
    st.builds(
        Candidate,
        replica=NAMES,
        pool=st.sampled_from(["p", "q"]),
        url=st.just("http://r"),
        slot=st.integers(0, 7),
        prompt_tokens=st.integers(1, 10**6),
        cached_tokens=st.integers(0, 10**6),
        overlap=st.builds(Overlap, *[st.integers(0, 10**6)] * 3),
        counted_in=st.sampled_from(["text", "tokens"]),
        inflight=st.integers(0, 500),
        fill=st.floats(0, 1),
        wait_ms=COSTS,
        prefill_ms=COSTS,
        others_ms=COSTS,
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda candidate: candidate.replica,
)
CIRCUMSTANCES = st.builds(
    Circumstances,
    turn=st.integers(0, 10**9),
    draw=st.floats(0, 1, exclude_max=True),
    unit=st.binary(max_size=8),
)


@pytest.mark.parametrize("policy", POLICIES)
@given(table=TABLES, circumstances=CIRCUMSTANCES)
def test_a_policy_picks_a_row_and_mutates_nothing(
    policy: str, table: list[Candidate], circumstances: Circumstances
) -> None:
    before = list(table)
    first = POLICIES[policy](table, circumstances)
    assert any(first is candidate for candidate in table)
    assert POLICIES[policy](table, circumstances) is first
    assert POLICIES[policy](tuple(table), circumstances) is first
    assert table == before


@pytest.mark.parametrize("policy", sorted(POLICIES.keys() - {"random"}))
@given(table=TABLES, circumstances=CIRCUMSTANCES, draw=st.floats(0, 1, exclude_max=True))
def test_chance_decides_nothing_but_random(
    policy: str, table: list[Candidate], circumstances: Circumstances, draw: float
) -> None:
    """The same past gives the same choices: what live and simulated time have in common."""
    other = Circumstances(circumstances.turn, draw, circumstances.unit)
    assert POLICIES[policy](table, circumstances) is POLICIES[policy](table, other)


@given(TABLES, CIRCUMSTANCES)
def test_definitions_hold_on_every_table(table: list[Candidate], circumstances: Circumstances) -> None:
    def pick(policy: str, rows: Sequence[Candidate] = table) -> Candidate:
        return POLICIES[policy](rows, circumstances)

    cheapest = min(candidate.cost_ms for candidate in table)
    assert pick("ttft").cost_ms <= cheapest + max(1.0, 0.02 * cheapest)
    assert pick("prefix").cached_tokens == max(candidate.cached_tokens for candidate in table)
    assert pick("least-load").inflight == min(candidate.inflight for candidate in table)


@given(TABLES, CIRCUMSTANCES.filter(lambda circumstances: circumstances.unit != b""), st.data())
def test_a_session_moves_only_if_its_own_replica_leaves(
    table: list[Candidate], circumstances: Circumstances, data: st.DataObject
) -> None:
    home = POLICIES["session"](table, circumstances)
    stays = [c for c in table if c is home or data.draw(st.booleans())]
    assert POLICIES["session"](stays, circumstances) is home
    assert POLICIES["session"](stays[::-1], circumstances) is home
