"""`prefixgate demo`: a simulated fleet, several policies, one table; does I/O."""

import argparse
import asyncio
from pathlib import Path

from gateway.cli.usage import Commands, command
from gateway.demo.show import run_demo


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "demo",
        _run,
        "compare routing policies on a simulated fleet over real sockets, then leave gateway and dashboard up",
        "prefixgate demo --oneshot --json-file demo.json",
    )
    parser.add_argument("--oneshot", action="store_true", help="exit after the table")
    parser.add_argument("--json-file", type=Path, metavar="FILE", help="also write the table as JSON")
    parser.add_argument("--seed", type=int, default=1, help="seed of the workload (default 1)")
    parser.add_argument("--port", type=int, default=8080, help="port of the gateway that stays up (default 8080)")


def _run(options: argparse.Namespace) -> int:
    return asyncio.run(run_demo(options.seed, options.port, options.json_file, oneshot=options.oneshot))
