"""`prefixgate serve`: run the gateway, in one process or several; does I/O."""

import argparse
import asyncio
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.cli.usage import Commands, UsageError, add_fleet_options, command, config_of, source_of
from gateway.config import Config, ConfigSource
from gateway.serving.announcement import listening_line, notes
from gateway.serving.event_loop import new_event_loop
from gateway.serving.messages import say_on_stderr
from gateway.serving.server import RunningGateway, serve_until_signalled
from gateway.serving.supervision import ensure_supervisors
from gateway.serving.workers.supervisor import Supervisor


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "serve",
        _run,
        "run the gateway",
        "prefixgate serve --vllm http://10.0.0.1:8000 --vllm http://10.0.0.2:8000 --port 8080",
    )
    parser.description = (
        "Run the gateway. SIGHUP (or POST /api/config/reload on the admin port) reads the --config file again; "
        "SIGTERM lets it end what it has begun, for [server] drain_s at most."
    )
    add_fleet_options(parser)
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port for clients (default 8080; 0: any free one)")
    parser.add_argument("--admin-port", type=int, help="port of dashboard, admin API and metrics (default port + 1)")
    parser.add_argument("--policy", help="routing policy (default ttft)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes that share the ports (default 1)")


def _run(options: argparse.Namespace) -> int:
    server = {"host": options.host, "port": options.port, "admin_port": options.admin_port, "workers": options.workers}
    config = config_of(options, **server)
    if config.server.workers > 1 and not hasattr(socket, "SO_REUSEPORT"):
        raise UsageError("--workers must be 1 on this system: its processes cannot share a port")
    say_on_stderr(config.log.format)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_serve(config, source_of(options, **server)))
    except OSError as error:
        print(f"prefixgate: cannot listen on {config.server.host}: {error.strerror or error}", file=sys.stderr)
        return 1


async def _serve(config: Config, source: ConfigSource | None) -> int:
    """Until it is told to stop; the exit status."""
    if source is not None:  # engines that prefixgate runs load while it starts
        for sentence in await ensure_supervisors(config.pools, Path(source.path)):
            print(f"note: {sentence}", file=sys.stderr)
    if config.server.workers > 1:
        return await Supervisor(config, _say, source).run()

    def announce(run: RunningGateway) -> None:
        snapshot = run.gateway.snapshot()
        _say(notes(config.notices(), snapshot), listening_line(run.url, run.admin_url, snapshot.policy))

    await serve_until_signalled(config, announce, source)
    return 0


def _say(said: Sequence[str], line: str) -> None:
    for note in said:
        print(note, file=sys.stderr)
    print(line, flush=True)
