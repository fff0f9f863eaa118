"""`prefixgate shadow`: what came of the copies that a running gateway sends; does I/O."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Final

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table

from gateway.cli.admin_client import AdminClient, AdminError
from gateway.cli.usage import Commands, UsageError, command
from gateway.serving.shadowing.tally import Fate, Pair, ShadowFigures, ShadowSummary

DEFAULT_URL: Final = "http://127.0.0.1:8081"
ALIKE: Final = 0.1
"""Pairs of which the cached parts differ by less than this share of the prompt show the engines, not their caches."""


class Told(msgspec.Struct, frozen=True):
    """One shadow, as `--json` prints it. The sentences compare times to first token: of all pairs, and of those with
    alike cached parts.
    """

    shadow: ShadowSummary
    ttft: str
    ttft_alike: str


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "shadow",
        _run,
        "what came of the copies that [[shadows]] of a running gateway send to another pool",
        "prefixgate shadow --url http://127.0.0.1:8081",
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the gateway's admin port (default {DEFAULT_URL})")
    parser.add_argument("--token-env", metavar="NAME", help="environment variable with the admin token")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(options: argparse.Namespace) -> int:
    token = os.environ.get(options.token_env, "").strip() if options.token_env else None
    if token == "":
        raise UsageError(f"{options.token_env} is not set, or empty")
    try:
        said = AdminClient(options.url.rstrip("/"), token).get("/api/shadows")
        figures = msgspec.json.decode(said, type=tuple[ShadowFigures, ...])
    except (AdminError, msgspec.MsgspecError) as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1
    told = [_told(one) for one in figures]
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())
    elif told:
        _print(told)
    else:
        print("there are no [[shadows]]")
    return 0


def _told(figures: ShadowFigures) -> Told:
    alike = [one for one in figures.pairs if _is_alike(one)]
    return Told(figures.summary(), _compared(figures.pairs), _compared(alike))


def _compared(pairs: Sequence[Pair]) -> str:
    from gateway.experiments.paired import paired_ratio  # scipy takes a second to import

    ratio = paired_ratio([one.own_ttft_s for one in pairs], [one.copy_ttft_s for one in pairs])
    return f"not enough pairs: {len(pairs)}" if ratio is None else ratio.sentence


def _is_alike(pair: Pair) -> bool:
    if pair.prompt_tokens is None or pair.own_cached is None or pair.copy_cached is None:
        return False
    return abs(pair.own_cached - pair.copy_cached) <= ALIKE * pair.prompt_tokens


def _print(told: Sequence[Told]) -> None:
    console = Console(highlight=False, markup=False)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("shadow", "copies", "TTFT, its copy's", "hit rate", "same text"):
        table.add_column(column, justify="left" if column in ("shadow", "copies") else "right")
    for one in (row.shadow for row in told):
        dropped = sum(count for fate, count in one.counts.items() if fate.startswith("dropped"))
        table.add_row(
            f"{one.name} to {one.to}",
            f"{one.counts[Fate.MIRRORED]} sent, {one.counts[Fate.FAILED]} failed, {dropped} dropped",
            f"{_ms(one.own_ttft_s)}, {_ms(one.copy_ttft_s)}",
            f"{_share(one.own_hit_rate)}, {_share(one.copy_hit_rate)}",
            f"{one.same}/{one.same + one.differed}" if one.compare == "text" else "-",
        )
    console.print(table)
    for row in told:
        console.print(f"{row.shadow.name}: TTFT of copies: {row.ttft}")
        console.print(f"{row.shadow.name}: where alike parts were cached: {row.ttft_alike}")


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.0f} ms"


def _share(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"
