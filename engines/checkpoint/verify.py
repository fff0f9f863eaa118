"""A checkpoint folder held against its base: shards byte for byte, config in the named places, index; does I/O."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engines.checkpoint.conversion import differences
from engines.checkpoint.refusal import CheckpointError
from engines.checkpoint.shards import (
    CONFIG,
    INDEX,
    companions,
    index_findings,
    read_header,
    read_index,
    read_small,
    shard_names,
)
from engines.checkpoint.writing import CHUNK_BYTES, Advance, failures_said, is_same_file

Identity = Literal["hard link", "same bytes", "differs", "missing"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a shard stands to the base's of its name: one file under two names, or equal in every byte, or not."""

    name: str
    bytes: int
    identity: Identity


@dataclass(frozen=True, slots=True)
class Verification:
    """`findings` are what is wrong, one sentence each; `notes` what is odd and does no harm."""

    shards: tuple[Verdict, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]


def bytes_to_read(base: Path, out: Path) -> int:
    """Of shards that `verified` must compare, since they are no hard links. Raises CheckpointError."""
    names = shard_names(read_index(base))
    pairs = [(base / name, out / name) for name in names]
    return sum(old.stat().st_size for old, new in pairs if old.exists() and new.exists() and not is_same_file(old, new))


def verified(base: Path, out: Path, advance: Advance) -> Verification:
    """Compare; `advance` is told the bytes read of each shard. Raises CheckpointError if the base cannot be read."""
    shards: list[Verdict] = []
    findings: list[str] = []
    notes: list[str] = []
    for name in shard_names(read_index(base)):
        with failures_said(f"the shard {name} cannot be compared"):
            verdict, finding = _compared(base / name, out / name, advance)
        shards.append(verdict)
        findings += finding
    try:
        findings += differences(read_small(base / CONFIG), read_small(out / CONFIG))
    except CheckpointError as error:
        findings.append(str(error))
    try:
        wrong, odd = index_findings(out)
    except CheckpointError as error:
        wrong, odd = [str(error)], []
    findings += [finding for finding in wrong if finding not in findings]
    (notes if _is_the_same(base / INDEX, out / INDEX) else findings).extend(odd)
    _compare_small_files(base, out, findings, notes)
    return Verification(tuple(shards), tuple(findings), tuple(notes))


def _compared(old: Path, new: Path, advance: Advance) -> tuple[Verdict, list[str]]:
    try:
        read_header(old)
    except CheckpointError as error:
        raise CheckpointError(f"the base is not sound: {error}") from error
    size = old.stat().st_size
    if not new.exists():
        return Verdict(old.name, size, "missing"), [f"the shard {old.name} is missing"]
    if is_same_file(old, new):
        return Verdict(old.name, size, "hard link"), []
    if new.stat().st_size != size:
        wrong = f"the shard {old.name} has {new.stat().st_size} bytes, and the base's {size}"
        return Verdict(old.name, size, "differs"), [wrong]
    at = _first_difference(old, new, advance)
    if at is None:
        return Verdict(old.name, size, "same bytes"), []
    return Verdict(old.name, size, "differs"), [f"the shard {old.name} differs from the base's in {_part(old, at)}"]


def _first_difference(one: Path, other: Path, advance: Advance) -> int | None:
    """The files have one size. Whole bytearrays are compared: memoryviews would be, byte by byte, 200 times slower."""
    left, right = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    at = 0
    with one.open("rb") as first, other.open("rb") as second:
        while count := first.readinto(left):
            if second.readinto(right) != count or left != right:
                return at + next((index for index in range(count) if left[index] != right[index]), 0)
            at += count
            advance(count)
    return None


def _part(shard: Path, at: int) -> str:
    """Which part of the file a byte is of; the base's own header is asked."""
    with shard.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if at < 8 + header_bytes:
            return f"its header (byte {at})"
        header = json.loads(file.read(header_bytes))
    offset = at - 8 - header_bytes
    tensors = ((name, tensor["data_offsets"]) for name, tensor in header.items() if name != "__metadata__")
    return f"{next(name for name, (begin, end) in tensors if begin <= offset < end)} (byte {at})"


def _is_the_same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.read_bytes() == other.read_bytes()


def _compare_small_files(base: Path, out: Path, findings: list[str], notes: list[str]) -> None:
    ours = set(companions(out))
    for name in companions(base):
        if name == INDEX:
            continue
        if name not in ours:
            findings.append(f"{name} is missing")
        elif not _is_the_same(base / name, out / name):
            notes.append(f"{name} is another than the base's")
    strangers = {path.name for path in out.glob("*.safetensors")} - {path.name for path in base.glob("*.safetensors")}
    findings += [f"{name} is no shard of the base" for name in sorted(strangers)]
