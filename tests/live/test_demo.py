"""A small run of the demo's own parts: fleet, workload, replay, table."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from gateway.demo import show
from gateway.demo.workload import Shape, sessions

SMALL = Shape(families=2, system_tokens=600, document_tokens=900, sessions=8, turns=3, sessions_per_s=2.0, think_s=1.0)


def test_the_workload_is_the_same_for_the_same_seed() -> None:
    assert sessions(SMALL, 7) == sessions(SMALL, 7)
    assert sessions(SMALL, 7) != sessions(SMALL, 8)


def test_the_workload_has_the_shape_it_says() -> None:
    made = sessions(SMALL, 1)
    assert len(made) * len(made[0].questions) == SMALL.requests
    assert len({session.system for session in made}) == SMALL.families
    assert len({session.document for session in made}) == SMALL.sessions
    for session in made:
        assert len(session.system) == 4 * SMALL.system_tokens
        assert len(session.document) == 4 * SMALL.document_tokens
        assert len(session.think_s) == SMALL.turns
    assert [session.start_s for session in made] == sorted(session.start_s for session in made)


async def test_a_small_demo_prints_and_writes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(show, "Shape", lambda: SMALL)
    monkeypatch.setattr(show, "POLICIES", ("round-robin", "ttft"))
    monkeypatch.setattr(show, "Console", lambda: Console(width=100))
    written = tmp_path / "demo.json"
    assert await show.run_demo(1, 0, written, oneshot=True) == 0
    rows = json.loads(written.read_text())
    assert [row["policy"] for row in rows] == ["round-robin", "ttft"]
    assert set(rows[0]) == {
        *("policy", "hit_rate", "ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms", "requests", "errors"),
    }
    assert all(row["requests"] == SMALL.requests and row["errors"] == 0 for row in rows)
    assert rows[1]["hit_rate"] > rows[0]["hit_rate"]
    shown = capsys.readouterr().out
    for word in ("round-robin", "ttft", "vllm-w4a8", "sglang-fp4", "ttft against round-robin"):
        assert word in shown
