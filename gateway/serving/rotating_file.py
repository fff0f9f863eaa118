"""A file that is appended to and, once it is full, renamed out of the way; does I/O, blocking."""

import os
from contextlib import suppress
from pathlib import Path


class RotatingFile:
    """The old ones are called path.1 (the latest), path.2 and so on, `keep` of them at most.

    It is opened by the first `append`, and again by the one after a failure; each time, and after each rotation,
    `head` is written first. What was half written, by a failure or by a process that was killed, never becomes part
    of a line that is written after it.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        self.path = path
        self.head = b""
        """Set before the first `append`."""
        self._max_bytes = max_bytes
        self._keep = keep
        self._file: int | None = None
        self._size = 0

    @property
    def is_open(self) -> bool:
        """Whether the head has been written and the next lines simply follow."""
        return self._file is not None

    def append(self, lines: bytes) -> None:
        """Write whole lines. Raises OSError; nothing of them is then kept, as far as that can be helped."""
        if self._file is None:
            self._file = self._open()
        if self._size + len(lines) > self._max_bytes and self._size > len(self.head):
            self._rotate()
            self._file = self._open()
        self._write(self._file, lines)

    def close(self) -> None:
        """Close it; a later `append` opens it again."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _open(self) -> int:
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.fchmod(file, 0o600)
            self._size = os.fstat(file).st_size
            torn = self._size > 0 and os.pread(file, 1, self._size - 1) != b"\n"
            self._write(file, b"\n" + self.head if torn else self.head)
        except OSError:
            with suppress(OSError):
                os.close(file)
            raise
        return file

    def _write(self, file: int, lines: bytes) -> None:
        rest = memoryview(lines)
        try:
            while rest:
                rest = rest[os.write(file, rest) :]
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, self._size)
            if self._file is not None:
                with suppress(OSError):
                    self.close()
            raise
        self._size += len(lines)

    def _rotate(self) -> None:
        self.close()
        for number in range(self._keep - 1, 0, -1):
            with suppress(FileNotFoundError):
                self._old(number).replace(self._old(number + 1))
        if self._keep:
            self.path.replace(self._old(1))
        else:
            self.path.unlink()

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
