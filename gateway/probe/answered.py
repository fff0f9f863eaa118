"""What one target said to one question, and the file that keeps such answers; the file's part does I/O."""

from collections.abc import Iterable
from fractions import Fraction
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from gateway.probe.numbers import final_number

_CUT: Final = "length"


class Answered(msgspec.Struct, frozen=True, omit_defaults=True):
    """`text` is the answer, `thoughts` what came before it; `tokens` are both, one by one, where the target tells them.

    `asked` stands for all that the answer depends on. `error` is one sentence where there is no answer.
    """

    target: str
    id: str
    asked: str
    text: str = ""
    thoughts: str = ""
    tokens: tuple[str, ...] = ()
    finish: str = ""
    completion_tokens: int = 0
    seconds: float = 0.0
    error: str = ""

    @property
    def was_cut(self) -> bool:
        """Whether it ended for its length."""
        return self.finish == _CUT

    @property
    def number(self) -> Fraction | None:
        """The answer's number."""
        return final_number(self.text, complete=not self.was_cut)

    @property
    def whole(self) -> str:
        """All that was said."""
        return self.thoughts + self.text


class AnswerFileError(Exception):
    """The file of answers cannot be used; the message is one sentence."""


def asked_hash(*parts: object) -> str:
    """A name for a request: what differs in anything has another one."""
    return blake2b(msgspec.json.encode([str(part) for part in parts]), digest_size=8, person=b"prefixgate").hexdigest()


class AnswerFile:
    """Answers as JSON lines, written as they come, so that a probe that was broken off goes on where it was."""

    def __init__(self, path: Path) -> None:
        """Reads what is there. Raises AnswerFileError, and leaves a file that holds anything else as it is."""
        self.known: dict[tuple[str, str], Answered] = {}
        """By target and `asked`."""
        self.trouble = ""
        """Why answers could not be kept any more: one sentence."""
        if path.exists() and not path.is_file():
            raise AnswerFileError(f"{path}: cannot be used: it is no file")
        try:
            before = path.read_bytes() if path.exists() else b""
            for one in _read(before, path):
                self.known[one.target, one.asked] = one
            self._file = path.open("ab", buffering=0)
        except OSError as error:
            raise AnswerFileError(f"{path}: cannot be used: {error.strerror or error}") from error
        if before and not before.endswith(b"\n"):
            self._file.write(b"\n")

    def add(self, answer: Answered) -> None:
        """Keep one; from the first that cannot be kept on, none."""
        if self.trouble:
            return
        try:
            self._file.write(msgspec.json.encode(answer) + b"\n")
        except OSError as error:
            self.trouble = f"{self._file.name}: answers are not kept any more: {error.strerror or error}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def _read(content: bytes, path: Path) -> Iterable[Answered]:
    """Good answers; a last line that broke off is none."""
    lines = content.split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            one = msgspec.json.decode(line, type=Answered)
        except (msgspec.MsgspecError, ValueError) as error:
            if number > 1 and not line.endswith(b"}"):
                continue
            raise AnswerFileError(f"{path} line {number}: not an answer of a probe: {error}") from error
        if not one.error:
            yield one
