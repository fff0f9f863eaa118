"""`prefixgate demo`: a simulated fleet, several policies, one table; or an experiment on it; does I/O."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec
from rich.console import Console

from gateway.cli.experiment_tables import print_report
from gateway.cli.usage import Commands, UsageError, command
from gateway.demo import experiment
from gateway.demo.experiment import Found, alone_ms, run_contests
from gateway.demo.fleet import StartError
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
    add = parser.add_argument
    add("--oneshot", action="store_true", help="exit after the table")
    add("--json-file", type=Path, metavar="FILE", help="also write the table as JSON")
    add("--seed", type=int, default=1, help="seed of the workload (default 1)")
    add("--port", type=int, default=8080, help="port of the gateway that stays up (default 8080)")
    add("--experiment", action="store_true",
        help="instead: A/B experiments between simulated engines whose difference is known, and what their reports "
        "say of it; exit status 1 where that is not so")  # fmt: skip
    add("--requests", type=int, default=300, help="with --experiment: of each of them (default 300)")
    add("--speed", type=float, default=experiment.SPEED,
        help=f"with --experiment: how many times time is compressed (default {experiment.SPEED:g})")  # fmt: skip


def _run(options: argparse.Namespace) -> int:
    if not options.experiment:
        return asyncio.run(run_demo(options.seed, options.port, options.json_file, oneshot=options.oneshot))
    if options.requests < 1 or options.speed <= 0:
        raise UsageError("--requests and --speed must be above 0")
    console = Console(highlight=False, markup=False, soft_wrap=True)
    try:
        found = asyncio.run(run_contests(console, options.requests, options.speed, options.seed))
    except (StartError, httpx.HTTPError) as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1
    for one in found:
        print_report(one.report)
        console.print(_verdict(one, options.speed))
    if options.json_file is not None:
        options.json_file.write_bytes(_json(found))
    return 0 if all(one.holds for one in found) else 1


def _json(found: Sequence[Found]) -> bytes:
    reports = {one.contest.name: one.report for one in found}
    return msgspec.json.format(msgspec.json.encode(reports), indent=2) + b"\n"


def _verdict(one: Found, speed: float) -> str:
    """What was to be found, and whether it was."""
    contest = one.contest
    added = ", ".join(
        f"{name} {alone_ms(name):,.0f} ms alone and {ms:.0f} ms more with all else ({ms / speed:.1f} ms of the wall's)"
        for name, ms in one.added_ms.items()
    )
    failed = f"; {one.errors} requests failed" if one.errors else ""
    return (
        f"configured: {contest.configured:+.1%}, to be found {contest.expected}: "
        f"{'found' if one.holds else 'NOT FOUND'}{failed}. Simulated, time {speed:g}× compressed; of the medians "
        f"{added}.\n"
    )
