"""What was measured, and the file that keeps it so that a run can go on; does I/O."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from gateway.bench.plan import Rung, Step

_NEWLINE: Final = b"\n"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One answer. Times in milliseconds, tokens as the engine counted them; None where it did not say.

    `primed_tokens` of the prompt had been sent before, and every prompt begins with the same `shared_tokens`.
    `prefill_ms` and `queue_ms` are the engine's own word. `busy`: it said that it had other requests. `at` is seconds
    since the Unix epoch.
    """

    target: str
    round: int
    isl: int
    cached: float = 0.0
    ttft_ms: float
    prompt_tokens: int
    primed_tokens: int = 0
    shared_tokens: int = 0
    cached_tokens: int | None = None
    prefill_ms: float | None = None
    queue_ms: float | None = None
    busy: bool = False
    at: float = 0.0

    @property
    def rung(self) -> Rung:
        """Where on the ladder it is."""
        return Rung(self.isl, self.cached)


class RunHeader(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of a file: what must be the same for a run to go on."""

    prefixgate_ladder: int = 1
    seed: int
    targets: dict[str, str]
    """URLs by name."""


class SampleFileError(Exception):
    """The file cannot be gone on with, or cannot be written; the message is one sentence."""


class SampleFile:
    """JSON lines: a header, then a sample each. A last line that was cut short is forgotten."""

    def __init__(self, path: Path, header: RunHeader) -> None:
        """Opens or makes the file. Raises SampleFileError."""
        self._path = path
        try:
            whole = path.read_bytes() if path.exists() else b""
            whole = whole[: whole.rfind(_NEWLINE) + 1]
            self.kept = _read(path, whole, header) if whole else []
            self._file = path.open("ab")
            self._file.truncate(len(whole))
            if not whole:
                self._write(header)
        except OSError as error:
            raise SampleFileError(f"{path}: {error.strerror}") from error

    def add(self, sample: Sample) -> None:
        """Keep one; it is in the file when this returns. Raises SampleFileError."""
        try:
            self._write(sample)
        except OSError as error:
            raise SampleFileError(f"{self._path}: {error.strerror}") from error

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _write(self, record: msgspec.Struct) -> None:
        self._file.write(msgspec.json.encode(record) + _NEWLINE)
        self._file.flush()


def _read(path: Path, whole: bytes, header: RunHeader) -> list[Sample]:
    first, *lines = whole.splitlines()
    try:
        found = msgspec.json.decode(first, type=RunHeader)
        samples = [msgspec.json.decode(line, type=Sample) for line in lines]
    except (msgspec.MsgspecError, ValueError) as error:
        raise SampleFileError(f"{path} is not a file of ladder samples, and is left as it is") from error
    if found != header:
        raise SampleFileError(f"{path} is of a run with other targets or another seed: give another --out")
    return samples


def missing(steps: Sequence[Step], names: Sequence[str], kept: Sequence[Sample]) -> list[Step]:
    """The steps that were not measured yet; a warm-up only where something is left to measure of its target."""
    have = {(sample.target, sample.round, sample.rung) for sample in kept}
    left = [step for step in steps if step.round >= 0 and (names[step.target], step.round, step.rung) not in have]
    cold = {(step.target, step.rung) for step in left}
    return [step for step in steps if step.round < 0 and (step.target, step.rung) in cold] + left
