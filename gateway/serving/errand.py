"""An errand: one request of our own at one replica, tried once, whose answer is read to its end; does I/O.

It is routed and booked as any other, so that predictions stay right.
"""

from collections.abc import Callable

from gateway.routing.decision import Decision
from gateway.routing.facts import Fact, Outcome
from gateway.serving.attempt import Attempt
from gateway.serving.attempting import Sending, Try
from gateway.serving.engine_client import EngineGoneError
from gateway.serving.failure import AttemptLostError, lost, unusable
from gateway.serving.gateway import Gateway
from gateway.wire.stream import GarbledError, StreamWatcher


async def run_errand(
    gateway: Gateway,
    decision: Decision,
    sending: Sending,
    observe: Callable[[Fact], None],
    take: Callable[[bytes], None],
) -> None:
    """Send it where it was decided, and `take` the answer's bytes as they come. Raises AttemptLostError.

    The ticket is closed whatever happens. An engine whose answer is not wanted any more is told so.
    """
    attempt = Attempt(decision, observe, gateway.clock)
    attempt.dispatched(0.0, 0.0, 0.0)
    running = Try(gateway, sending, attempt)
    unwanted = True
    try:
        await running.begin()
        sending.body = b""  # is long, and not sent again
        take(running.first)
        if running.reply is not None:
            attempt.finish(Outcome.COMPLETED, running.reply.usage, timing=running.reply.timing)
        else:
            await _read(running, take)
        unwanted = False
    except AttemptLostError as failure:
        attempt.finish(failure.outcome)
        raise
    finally:
        attempt.finish(Outcome.CLIENT_GONE)  # reached with the attempt open only by cancellation or a bug of ours
        running.close(unwanted=unwanted)


async def _read(running: Try, take: Callable[[bytes], None]) -> None:
    """The rest of a stream. Raises AttemptLostError."""
    watcher, attempt = running.watcher, running.attempt
    assert watcher is not None  # noqa: S101 - what is no plain answer is a stream
    told = False

    def look() -> None:
        nonlocal told
        if watcher.first_token and not told:
            told = True
            attempt.first_token()

    def pipe(chunk: bytes) -> None:
        out = watcher.feed(chunk)
        look()
        take(out)

    look()
    try:
        await running.response.pipe(pipe)
    except EngineGoneError as error:
        if not watcher.done:
            raise lost(error) from error
    except GarbledError as error:
        raise unusable(str(error)) from error
    take(watcher.finish())
    _refuse_bad_end(running, watcher)
    attempt.finish(Outcome.COMPLETED, watcher.usage, watcher.content_frames, watcher.timing)


def _refuse_bad_end(running: Try, watcher: StreamWatcher) -> None:
    if watcher.error is not None:
        raise AttemptLostError(running.backend.dialect.read_error(200, watcher.error), watcher.error)
    if not watcher.done:
        raise unusable("the engine ended the stream before it was complete")
