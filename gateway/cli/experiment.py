"""`prefixgate experiment …`: list, show, start, stop and report the experiments of a running gateway; does I/O."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any, Final

import msgspec

from gateway.cli.admin_client import AdminClient, AdminError
from gateway.cli.experiment_tables import print_detail, print_list, print_report
from gateway.cli.top import DEFAULT_URL
from gateway.cli.usage import Commands, UsageError, command
from gateway.config import load
from gateway.experiments.report import Report
from gateway.serving.experiments.routes import Detail
from gateway.serving.experiments.running import ExperimentView

EXAMPLE: Final = "prefixgate experiment report w4a8-vs-fp4 --html report.html"


def add_parser(commands: Commands) -> None:
    """Declare the command and its verbs."""
    parser = commands.add_parser(
        "experiment",
        help="list, start, stop and report A/B experiments of a running gateway",
        description="A/B experiments of a running gateway, by its admin API.",
        epilog=f"example: {EXAMPLE}",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _verb(verbs, "list", _list, "list the experiments", "prefixgate experiment list --json")
    for name, run, summary in (
        ("show", _show, "show one experiment: its arms, how it stands, and what has happened"),
        ("start", _start, "start an experiment, counting anew"),
        ("stop", _stop, "stop an experiment"),
    ):
        one = _verb(verbs, name, run, summary, f"prefixgate experiment {name} w4a8-vs-fp4")
        one.add_argument("name", metavar="NAME", help="the experiment's name")
    report = _verb(verbs, "report", _report, "report what was observed and what may be said of it", EXAMPLE)
    report.description = (
        "Report what was observed of an experiment and what may be said of it. Exit status 1 where the units did not "
        "fall to the arms as their weights say, or a guardrail stopped an arm. Several --url (or --store) of gateways "
        "that run the same experiment are reported together."
    )
    report.add_argument("name", metavar="NAME", help="the experiment's name")
    report.add_argument("--html", type=Path, metavar="FILE", help="also write a page with plots")
    report.add_argument(
        "--store", type=Path, action="append", default=[], metavar="FILE",
        help="read this experiments.sqlite of [state] path instead of asking a gateway (repeatable)",
    )  # fmt: skip


def _verb(verbs: Commands, name: str, run: Any, summary: str, example: str) -> argparse.ArgumentParser:
    parser = command(verbs, name, run, summary, example)
    parser.add_argument(
        "--url", action="append", default=[], metavar="URL", help=f"admin port (default: --config's, or {DEFAULT_URL})"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the gateway's configuration, for its admin port")
    parser.add_argument(
        "--token-env",
        metavar="NAME",
        help="environment variable with the admin token (default: --config's)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _list(options: argparse.Namespace) -> int:
    return _asked(options, lambda client: _listed(client.get("/api/experiments"), options))


def _listed(said: bytes, options: argparse.Namespace) -> int:
    if options.json:
        _print_json(said)
    else:
        print_list(msgspec.json.decode(said, type=list[ExperimentView]))
    return 0


def _show(options: argparse.Namespace) -> int:
    return _asked(options, lambda client: _detailed(client.get(f"/api/experiments/{options.name}"), options))


def _start(options: argparse.Namespace) -> int:
    path = f"/api/experiments/{options.name}/start"
    return _asked(options, lambda client: _detailed(client.post(path), options))


def _stop(options: argparse.Namespace) -> int:
    path = f"/api/experiments/{options.name}/stop"
    return _asked(options, lambda client: _detailed(client.post(path), options))


def _detailed(said: bytes, options: argparse.Namespace) -> int:
    if options.json:
        _print_json(said)
    else:
        print_detail(msgspec.json.decode(said, type=Detail))
    return 0


def _report(options: argparse.Namespace) -> int:
    from gateway.cli.experiment_report import made_here

    urls = _urls(options)
    if options.store or len(urls) > 1:
        return _asked(options, lambda client: _shown(*made_here(options, urls, client.token), options))
    path = f"/api/experiments/{options.name}/report"

    def ask(client: AdminClient) -> int:
        page = client.get(f"{path}?format=html") if options.html is not None else b""
        return _shown(client.get(path), page, options)

    return _asked(options, ask)


def _shown(said: bytes, page: bytes, options: argparse.Namespace) -> int:
    report = msgspec.json.decode(said, type=Report)
    if options.html is not None:
        try:
            options.html.write_bytes(page)
        except OSError as error:
            raise UsageError(f"{options.html}: cannot be written: {error.strerror}") from error
    if options.json:
        _print_json(said)
    else:
        print_report(report)
        if options.html is not None:
            print(f"the page is in {options.html}")
    return 0 if report.sample_ratio.ok and not report.breaches else 1


def _asked(options: argparse.Namespace, ask: Any) -> int:
    """What asking comes to; 1 where the gateway does not answer, or has nothing to say."""
    client = AdminClient(_urls(options)[0], _token(options))
    try:
        status: int = ask(client)
    except AdminError as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1
    return status


def _urls(options: argparse.Namespace) -> list[str]:
    if options.url:
        return [url.rstrip("/") for url in options.url]
    if options.config is None:
        return [DEFAULT_URL]
    server = load(options.config).server
    scheme = "http" if server.tls_cert is None else "https"
    return [f"{scheme}://{server.host}:{server.admin}"]


def _token(options: argparse.Namespace) -> str | None:
    name = options.token_env
    if name is None and options.config is not None:
        name = load(options.config).server.admin_token_env
    if name is None:
        return None
    token = os.environ.get(name, "").strip()
    if not token:
        raise UsageError(f"{name} is not set, or empty")
    return token


def _print_json(said: bytes) -> None:
    print(msgspec.json.format(said, indent=2).decode())
