"""Benchmarks run, small; what they measure is nobody's business here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


def shown_by(bench: str, *arguments: str) -> str:
    command = [sys.executable, str(Path(__file__).with_name(bench)), *arguments]
    root = Path(__file__).parents[2]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd=root).stdout


def test_the_index_benchmark_prints_its_figures() -> None:
    shown = shown_by("bench_index.py", "--blocks", "16000")
    for figure in ("guessed block", "stated block", "100k tokens, blocks of  16", "64 blocks of 256"):
        assert figure in shown


def test_the_route_benchmark_prints_its_figures() -> None:
    shown = shown_by("bench_route.py", "--calls", "60")
    for figure in ("tokens, 256", "tokens, 16", "text, 256 bytes", "all new"):
        assert figure in shown


def test_the_sharing_benchmark_prints_its_figures() -> None:
    shown = shown_by("bench_sharing.py", "--batches", "30")
    for figure in ("end before they are told", "end a batch later", "end many batches later", "to note one of them"):
        assert figure in shown


@pytest.mark.slow
def test_the_gateway_benchmark_prints_its_figures() -> None:
    shown = json.loads(shown_by("bench_gateway.py", "--routers", "prefixgate", "--scale", "0.01", "--json"))
    assert [row["router"] for row in shown] == ["prefixgate"]
    for figure in ("cpu_us_1kb", "cpu_us_16kb", "cpu_us_100kb", "cpu_us_per_chunk", "memory_start_mib"):
        assert shown[0][figure] > 0


@pytest.mark.slow
def test_the_streams_benchmark_prints_its_figures() -> None:
    small = ("--streams", "50", "--chunks", "3", "--gap-s", "0.2", "--size", "2000", "--most-kib", "10000")
    shown = json.loads(shown_by("bench_streams.py", *small, "--json"))
    assert (shown["whole"], shown["different"], shown["refused"], shown["dropped"]) == (50, 0, 0, 0)
    assert shown["cpu_us_per_chunk"] > 0
    assert "together" in shown_by("bench_streams.py", *small, "--where")


@pytest.mark.slow
def test_the_soak_prints_its_figures() -> None:
    shown = json.loads(
        shown_by("bench_soak.py", "--requests", "3000", "--restart-s", "2", "--most-mib", "1000", "--json")
    )
    assert shown["wrong"] == []
    assert sum(shown["ends"].values()) == 3000
    assert shown["samples"][-1]["index_blocks"] > 0


@pytest.mark.slow
def test_the_workers_benchmark_prints_its_figures() -> None:
    shown = json.loads(shown_by("bench_workers.py", "--scale", "0.02", "--sizes", "1000", "--rounds", "1", "--json"))
    assert [(row["load"], row["workers"]) for row in shown["throughput"]] == [("1 KB", 1), ("1 KB", 2)]
    assert all(row["gateway_cpu_us"] > 0 and row["requests_per_s"] > 0 for row in shown["throughput"])
    assert set(shown["hit_rate"]) == {"1", "2"}
    assert all(0 < rate < 1 for rate in shown["hit_rate"].values())


@pytest.mark.slow
def test_the_overload_benchmark_prints_its_figures() -> None:
    shown = json.loads(shown_by("bench_overload.py", "--seconds", "4", "--deadline-s", "2", "--speed", "2", "--json"))
    assert shown["failed"] == shown["left_booked"] == 0
    assert shown["arrivals"] == shown["served"] + sum(shown["shed"].values()) > shown["served"] > 0
    assert set(shown["shares"]) == {"a", "b"}
    assert shown["goodput"] > 0


@pytest.mark.slow
def test_the_experiments_benchmark_prints_its_table() -> None:
    """With so few seeds chance decides what is missed."""
    bench = Path(__file__).with_name("bench_experiments.py")
    command = [sys.executable, str(bench), "--seeds", "3", "--peeks", "3", "--processes", "1"]
    root = Path(__file__).parents[2]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=root, check=False)
    assert ended.returncode in (0, 1), ended.stderr
    for figure in ("false verdict at any look", "interval holds the truth", "slower is found", "is a tie in the end"):
        assert figure in ended.stdout


@pytest.mark.slow
def test_the_checkpoint_benchmark_prints_its_figures() -> None:
    shown = json.loads(shown_by("bench_checkpoint.py", "--gb", "0.05", "--shards", "5", "--json"))
    assert (shown["shards"], shown["reverse_is_the_base"], shown["linked_shards_are_the_bases"]) == (5, True, True)
    assert len(shown["steps"]) == 6
    assert all(0 < step["peak_mb"] < 200 for step in shown["steps"])
