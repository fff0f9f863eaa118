"""The demo's live fleet decides as the simulated one does; `make live-vs-simulated` is the strict comparison."""

import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from engines.simulated.tokens import TOKEN_BYTES
from gateway.demo.likeness import Likeness, compare
from gateway.demo.virtual import play, retell, shaken, trace_of, virtual_fleet
from gateway.demo.workload import Shape, arrivals
from gateway.journal.lines import JournalLine

QUIET = Shape(families=3, sessions=15, turns=4, sessions_per_s=0.5)
ROOT = Path(__file__).parents[2]


def likeness_text(likeness: Likeness) -> str:
    return str(replace(likeness, sides=tuple(replace(side, ttfts_ms=()) for side in likeness.sides)))


@pytest.mark.slow
async def test_a_quiet_fleet_decides_alike_live_and_in_virtual_time() -> None:
    likeness = await compare(QUIET, 1, 4.0)
    live, texts, journal = likeness.sides
    assert likeness.requests == QUIET.requests == len(live.ttfts_ms)
    assert min(texts.agreed, journal.agreed) >= 0.9, likeness_text(likeness)
    assert live.hit_rate == pytest.approx(texts.hit_rate, abs=0.03)
    assert live.hit_rate == pytest.approx(journal.hit_rate, abs=0.03)
    assert likeness.retold >= 0.95, likeness_text(likeness)


@pytest.mark.slow
def test_the_command_prints_its_table_and_exits_by_its_verdict() -> None:
    command = [sys.executable, "tests/bench/live_vs_simulated.py", "--seeds", "1", "--sessions", "3", "--speed", "10"]
    done = subprocess.run([*command, "--explain"], capture_output=True, text=True, timeout=120, cwd=ROOT)
    for word in ("same replica", "simulated from the texts", "simulated from the journal", "the live past, retold"):
        assert word in done.stdout, done.stderr
    assert done.returncode == ("wanted" in done.stdout)


# ── the parts ────────────────────────────────────────────────────────────────────────────────────


def test_arrivals_are_the_sessions_at_fixed_times() -> None:
    made = arrivals(QUIET, 7)
    assert made == arrivals(QUIET, 7)
    assert made != arrivals(QUIET, 8)
    assert len(made) == QUIET.requests
    assert made[0].at_s == 0
    assert all(one.at_s <= other.at_s for one, other in pairwise(made))
    by_session = {one.session: [other.messages for other in made if other.session == one.session] for one in made}
    for prompts in by_session.values():
        assert len(prompts) == QUIET.turns
        assert all(later[: len(earlier)] == earlier for earlier, later in pairwise(prompts))


def test_a_trace_shares_what_the_texts_share() -> None:
    asked = arrivals(QUIET, 1)
    trace = trace_of(asked, 4.0)
    assert [one.at * 4 for one in trace.requests] == pytest.approx([one.at_s for one in asked])
    first, second = (n for n, one in enumerate(asked) if one.session == asked[0].session and len(one.messages) < 6)
    one, other = trace.requests[first], trace.requests[second]
    assert other.ids[: len(one.ids)] == one.ids
    assert one.tokens < other.tokens == len(other.prompt(second)) // TOKEN_BYTES


def test_virtual_time_repeats_itself_and_agrees_with_its_own_journal() -> None:
    fleet = virtual_fleet(4.0, 2.0)
    assert [replica.name for replica in fleet] == ["vllm-w4a8-0", "vllm-w4a8-1", "sglang-fp4-0", "sglang-fp4-1"]
    trace = trace_of(arrivals(QUIET, 2), 4.0)
    played = play(trace, fleet)
    assert played == play(trace, fleet)
    stay = zip(played.replicas, shaken(trace, fleet, 1), strict=True)
    assert sum(one == other for one, other in stay) >= 0.9 * QUIET.requests
    assert set(played.decisions) == set(range(QUIET.requests))
    lines = [
        JournalLine(
            timestamp=asked.at * 1000,
            input_length=asked.tokens,
            output_length=asked.output_tokens,
            hash_ids=(),
            replica=replica,
            cached=served.cached_tokens,
            routed_ms=0.0,
            ttft_ms=served.ttft_s * 1000,
            e2e_ms=served.ttft_s * 1000 + 60,
        )
        for asked, served, replica in zip(trace.requests, played.served, played.replicas, strict=True)
    ]
    retold = [decision.chosen.replica for decision in retell(trace, lines, fleet)]
    assert sum(one == other for one, other in zip(retold, played.replicas, strict=True)) >= 0.95 * len(lines)


def test_only_whole_streams_can_be_retold() -> None:
    fleet = virtual_fleet(4.0)
    trace = trace_of(arrivals(QUIET, 1)[:1], 4.0)
    with pytest.raises(ValueError, match="request 0 is not a stream"):
        retell(trace, [JournalLine(timestamp=0, input_length=1, output_length=1, hash_ids=(), e2e_ms=1.0)], fleet)
