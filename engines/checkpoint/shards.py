"""What a checkpoint folder holds: its weight index, its shards' headers, and the small files beside them; does I/O.

Tensors are never loaded: a shard's header says all that is asked here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from safetensors import SafetensorError, safe_open

from engines.checkpoint.json_text import parse
from engines.checkpoint.refusal import CheckpointError

CONFIG: Final = "config.json"
INDEX: Final = "model.safetensors.index.json"
_ONE_SHARD: Final = "model.safetensors"
_WEIGHTS: Final = frozenset(
    (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5", ".msgpack", ".npz", ".onnx")
)
_SHOWN: Final = 3


@dataclass(frozen=True, slots=True)
class Index:
    """Which shard holds which tensor; `total_bytes` as the index claims, None if it claims nothing."""

    shard_of: Mapping[str, str]
    total_bytes: int | None


@dataclass(frozen=True, slots=True)
class Header:
    """A shard's tensors by name, and the bytes of all of them."""

    tensors: frozenset[str]
    tensor_bytes: int


def read_small(path: Path) -> bytes:
    """A small file's bytes. Raises CheckpointError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error


def read_index(folder: Path) -> Index | None:
    """The folder's index; None for a checkpoint of one shard without any. Raises CheckpointError."""
    path = folder / INDEX
    if not path.exists() and (folder / _ONE_SHARD).exists():
        return None
    if not path.exists():
        raise CheckpointError(f"{folder} holds neither {INDEX} nor {_ONE_SHARD}: it is no safetensors checkpoint")
    _, found = parse(read_small(path), str(path))
    shard_of = found.get("weight_map")
    if not isinstance(shard_of, dict) or not shard_of:
        raise CheckpointError(f"{path} has no weight_map")
    for shard in {str(shard) for shard in shard_of.values()}:
        if PurePosixPath(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(f"{path} names {shard!r}, which is no safetensors file of this folder")
    metadata = found.get("metadata")
    total = metadata.get("total_size") if isinstance(metadata, dict) else None
    return Index(shard_of, int(total) if isinstance(total, int | float) and total % 1 == 0 else None)


def shard_names(index: Index | None) -> list[str]:
    """In the order of their names."""
    return [_ONE_SHARD] if index is None else sorted(set(index.shard_of.values()))


def read_header(path: Path) -> Header:
    """What a shard's header says, which safetensors checks against the file's size. Raises CheckpointError."""
    try:
        with safe_open(path, framework="np") as shard:
            tensors = frozenset(shard.keys())
        with path.open("rb") as file:
            header_bytes = int.from_bytes(file.read(8), "little")
        return Header(tensors, path.stat().st_size - 8 - header_bytes)
    except FileNotFoundError as error:
        raise CheckpointError(f"the shard {path.name} is missing") from error
    except SafetensorError as error:
        raise CheckpointError(f"the shard {path.name} is corrupted: {error}") from error
    except OSError as error:
        raise CheckpointError(f"the shard {path.name} cannot be read: {error.strerror or error}") from error


def index_findings(folder: Path) -> tuple[list[str], list[str]]:
    """Where index and shards disagree, one sentence each; and notes on what does no harm.

    Raises CheckpointError if there is no index that can be read.
    """
    index = read_index(folder)
    findings: list[str] = []
    tensor_bytes = 0
    for shard in shard_names(index):
        try:
            header = read_header(folder / shard)
        except CheckpointError as error:
            findings.append(str(error))
            continue
        tensor_bytes += header.tensor_bytes
        if index is not None:
            listed = {tensor for tensor, home in index.shard_of.items() if home == shard}
            findings += _disagreement(f"the index puts into {shard} but are not there", listed - header.tensors)
            findings += _disagreement(f"are in {shard} but not by the index", header.tensors - listed)
    notes = []
    if index is not None and not findings and index.total_bytes not in (None, tensor_bytes):
        notes.append(f"the index's total_size is {index.total_bytes}, but the shards' tensors are {tensor_bytes} bytes")
    return findings, notes


def companions(folder: Path) -> list[str]:
    """Relative paths of the files that belong to a checkpoint beside config and weights: tokenizer, index, code, …

    Hidden files and folders (`.git`, `.cache`) are left out.
    """
    found = []
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder)
        hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
        if path.is_file() and not hidden and path.suffix not in _WEIGHTS and relative.as_posix() != CONFIG:
            found.append(relative.as_posix())
    return found


def _disagreement(what: str, tensors: set[str] | frozenset[str]) -> list[str]:
    if not tensors:
        return []
    shown = ", ".join(sorted(tensors)[:_SHOWN])
    more = f" and {len(tensors) - _SHOWN} more" if len(tensors) > _SHOWN else ""
    return [f"tensors that {what}: {shown}{more}"]
