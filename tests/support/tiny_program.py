"""A program that stands in for an engine under supervision: tiny_program.py DOES NOTES [flags]

DOES: serve (until SIGTERM), crash (with words), stubborn (heeds no SIGTERM), family (a child of its group, and one
with a session of its own), chatty (prints without end), quits (the first time; then it serves). It appends the process
ids of all that it is to NOTES.
"""

import os
import signal
import sys
import time


def note(path: str, pid: int) -> None:
    with open(path, "a") as notes:  # noqa: PTH123 - nothing to import
        notes.write(f"{pid}\n")


def say(line: str) -> None:
    os.write(2, f"{line}\n".encode())


def sleep_for_ever() -> None:
    while True:
        time.sleep(60)


def child(notes: str, *, own_session: bool) -> None:
    if os.fork() == 0:
        if own_session:
            os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        note(notes, os.getpid())
        sleep_for_ever()


def main(does: str, notes: str) -> None:
    lives = len(open(notes).readlines()) if os.path.exists(notes) else 0  # noqa: PTH110, PTH123, SIM115
    if does == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if does == "family":
        child(notes, own_session=False)
        child(notes, own_session=True)
    note(notes, os.getpid())
    say("I load the weights")
    if does == "crash" or (does == "quits" and lives == 0):
        say("CUDA out of memory")
        sys.exit(3)
    while does == "chatty":
        say("x" * 1000)
    sleep_for_ever()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
