"""`prefixgate serve`: run the gateway; does I/O."""

import argparse
import asyncio
import logging
import sys

from gateway.cli.usage import Commands, UsageError, add_fleet_options, command, config_of
from gateway.config import Config
from gateway.serving.server import RunningGateway, serve_until_signalled

if sys.platform == "win32":
    from asyncio import new_event_loop
else:
    from uvloop import new_event_loop


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "serve",
        _run,
        "run the gateway",
        "prefixgate serve --vllm http://10.0.0.1:8000 --vllm http://10.0.0.2:8000 --port 8080",
    )
    add_fleet_options(parser)
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port for clients (default 8080; 0: any free one)")
    parser.add_argument("--admin-port", type=int, help="port of dashboard, admin API and metrics (default port + 1)")
    parser.add_argument("--policy", help="routing policy (default ttft)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes; this version runs 1")


def _run(options: argparse.Namespace) -> int:
    if options.workers != 1:
        raise UsageError("--workers must be 1: several processes that share what they learn are not built yet")
    config = config_of(options, host=options.host, port=options.port, admin_port=options.admin_port)
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING)
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(serve_until_signalled(config, lambda run: _announce(run, config)))
    except OSError as error:
        print(f"prefixgate: cannot listen on {config.server.host}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def _announce(run: RunningGateway, config: Config) -> None:
    for notice in config.notices():
        print(f"note: {notice}", file=sys.stderr)
    snapshot = run.gateway.snapshot()
    for replica in snapshot.replicas:
        state = replica.state if replica.state == "up" else f"{replica.state}: {replica.reason}"
        print(f"  {replica.name}  {replica.url}  {state}", file=sys.stderr)
    print(f"prefixgate listens on {run.url}/v1 (dashboard {run.admin_url}/, policy {snapshot.policy})", flush=True)
