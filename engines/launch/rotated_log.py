"""What an engine prints, in a file that is renamed out of the way once it is full; does I/O, blocking."""

import contextlib
import os
from collections import deque
from pathlib import Path
from typing import Final

_REMEMBERED: Final = 12
_LONGEST: Final = 400
_TAIL_BYTES: Final = 1 << 18


class RotatedLog:
    """Old files are called path.1 (the latest) and so on, `keep` of them. What cannot be written is lost: an engine
    is worth more than its log.
    """

    def __init__(self, path: Path, *, max_bytes: int, keep: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._size: int | None = None
        self._last: deque[str] = deque(maxlen=_REMEMBERED)
        self._begun = b""

    def write(self, output: bytes) -> None:
        """Append some output, which need not end with a line."""
        lines = (self._begun + output).split(b"\n")
        self._begun = lines.pop()[-_LONGEST:]
        self._last.extend(text for line in lines if (text := line.decode(errors="replace").strip()[:_LONGEST]))
        with contextlib.suppress(OSError):
            self._append(output)

    def last_words(self) -> str:
        """The last line that the engine has printed since `forget`, "" for none."""
        begun = self._begun.decode(errors="replace").strip()
        return begun or (self._last[-1] if self._last else "")

    def forget(self) -> None:
        """What follows is another process's."""
        self._last.clear()
        self._begun = b""

    def tail(self, lines: int) -> list[str]:
        """The last lines of the file, also of earlier processes."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return file.read().decode(errors="replace").splitlines()[-lines:]
        except FileNotFoundError:
            return []

    def _append(self, output: bytes) -> None:
        if self._size is None:
            self._size = self.path.stat().st_size if self.path.exists() else 0
        if self._size and self._size + len(output) > self._max_bytes:
            for number in range(self._keep - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    self._old(number).replace(self._old(number + 1))
            self.path.replace(self._old(1)) if self._keep else self.path.unlink()
            self._size = 0
        file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._size += os.write(file, output)
        finally:
            os.close(file)

    def _old(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")
