"""A checkpoint folder made of a base's shards and a converted config, whole or not at all; does I/O.

It grows in `OUT.partial` and is renamed when it is complete and its index fits its shards. A run that was cut off is
gone on with: what is whole there is kept. Files are streamed, tensors never loaded.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engines.checkpoint.conversion import differences
from engines.checkpoint.refusal import CheckpointError
from engines.checkpoint.shards import CONFIG, companions, index_findings, read_index, read_small, shard_names
from engines.checkpoint.writing import Advance, Copying, Transfer, failures_said, refuse_place, sync_folder

_KEPT: Final = "kept"


@dataclass(frozen=True, slots=True)
class Piece:
    """One file of the new folder and what it is made of; only a shard may be linked."""

    name: str
    source: Path
    bytes: int
    is_shard: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What a folder made of `base` will hold; `notes` are oddities of the base that do no harm."""

    base: Path
    pieces: tuple[Piece, ...]
    notes: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(piece.bytes for piece in self.pieces)


@dataclass(frozen=True, slots=True)
class Laid:
    """How a file got there: linked, copied, or kept from a run before."""

    name: str
    bytes: int
    way: str


def planned(base: Path, config_dir: Path) -> Plan:
    """What materializing would do: the base's shards and small files, and over them those of `config_dir`.

    `config_dir` may be a config.json alone. Raises CheckpointError if the base's index does not fit its shards, or
    the config is not its config converted.
    """
    findings, notes = index_findings(base)
    if findings:
        raise CheckpointError(f"the base {base} is not sound: {'; '.join(findings)}")
    config = config_dir / CONFIG if config_dir.is_dir() else config_dir
    findings = differences(read_small(base / CONFIG), read_small(config))
    if findings:
        raise CheckpointError(f"{config} does not go with {base}: {'; '.join(findings)}")
    small = {name: base / name for name in companions(base)}
    if config_dir.is_dir():
        small |= {name: config_dir / name for name in companions(config_dir)}
    shards = {name: base / name for name in shard_names(read_index(base))}
    pieces = [
        *(Piece(name, source, source.stat().st_size, True) for name, source in shards.items()),
        *(Piece(name, source, source.stat().st_size, False) for name, source in sorted(small.items())),
        Piece(CONFIG, config, config.stat().st_size, False),
    ]
    return Plan(base, tuple(pieces), tuple(notes))


def lay_out(plan: Plan, out: Path, transfer: Transfer, advance: Advance) -> list[Laid]:
    """Make the folder; `transfer` brings the shards, all else is copied.

    Raises CheckpointError and leaves no `out`; what was whole by then waits in `OUT.partial` for the next run.
    """
    refuse_place(out, plan.base)
    partial = out.with_name(f"{out.name}.partial")
    with failures_said(f"{out} cannot be made"):
        partial.mkdir(parents=True, exist_ok=True)
    with _alone_in(partial):
        _refuse_strangers(plan, partial)
        try:
            with failures_said(f"{out} could not be finished"):
                laid = _filled(plan, partial, transfer, advance)
                partial.rename(out)
                sync_folder(out.parent)
        except CheckpointError as error:
            with contextlib.suppress(OSError):
                partial.rmdir()  # if it is empty
            if partial.exists():
                raise CheckpointError(f"{error}; {partial} holds what is whole: run it again to go on") from error
            raise
    return laid


def _filled(plan: Plan, partial: Path, transfer: Transfer, advance: Advance) -> list[Laid]:
    ways = [(piece, transfer if piece.is_shard else Copying()) for piece in plan.pieces]
    _refuse_little_room(ways, partial)
    laid = [_brought(piece, partial / piece.name, way, advance) for piece, way in ways]
    findings, _ = index_findings(partial)
    if findings:
        raise CheckpointError(f"{partial} is not sound: {'; '.join(findings)}")
    sync_folder(partial)
    return laid


def _brought(piece: Piece, target: Path, transfer: Transfer, advance: Advance) -> Laid:
    if transfer.has(piece.source, target):
        advance(piece.bytes)
        return Laid(piece.name, piece.bytes, _KEPT)
    target.parent.mkdir(parents=True, exist_ok=True)
    return Laid(piece.name, piece.bytes, transfer.put(piece.source, target, advance))


def _refuse_strangers(plan: Plan, partial: Path) -> None:
    """What a run before was cut off at is removed; what no run made is not ours to touch."""
    names = {piece.name for piece in plan.pieces}
    for path in partial.rglob("*"):
        if path.is_dir():
            continue
        name = path.relative_to(partial).as_posix()
        if path.name.startswith(".") and path.name.endswith(".part"):
            path.unlink()
        elif name not in names:
            raise CheckpointError(f"{partial} holds {name}, which is not of this checkpoint: remove the folder first")


def _refuse_little_room(ways: Sequence[tuple[Piece, Transfer]], partial: Path) -> None:
    needed = sum(
        way.room(piece.source, partial / piece.name)
        for piece, way in ways
        if not way.has(piece.source, partial / piece.name)
    )
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise CheckpointError(
            f"{needed:,} bytes are needed at {partial.parent}, and {free:,} are free: the disk is too full"
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """No two runs at a time. Raises CheckpointError if there is another."""
    with failures_said(f"{folder} cannot be opened"):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise CheckpointError(f"another run works in {folder}") from error
    except OSError:
        pass  # a file system without locks: there, two runs are for their owner to keep apart
