"""Keeps one engine: a process between a supervisor and the engine, which leaves nothing of it behind; does I/O.

usage: keeper.py STOP_S PROGRAM [ARGUMENT …]

It runs for as long as the engine. When its standard input ends, because the supervisor says so or is no more, it ends
the engine's whole process group: SIGTERM, and SIGKILL after STOP_S seconds. When the engine ends by itself, what it
leaves behind is killed at once, as it would keep GPU memory and ports. On standard output it says `pid N`, then `ended
STATUS`, or only `failed REASON`; what the engine prints goes to standard error. Imports nothing but the standard
library, and is run as a file: `python -I -S`.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_LOOK_S = 0.02


def main(stop_s: float, command: list[str]) -> None:
    """Run the engine to its end, and see all of its descendants end."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    prctl = _prctl()
    prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the engine become ours, so that none of them is lost
    keeper = os.getpid()

    def die_with_keeper() -> None:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)

    try:
        engine = subprocess.Popen(  # noqa: S603 - the command is what this is for
            command,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            start_new_session=True,
            preexec_fn=die_with_keeper,
        )
    except OSError as error:
        _say(f"failed {error.strerror}: {error.filename or command[0]}")
        return
    _say(f"pid {engine.pid}")
    told = threading.Event()
    threading.Thread(target=_end_when_left, args=(engine.pid, stop_s, told), daemon=True).start()
    os.waitid(os.P_PID, engine.pid, os.WEXITED | os.WNOWAIT)  # its number stays taken while its group is signalled
    if not told.is_set():
        _signal_group(engine.pid, signal.SIGKILL)
    status = engine.wait()
    _see_the_rest_end(engine.pid, time.monotonic() + (stop_s if told.is_set() else 0))
    _say(f"ended {status}")


def _end_when_left(group: int, stop_s: float, told: threading.Event) -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock this thread would hold when the process ends
        pass
    told.set()
    _signal_group(group, signal.SIGTERM)
    time.sleep(stop_s)
    _signal_group(group, signal.SIGKILL)


def _see_the_rest_end(group: int, deadline: float) -> None:
    """Reap all descendants; those that live at the deadline are killed, whatever their group."""
    while _reap():
        if time.monotonic() >= deadline:
            _signal_group(group, signal.SIGKILL)
            for child in _children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        time.sleep(_LOOK_S)


def _reap() -> bool:
    """Whether any child is left."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
        return True
    return False


def _children() -> list[int]:
    try:
        return [int(word) for word in Path("/proc/thread-self/children").read_text(encoding="ascii").split()]
    except OSError:
        return []  # not Linux: there are no orphans to be ours


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _prctl() -> Callable[[int, int], object]:
    if not sys.platform.startswith("linux"):
        return lambda *_: None
    return ctypes.CDLL(None).prctl


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # the supervisor may be no more
        os.write(1, f"{line}\n".encode())


if __name__ == "__main__":
    main(float(sys.argv[1]), sys.argv[2:])
