"""The command line: one module per command; does I/O.

Exit status: 0 fine, 1 a problem was found, 2 bad usage. Errors are one sentence on stderr.
"""

import argparse
import sys
from collections.abc import Sequence

from gateway import __version__
from gateway.cli import (
    bench,
    check,
    checkpoint,
    demo,
    engine,
    experiment,
    explain,
    key,
    monitoring,
    probe,
    serve,
    shadow,
    simulate,
    top,
)
from gateway.cli.usage import UsageError
from gateway.config import ConfigError

COMMANDS = (
    serve,
    check,
    explain,
    simulate,
    bench,
    experiment,
    probe,
    shadow,
    engine,
    checkpoint,
    key,
    monitoring,
    top,
    demo,
)


def run(arguments: Sequence[str]) -> int:
    """Run one command; the exit status."""
    parser = argparse.ArgumentParser(
        prog="prefixgate",
        description="An OpenAI-compatible gateway that routes each request to the engine replica where its prefix "
        "is cached and the first token comes soonest.",
        epilog="example: prefixgate serve --vllm http://127.0.0.1:8000 --sglang http://127.0.0.1:30000",
    )
    parser.add_argument("--version", action="version", version=f"prefixgate {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        module.add_parser(commands)
    options = parser.parse_args(arguments)
    try:
        status: int = options.run(options)
    except (UsageError, ConfigError) as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 0
    return status
