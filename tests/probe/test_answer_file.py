"""The file that keeps answers: what was begun is gone on with, and nobody's file is spoilt."""

import resource
from pathlib import Path

import pytest

from gateway.probe.answered import Answered, AnswerFile, AnswerFileError

ONE = Answered("A", "q", "hash", "text", "hm", ("a", "b"), "stop", 3, 0.5)


def test_answers_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as kept:
        assert kept.known == {}
        kept.add(ONE)
        kept.add(Answered("B", "q", "hash", error="gone"))
    with AnswerFile(path) as kept:
        assert kept.known == {("A", "hash"): ONE}, "a failure is asked again"


def test_a_line_that_broke_off_is_asked_again(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    with AnswerFile(path) as kept:
        kept.add(ONE)
    path.write_bytes(path.read_bytes() + b'{"target": "B", "te')
    with AnswerFile(path) as kept:
        assert list(kept.known) == [("A", "hash")]
        kept.add(Answered("B", "q", "other"))
    with AnswerFile(path) as kept:
        assert list(kept.known) == [("A", "hash"), ("B", "other")]


def test_a_file_that_holds_something_else_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "letter"
    path.write_text("Dear Sir\n")
    with pytest.raises(AnswerFileError, match="letter line 1: not an answer of a probe"):
        AnswerFile(path)
    assert path.read_text() == "Dear Sir\n"
    with pytest.raises(AnswerFileError, match="cannot be used"):
        AnswerFile(tmp_path / "nowhere" / "file")


def test_a_full_disk_is_told_and_ends_nothing(tmp_path: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerFile(tmp_path / "answers.jsonl") as kept:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
            kept.add(ONE)
            kept.add(ONE)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "not kept any more" in kept.trouble


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(AnswerFileError, match="it is no file"):
            AnswerFile(path)
