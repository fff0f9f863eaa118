"""What commands share: how a command is declared, and how a configuration is found; does I/O."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.config import Config, ConfigError, ConfigSource, build, load
from gateway.config.source import overridden

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction[argparse.ArgumentParser]
else:
    Commands = Any


class UsageError(Exception):
    """The command cannot be run as it was called; the message is one sentence."""


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
) -> argparse.ArgumentParser:
    """Declare a command with its one-sentence summary and an example."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog=f"example: {example}",
    )
    parser.set_defaults(run=run)
    return parser


def add_fleet_options(parser: argparse.ArgumentParser) -> None:
    """`--config`, or engines named on the command line."""
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML configuration")
    parser.add_argument("--vllm", action="append", default=[], metavar="URL", help="a vLLM replica (repeatable)")
    parser.add_argument("--sglang", action="append", default=[], metavar="URL", help="an SGLang replica (repeatable)")


def config_of(options: argparse.Namespace, **server: Any) -> Config:
    """The configuration of the options; `server` overrides [server] keys that are not None.

    Raises ConfigError or UsageError.
    """
    if options.config is None and not options.vllm and not options.sglang:
        raise UsageError("say which engines: --config FILE, or --vllm URL and --sglang URL")
    if options.config is not None and (options.vllm or options.sglang):
        raise UsageError("give either --config or --vllm/--sglang, not both")
    if options.config is not None:
        config = load(options.config)
    else:
        named = (("vllm", options.vllm), ("sglang", options.sglang))
        config = build({"pools": [{"name": name, "engine": name, "replicas": urls} for name, urls in named if urls]})
    try:
        return overridden(config, _given(server), getattr(options, "policy", None))
    except ConfigError as error:
        raise UsageError(str(error)) from error


def source_of(options: argparse.Namespace, **server: Any) -> ConfigSource | None:
    """Where `config_of` found it; None where it was all on the command line."""
    if options.config is None:
        return None
    return ConfigSource(str(options.config.resolve()), _given(server), getattr(options, "policy", None))


def _given(server: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in server.items() if value is not None}
