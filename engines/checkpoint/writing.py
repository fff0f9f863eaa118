"""Files put in place whole or not at all: written, copied or linked beside their name, then renamed; does I/O."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Protocol

from engines.checkpoint.refusal import CheckpointError

Advance = Callable[[int], None]
"""Told how many bytes are done, again and again."""

CHUNK_BYTES: Final = 4 << 20
_CANNOT_LINK: Final = frozenset((errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS))


class Transfer(Protocol):
    """A way to bring a file of the base into the new folder."""

    def has(self, source: Path, target: Path) -> bool:
        """Whether it was brought there before, whole, and the source is the same still."""

    def put(self, source: Path, target: Path, advance: Advance) -> str:
        """Bring it there; "linked" or "copied". Raises OSError."""

    def room(self, source: Path, target: Path) -> int:
        """Bytes of disk that it takes."""


class Copying:
    """Bytes and time of change are copied, so that a copy is known by size and time."""

    def has(self, source: Path, target: Path) -> bool:
        """See Transfer."""
        try:
            old, new = source.stat(), target.lstat()
        except FileNotFoundError:
            return False
        return (old.st_size, old.st_mtime_ns) == (new.st_size, new.st_mtime_ns) and old.st_ino != new.st_ino

    def put(self, source: Path, target: Path, advance: Advance) -> str:
        """See Transfer."""
        buffer = memoryview(bytearray(CHUNK_BYTES))
        with source.open("rb", buffering=0) as old, _replacing(target) as (new, path):
            while count := old.readinto(buffer):
                done = 0
                while done < count:
                    done += os.write(new, buffer[done:count])
                advance(count)
            times = os.fstat(old.fileno())
            os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        return "copied"

    def room(self, source: Path, target: Path) -> int:  # noqa: ARG002 - a copy's is its source's, wherever it is
        """See Transfer."""
        return source.stat().st_size


class HardLinking:
    """One file under two names, which takes no room; a copy where the file system cannot."""

    def __init__(self) -> None:
        self._copying = Copying()

    def has(self, source: Path, target: Path) -> bool:
        """See Transfer."""
        return is_same_file(source, target) or self._copying.has(source, target)

    def put(self, source: Path, target: Path, advance: Advance) -> str:
        """See Transfer."""
        target.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), target)
        except OSError as error:
            if error.errno not in _CANNOT_LINK:
                raise
            return self._copying.put(source, target, advance)
        advance(source.stat().st_size)
        return "linked"

    def room(self, source: Path, target: Path) -> int:
        """See Transfer."""
        return 0 if source.stat().st_dev == target.parent.stat().st_dev else source.stat().st_size


def refuse_place(out: Path, base: Path) -> None:
    """Raises CheckpointError if writing to `out` would write over something, or into the base."""
    if base.resolve() in (out.resolve(), *out.resolve().parents):
        raise CheckpointError(f"{out} is in the base itself, which is left as it is: name another place")
    if (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir())):
        raise CheckpointError(f"{out} is there already: name another place, or remove it first")


def is_same_file(one: Path, other: Path) -> bool:
    """Whether two paths are one file, be it by a hard or a symbolic link."""
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def write_whole(path: Path, data: bytes) -> None:
    """Write a new file; raises OSError and leaves nothing behind if it cannot be written."""
    with _replacing(path) as (file, _):
        view = memoryview(data)
        while view:
            view = view[os.write(file, view) :]


def sync_folder(folder: Path) -> None:
    """Make names in it survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def failures_said(what: str) -> Iterator[None]:
    """Turn an OSError into a CheckpointError: `what` could not be done, and why."""
    try:
        yield
    except OSError as error:
        reason = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EFBIG: "the file is larger than may be written here",
            errno.EROFS: "the file system is read-only",
        }.get(error.errno or 0, (error.strerror or str(error)).lower())
        where = f" ({error.filename})" if error.filename else ""
        raise CheckpointError(f"{what}: {reason}{where}") from error


@contextmanager
def _replacing(path: Path) -> Iterator[tuple[int, Path]]:
    """A new file under another name, which gets `path`'s when it is whole and on disk, and is removed otherwise."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        try:
            yield descriptor, part
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise
