"""One worker's process, `python -m gateway.serving.workers.worker FD`: serves until it is told to stop; does I/O.

FD is its end of the line to the parent. When the parent is gone, so is the reason to go on.
"""

import asyncio
import signal
import socket
import sys
from functools import partial
from pathlib import Path

from gateway.config import ConfigError
from gateway.serving.announcement import notes
from gateway.serving.event_loop import new_event_loop
from gateway.serving.membership.plan import Plan
from gateway.serving.messages import say_on_stderr
from gateway.serving.server import running
from gateway.serving.sharing.embedded import EmbeddedChannel
from gateway.serving.whole import own_answer
from gateway.serving.workers.frames import Assignment, Line, Ready, Unusable, line_over
from gateway.serving.workers.siblings import Siblings


async def _work(end: socket.socket) -> int:
    line = await line_over(end)
    assignment = await line.receive()
    if not isinstance(assignment, Assignment):
        return 0  # the parent is gone
    say_on_stderr(assignment.config.log.format, f"worker-{assignment.number}")
    try:
        await _serve(assignment, line)
    except ConfigError as error:
        line.send(Unusable(str(error), 2))
    except OSError as error:
        line.send(Unusable(f"cannot listen on {assignment.config.server.host}: {error.strerror or error}", 1))
    else:
        return 0
    await line.receive()  # so that the parent has heard it
    return 1


async def _serve(assignment: Assignment, line: Line) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    siblings = Siblings(line, assignment.number, assignment.started_at)
    sockets = [socket.socket(fileno=number) for number in assignment.listeners]
    channel = None if assignment.sharing is None else EmbeddedChannel(socket.socket(fileno=assignment.sharing))
    config, plan = assignment.config, Plan(assignment.config, assignment.members, assignment.trials)
    async with running(
        config,
        sockets=sockets,
        siblings=siblings,
        channel=channel,
        plan=plan,
        source=assignment.source,
        store=Path(assignment.store),
    ) as run:
        gateway = run.gateway
        listening = asyncio.create_task(siblings.listen(partial(own_answer, gateway), run.follow, run.reload))
        listening.add_done_callback(lambda _: stop.set())
        line.send(Ready(tuple(notes(assignment.config.notices(), gateway.snapshot()))))
        await stop.wait()
        if listening.done():
            listening.result()  # a bug of ours must be seen


def main() -> None:
    """Run it."""
    end = socket.socket(fileno=int(sys.argv[1]))
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        status = runner.run(_work(end))
    sys.exit(status)


if __name__ == "__main__":
    main()
