"""Waiting for what other processes do soon by themselves."""

import time
from collections.abc import Callable

LIMIT_S = 60.0
"""On a slow machine too."""


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
