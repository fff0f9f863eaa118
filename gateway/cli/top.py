"""`prefixgate top`: a live view of a gateway in the terminal; does I/O."""

import argparse
import os
import sys

from rich.console import Console
from rich.live import Live
from rich.text import Text

from gateway.cli.usage import Commands, UsageError, command
from gateway.terminal.figures import Watched
from gateway.terminal.screen import screen
from gateway.terminal.watch import Lost, WatchError, watch

DEFAULT_URL = "http://127.0.0.1:8081"


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    parser = command(
        commands,
        "top",
        _run,
        "a live view of a running gateway in the terminal (Ctrl-C ends it)",
        "prefixgate top --url http://127.0.0.1:8081",
    )
    parser.add_argument("--url", default=DEFAULT_URL, help=f"the gateway's admin port (default {DEFAULT_URL})")
    parser.add_argument("--token-env", metavar="NAME", help="environment variable with the admin token")
    parser.add_argument("--frames", type=int, metavar="N", help="end after so many views; 1 prints one and ends")


def _run(options: argparse.Namespace) -> int:
    token = os.environ.get(options.token_env, "") if options.token_env else None
    if token == "":
        raise UsageError(f"{options.token_env} is not set, or empty")
    if options.frames is not None and options.frames < 1:
        raise UsageError("--frames must be at least 1")
    console = Console()
    try:
        return show(console, options.url.rstrip("/"), token, options.frames)
    except WatchError as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1


def show(console: Console, url: str, token: str | None, frames: int | None) -> int:
    """Views until there were enough of them; 1 if the gateway is not there and somebody wants to know."""
    watched = Watched()
    shown = 0
    with Live(console=console, screen=frames is None and console.is_terminal, auto_refresh=False) as live:
        for view in watch(url, token):
            if isinstance(view, Lost):
                if frames is not None:
                    raise WatchError(view.reason)
                live.update(Text(f"{view.reason}; trying again …", style="bold red"), refresh=True)
                continue
            watched.add(view.snapshot)
            live.update(screen(view.gateway, watched, url, console.width), refresh=True)
            shown += 1
            if shown == frames:
                break
    return 0
