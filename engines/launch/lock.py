"""Locked files, by which processes know of each other: a lock ends with the last process that has it; does I/O."""

import os
import sys
from pathlib import Path

from engines.launch.launcher import LaunchError

if sys.platform != "win32":
    import fcntl


def opened(path: Path) -> int:
    """The file's descriptor, not locked yet. Raises LaunchError."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LaunchError(f"{path} cannot be written: {error.strerror or error}") from error


def locked(descriptor: int) -> bool:
    """Lock it for whoever has the descriptor; False where somebody else has it locked."""
    if sys.platform == "win32":
        raise LaunchError("engines are supervised on Unix systems only")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
