"""The file of samples: what was measured is not measured again, and nothing is ever lost."""

from pathlib import Path

import pytest

from gateway.bench.plan import rungs_of, steps_of
from gateway.bench.samples import RunHeader, Sample, SampleFile, SampleFileError, missing

HEADER = RunHeader(seed=1, targets={"a": "http://h:1", "b": "http://h:2"})


def sample(target: str, number: int, isl: int) -> Sample:
    return Sample(target=target, round=number, isl=isl, ttft_ms=1.5, prompt_tokens=isl)


def keep(path: Path, *samples: Sample) -> None:
    file = SampleFile(path, HEADER)
    for one in samples:
        file.add(one)
    file.close()


def test_a_run_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    keep(path, sample("a", 0, 1024))
    keep(path, sample("b", 0, 1024))
    file = SampleFile(path, HEADER)
    assert file.kept == [sample("a", 0, 1024), sample("b", 0, 1024)]
    file.close()


@pytest.mark.parametrize("cut", range(1, 30))
def test_a_last_line_that_was_cut_short_is_forgotten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "run.jsonl"
    keep(path, sample("a", 0, 1024), sample("a", 1, 1024))
    path.write_bytes(path.read_bytes()[:-cut])
    keep(path, sample("a", 2, 1024))
    file = SampleFile(path, HEADER)
    assert file.kept == [sample("a", 0, 1024), sample("a", 2, 1024)]
    file.close()


@pytest.mark.parametrize("content", [b"hello\n", b"{}\n", b"[1, 2]\nx\n", b'{"seed":1,"targets":{}}\n{"a":1}\n'])
def test_another_file_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(SampleFileError):
        SampleFile(path, HEADER)
    assert path.read_bytes() == content


def test_a_run_of_other_targets_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    keep(path, sample("a", 0, 1024))
    with pytest.raises(SampleFileError, match="another seed"):
        SampleFile(path, RunHeader(seed=2, targets=HEADER.targets))
    assert b'"a"' in path.read_bytes()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SampleFileError, match="No such file"):
        SampleFile(tmp_path / "nowhere" / "run.jsonl", HEADER)


def test_only_what_is_missing_is_measured_and_warmed_up() -> None:
    steps = steps_of(rungs_of([1024, 2048], [0.0]), 2, 1, 2, seed=3)
    kept = [sample("a", number, isl) for number in (0, 1) for isl in (1024, 2048)] + [sample("b", 1, 1024)]
    left = missing(steps, ["a", "b"], kept)
    assert {(step.target, step.round, step.rung.isl) for step in left} == {
        *((1, -1, 1024), (1, -1, 2048), (1, 0, 1024), (1, 0, 2048), (1, 1, 2048)),
    }
    assert [step.round for step in left] == sorted(step.round for step in left)
    assert missing(steps, ["a", "b"], [*kept, sample("b", 0, 1024), *(sample("b", n, 2048) for n in (0, 1))]) == []
