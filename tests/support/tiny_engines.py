"""Replicas whose program is a small script instead of an engine, and what becomes of their processes."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from engines.launch.launcher import LaunchSpec
from engines.launch.rules import Rules

PROGRAM = Path(__file__).with_name("tiny_program.py")

RULES = Rules(
    backoff_s=0.01, most_backoff_s=0.04, tries=3, steady_s=30, stop_s=5, log_bytes=1 << 20, log_keep=2
)  # fmt: skip

Spec = Callable[..., LaunchSpec]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def tiny_spec(tmp_path: Path, name: str = "p-0", does: str = "serve", **changes: Any) -> LaunchSpec:
    """A replica whose program does one of the things that the script can do, and notes its process ids."""
    program = (sys.executable, "-I", "-S", str(PROGRAM), does, str(tmp_path / "pids"))
    fields = {"model": "m", "host": "127.0.0.1", "port": free_port(), "event_ports": None, "program": program}
    return LaunchSpec(name=name, dialect="vllm", **{**fields, **changes})


def noted(tmp_path: Path) -> list[int]:
    """The process ids of all that the scripts have been, in order."""
    with contextlib.suppress(FileNotFoundError):
        return [int(line) for line in (tmp_path / "pids").read_text().splitlines()]
    return []


def alive(pid: int) -> bool:
    """Whether it runs; a process that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def same_group(pid: int, leader: int) -> bool:
    return os.getpgid(pid) == leader
