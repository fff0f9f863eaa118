"""Servers on a loop in a thread of their own, for tests of commands that block."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TypeVar

T = TypeVar("T")

LIMIT_S = 60.0


@contextmanager
def in_thread(served: AbstractAsyncContextManager[T]) -> Iterator[T]:
    """What the context gives, while it is open there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        given = asyncio.run_coroutine_threadsafe(served.__aenter__(), loop).result(LIMIT_S)
        try:
            yield given
        finally:
            asyncio.run_coroutine_threadsafe(served.__aexit__(None, None, None), loop).result(LIMIT_S)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LIMIT_S)
        loop.close()
