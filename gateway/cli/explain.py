"""`prefixgate explain`: the candidate table for one request; does I/O."""

import argparse
import asyncio
import sys
from pathlib import Path

import httpx
import msgspec
from rich.console import Console
from rich.table import Table

from gateway.cli.usage import Commands, UsageError, add_fleet_options, command, config_of
from gateway.config import Config
from gateway.errors import GatewayError, bad_request
from gateway.serving.explanation import Explanation, explain
from gateway.serving.polling import looked_once


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "explain",
        _run,
        "show where one request would go now and why: predicted cached tokens and each cost term in ms",
        "prefixgate explain --config gateway.toml body.json",
    )
    add_fleet_options(parser)
    parser.add_argument("body", type=Path, metavar="BODY.json", help="a request body")
    parser.add_argument("--endpoint", default="/v1/chat/completions", help="where the body would be posted")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def _run(options: argparse.Namespace) -> int:
    config = config_of(options)
    try:
        body = options.body.read_bytes()
    except OSError as error:
        raise UsageError(f"{options.body}: cannot be read: {error.strerror}") from error
    try:
        explanation, source = asyncio.run(_explain(config, options.endpoint, body))
    except GatewayError as error:
        print(f"prefixgate: {error.message}", file=sys.stderr)
        return 1
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(explanation), indent=2).decode())
    else:
        _print(explanation, source)
    return 0


async def _explain(config: Config, endpoint: str, body: bytes) -> tuple[Explanation, str]:
    """Ask the running gateway, which knows the caches; without one, the replicas as they are now."""
    url = f"http://{config.server.host}:{config.server.admin}/api/explain"
    try:
        async with httpx.AsyncClient(timeout=10, trust_env=False) as client:
            answer = await client.post(url, params={"endpoint": endpoint}, content=body)
    except httpx.HTTPError:
        return await _explain_cold(config, endpoint, body), "no gateway runs there: what a new one would do"
    if answer.status_code != 200:
        raise _refusal(answer)
    return msgspec.json.decode(answer.content, type=Explanation), f"by the gateway at {url}"


async def _explain_cold(config: Config, endpoint: str, body: bytes) -> Explanation:
    async with looked_once(config) as gateway:
        return await explain(gateway, endpoint, body)


def _refusal(answer: httpx.Response) -> GatewayError:
    try:
        message = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"{answer.url} answered {answer.status_code}; is it a prefixgate admin port?"
    return bad_request(message)


def _print(explanation: Explanation, source: str) -> None:
    console = Console()
    names = [term.name for term in explanation.candidates[0].terms]
    table = Table(title=f"candidates for model {explanation.model} ({source})")
    columns = ("replica", "cached / prompt tokens", "confirmed", "counted in", "in flight")
    for column in (*columns, *(f"{name} ms" for name in names), "cost ms", ""):
        table.add_column(column, justify="left" if column in ("replica", "") else "right")
    for row in explanation.candidates:
        table.add_row(
            row.replica,
            f"{row.cached_tokens:,} / {row.prompt_tokens:,}",
            f"{row.confirmed_tokens:,}",
            row.counted_in,
            str(row.inflight),
            *(f"{term.ms:.1f}" for term in row.terms),
            f"{row.cost_ms:.1f}",
            "chosen" if row.chosen else "",
        )
    console.print(table)
    console.print(explanation.why, markup=False, highlight=False, soft_wrap=True)
