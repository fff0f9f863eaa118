"""`prefixgate simulate`: tables, JSON, pictures, journals and the matrix; the same figures from every process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from gateway.cli import run
from gateway.journal.lines import FleetPool, JournalHeader, JournalLine, encode
from gateway.simulation.contest import ALL, CONTESTANTS, Comparison, case_at
from gateway.simulation.fleet import parse_fleet
from gateway.simulation.matrix import SETTINGS
from gateway.simulation.workers import WorkerDiedError, play_all
from gateway.simulation.workloads import WORKLOADS

FIELDS = ["policy", "load", "hit_rate", "ttft_mean_ms", "ttft_p50_ms", "ttft_p90_ms", "ttft_p99_ms"]
CHAT = ("simulate", "--workload", "chat", "--requests", "60", "--jobs", "1")


def rows(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert run(arguments) == 0
    read: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return read


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A night of conversations on two replicas, one request of which no engine could have cached."""
    header = JournalHeader(
        1, 1000.0, "salt", (FleetPool("night", "vllm", ("night-0", "night-1"), kv_tokens=(64_000, 64_000)),)
    )
    lines = [encode(header)]
    for number in range(120):
        talk, turn = number % 30, number // 30
        ids = tuple(talk * 1000 + place for place in range(12 + 4 * turn))
        lines.append(
            encode(
                JournalLine(
                    timestamp=number * 400.0,
                    input_length=len(ids) * 256 + 40,
                    output_length=50,
                    hash_ids=ids,
                    block_tokens=256.0,
                    session=f"s{talk}",
                    model="m",
                    endpoint="/v1/chat/completions",
                    policy="round-robin",
                    replica=f"night-{number % 2}",
                    cached=1024,
                    ttft_ms=200.0 + number,
                )
            )
        )
    lines.append(encode(JournalLine(1.0, 10, 0, (), endpoint="/v1/embeddings")))
    lines.append(encode(JournalLine(2.0, 100_000, 10, (), endpoint="/v1/chat/completions")))
    path = tmp_path / "night.jsonl"
    path.write_bytes(b"".join(lines))
    return path


def test_json_is_rows_by_load_then_mean(capsys: pytest.CaptureFixture[str]) -> None:
    read = rows(capsys, *CHAT, "--policy", "ttft,round-robin,pooled", "--load", "0.6,0.3", "--json")
    assert len(read) == 6
    assert [(row["load"], row["ttft_mean_ms"]) for row in read] == sorted(
        (row["load"], row["ttft_mean_ms"]) for row in read
    )
    assert [row["load"] for row in read] == [0.3] * 3 + [0.6] * 3
    for row in read:
        assert {*row} == {*FIELDS, "workload", "requests", "broken", "digest"}
        assert row["requests"] == 60
        assert 0 < row["hit_rate"] < 1
        assert row["ttft_p50_ms"] <= row["ttft_p90_ms"] <= row["ttft_p99_ms"]


def test_the_table_marks_the_best_baseline(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*CHAT, "--policy", "ttft,round-robin,random,pooled"]) == 0
    shown = capsys.readouterr().out
    assert "chat: simulated in virtual time" in shown
    starred = [line for line in shown.splitlines() if " * " in line]
    assert len(starred) == 1
    assert starred[0].split()[0] in ("round-robin", "random")
    assert " 1.00 " in starred[0]
    assert "pooled (bound)" in shown
    assert "our reading of their definitions" in shown


def test_ours_alone_is_compared_with_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*CHAT, "--policy", "ttft"]) == 0
    shown = capsys.readouterr().out
    assert "best baseline." not in shown


def test_the_policies_are_listed_with_their_sources(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["simulate", "--policy", "list"]) == 0
    shown = capsys.readouterr().out
    for name in CONTESTANTS:
        assert name in shown
    listed = rows(capsys, "simulate", "--policy", "list", "--json")
    assert [one["name"] for one in listed] == list(CONTESTANTS)
    assert all(one["source"] for one in listed)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_a_picture(suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [tmp_path / f"{name}.{suffix}" for name in "ab"]
    for path in paths:
        read = rows(capsys, *CHAT, "--policy", "ttft,smetric", "--load", "0.3,0.5", "--json", "--plot", str(path))
        assert len(read) == 4
    start = paths[0].read_bytes()
    assert start.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert start == paths[1].read_bytes()


def test_a_picture_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "taken.png").mkdir()
    assert run([*CHAT, "--policy", "ttft", "--plot", str(tmp_path / "taken.png")]) == 1
    assert capsys.readouterr().err.strip().endswith("taken.png: Is a directory")


def test_a_journal_is_replayed_on_its_own_fleet(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The recorded row first; then what other policies would have given, at the journal's own pace."""
    command = ("simulate", "--journal", str(journal), "--jobs", "1", "--json", "--policy", "ttft,round-robin")
    assert run(command) == 0
    out, err = capsys.readouterr()
    recorded, *simulated = json.loads(out)
    assert recorded["policy"] == "recorded"
    assert recorded["requests"] == 121
    assert recorded["ttft_p50_ms"] == 259.0
    assert 0.2 < recorded["hit_rate"] < 0.25
    by_policy = {row["policy"]: row for row in simulated}
    assert {row["requests"] for row in simulated} == {120}
    assert {row["load"] for row in simulated} == {recorded["load"]}
    assert by_policy["ttft"]["hit_rate"] > by_policy["round-robin"]["hit_rate"]
    assert "left out for having no prompt to prefill (embeddings and the like): 1" in err
    assert "64,000 tokens of a replica: 1" in err


def test_what_other_caches_and_chunks_would_have_given(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("simulate", "--journal", str(journal), "--jobs", "1", "--json", "--policy", "ttft")
    (_, as_it_was), (_, large), (_, small), (_, chunked), (_, elsewhere) = (
        rows(capsys, *command, *options)
        for options in (
            (),
            ("--kv-tokens", "1000000"),
            ("--kv-tokens", "20000"),
            ("--chunk", "2048"),
            ("--fleet", "sglang-fp4:2"),
        )
    )
    assert small["hit_rate"] < as_it_was["hit_rate"] < large["hit_rate"]
    assert chunked["ttft_mean_ms"] > as_it_was["ttft_mean_ms"]
    assert elsewhere["digest"] != as_it_was["digest"]


def test_a_journals_replicas_can_die_by_name(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("simulate", "--journal", str(journal), "--jobs", "1", "--policy", "ttft")
    assert run([*command, "--down", "night-1@0.2-0.5,night-1@0.7-"]) == 0
    assert "recorded" in capsys.readouterr().out
    assert run([*command, "--down", "night-2@0.2-0.5"]) == 2
    assert "did you mean `night-1`" in capsys.readouterr().err or "night-0" in capsys.readouterr().err


def test_a_mooncake_trace_at_a_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.jsonl"
    lines = [
        {"timestamp": at * 500, "input_length": 1500, "output_length": 5, "hash_ids": [at % 4, 100 + at, 200 + at]}
        for at in range(40)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (row,) = rows(
        capsys, "simulate", "--trace", str(path), "--policy", "ttft", "--load", "0.2", "--json", "--jobs", "1"
    )
    assert (row["workload"], row["load"], row["requests"]) == ("trace", 0.2, 40)
    (part,) = rows(capsys, "simulate", "--trace", str(path), "--policy", "ttft", "--requests", "9", "--json")
    assert part["requests"] == 9


def test_a_misjudged_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    plain, wrong = (
        rows(capsys, *CHAT, "--policy", "ttft", "--json", *options)
        for options in ((), ("--misjudge", "speed=0.3,capacity=0.3,cached=0.2"))
    )
    assert plain[0]["load"] == wrong[0]["load"]  # which is that of the fleet as it is thought to be
    assert plain[0]["digest"] != wrong[0]["digest"]


def test_the_matrix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        b"".join(
            b'{"timestamp": %d, "input_length": 900, "output_length": 5, "hash_ids": [%d, 9%d]}\n' % (n * 300, n % 3, n)
            for n in range(30)
        )
    )
    command = ["simulate", "--matrix", "--requests", "30", "--policy", "ttft,dynamo,random,pooled", "--jobs", "1"]
    assert run(command) == 0
    shown = capsys.readouterr().out
    for setting in SETTINGS:
        assert setting.name in shown
    assert "above 1 ours is faster" in shown
    read = rows(capsys, *command, "--json", "--trace", str(path))
    cases = list(dict.fromkeys((row["workload"], row["load"]) for row in read))
    assert cases == [
        *(("mine", load) for load in (0.3, 0.5, 0.7)),
        *((setting.name, setting.load) for setting in SETTINGS),
    ]
    assert len(read) == 4 * len(cases)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "say what to replay"),
        (["--workload", "chat", "--trace", "x"], "only one of"),
        (["--workload", "chatt"], "no workload is called `chatt`; did you mean `chat`?"),
        (["--workload", "chat", "--policy", "tftf"], "no policy is called `tftf`; did you mean `ttft`?"),
        (["--workload", "chat", "--policy", ","], "--policy is empty"),
        (["--workload", "chat", "--load", "0"], "--load must be above 0"),
        (["--workload", "chat", "--load", "x"], "--load: `x` is not a number"),
        (["--workload", "chat", "--load", "nan"], "is not a number"),
        (["--workload", "chat", "--fleet", "vllm:2"], "no engine profile is called `vllm`"),
        (["--workload", "chat", "--chunk", "1000"], "multiple of block_tokens"),
        (["--workload", "chat", "--kv-tokens", "0"], "--kv-tokens must be at least 1"),
        (["--workload", "chat", "--kv-tokens", "300"], "no request that the fleet can serve"),
        (["--workload", "chat", "--jobs", "0"], "--jobs must be at least 1"),
        (["--workload", "chat", "--hold-ms", "nan"], "--hold-ms must be 0 or more"),
        (["--workload", "chat", "--down", "vllm-w4a8-0"], "is not REPLICA@FROM-UNTIL"),
        (["--workload", "chat", "--down", "vllm-w4a8-0@0.5-0.4"], "ends before it begins"),
        (["--workload", "chat", "--down", "vllm-w4a8-0@0.1-0.4,vllm-w4a8-0@0.3-0.5"], "go down while it is down"),
        (["--workload", "chat", "--down", "vllm-w4a9-0@0.1-0.4"], "did you mean `vllm-w4a8-0`?"),
        (["--workload", "chat", "--fleet", "vllm-w4a8:1", "--down", "vllm-w4a8-0@0.1-"], "leaves no replica up"),
        (["--workload", "chat", "--misjudge", "sped=0.3"], "did you mean `speed`?"),
        (["--workload", "chat", "--misjudge", "speed=1"], "a share below 1"),
        (["--workload", "chat", "--plot", "x.pdf"], "must end in .png or .svg"),
        (["--workload", "chat", "--plot", "/nowhere/x.png"], "no such folder"),
        (["--trace", "/nowhere.jsonl"], "/nowhere.jsonl: cannot be read"),
        (["--matrix", "--load", "0.3"], "leave --load out"),
        (["--matrix", "--policy", "ttft,pooled"], "name it and at least one of them"),
    ],
)
def test_bad_usage_is_one_sentence_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *arguments]) == 2
    *notes, said = capsys.readouterr().err.strip().splitlines()
    assert said.startswith("prefixgate: ")
    assert complaint in said
    assert all(note.startswith("note: ") for note in notes)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (b"", "there is no request in it"),
        (b"PK\x03\x04", "there is no request in it"),
        (b'{"a": 1}\n', "line 1: "),
        (b'x\n{"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": []}\n', "line 1: not valid JSON"),
        (b'{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [-1]}\n', "line 1: "),
    ],
)
def test_a_bad_file_is_one_sentence_and_status_2(
    text: bytes, complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(text)
    assert run(["simulate", "--trace", str(path), "--policy", "ttft"]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"prefixgate: {path}: ")
    assert complaint in said


def test_a_trace_at_one_time_has_no_load(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "once.jsonl"
    path.write_bytes(b'{"timestamp": 5, "input_length": 900, "output_length": 5, "hash_ids": [1]}\n')
    (row,) = rows(capsys, "simulate", "--trace", str(path), "--policy", "ttft", "--json")
    assert row["load"] is None
    assert run(["simulate", "--trace", str(path), "--policy", "ttft"]) == 0
    assert run(["simulate", "--trace", str(path), "--policy", "ttft", "--load", "0.3"]) == 2
    assert "come at one time" in capsys.readouterr().err


# ── processes ────────────────────────────────────────────────────────────────────────────────────


def test_every_process_comes_to_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the seed of Python's hashes, and in however many processes."""
    command = ("simulate", "--workload", "chat", "--requests", "50", "--load", "0.5", "--json")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "gateway", *command, "--jobs", jobs],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONHASHSEED": seed},
        )
        for seed, jobs in (("1", "1"), ("2", "2"))
    ]
    here = rows(capsys, *command, "--jobs", "1")
    assert {row["policy"] for row in here} == {*ALL}
    for process in started:
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert json.loads(out) == here


def test_a_worker_that_dies_is_an_error_and_leaves_no_process() -> None:
    case = case_at(WORKLOADS["chat"](1, 20), 0.3, parse_fleet("vllm-w4a8:1"))
    with pytest.raises(WorkerDiedError, match="nonsense on chat died"):
        list(play_all([Comparison(case, "ttft"), Comparison(case, "nonsense")], 2, lambda _: None))


def test_interrupted_it_ends_at_once_with_its_workers() -> None:
    command = ("simulate", "--workload", "chat", "--requests", "4000", "--kv-tokens", "60000", "--jobs", "2")
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith("note: chat: left out")  # the last it says before it starts workers
    time.sleep(0.3)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    out, err = process.communicate(timeout=20)  # which waits for all who could yet write
    assert process.returncode == 130
    assert (out, err) == ("", "")
