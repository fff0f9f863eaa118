"""`prefixgate monitoring …`: what Grafana and Prometheus watch the gateway with; prints, or writes a file."""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from gateway.cli.usage import Commands, UsageError, command
from gateway.monitoring.grafana import dashboard
from gateway.monitoring.rules import rules, runbook

EXAMPLE = "prefixgate monitoring alerts --out alerts.yaml"


def add_parser(commands: Commands) -> None:
    """Declare the command and its verbs."""
    parser = commands.add_parser(
        "monitoring",
        help="Grafana dashboard, Prometheus alerts, runbook",
        description="What other programs watch the gateway with, made from its own metrics.",
        epilog=f"example: {EXAMPLE}",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add(verbs, "grafana", dashboard, "print the Grafana dashboard (JSON model)", "prefixgate.json")
    _add(verbs, "alerts", rules, "print the Prometheus alert rules (YAML)", "alerts.yaml")
    _add(verbs, "runbook", runbook, "print what each alert means and what to do (Markdown)", "runbook.md")


def _add(verbs: Commands, name: str, make: Callable[[], str], summary: str, file: str) -> None:
    example = f"prefixgate monitoring {name} --out {file}"
    parser = command(verbs, name, partial(_run, make), summary, example)
    parser.add_argument("--out", type=Path, metavar="FILE", help="write it there instead")


def _run(make: Callable[[], str], options: argparse.Namespace) -> int:
    if options.out is None:
        sys.stdout.write(make())
        return 0
    try:
        options.out.write_text(make(), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{options.out}: cannot be written: {error.strerror}") from error
    return 0
