"""What the options of `prefixgate bench` mean; pure but for a look at where files are to go."""

import argparse
from dataclasses import replace
from pathlib import Path

from gateway.bench.plan import parse_isls, parse_shares
from gateway.bench.plot import SUFFIXES
from gateway.bench.target import Target, TargetError, parse_target, require_apart, with_told
from gateway.cli.usage import UsageError
from gateway.config import Config, load
from gateway.demo.published import published_rows


def targets_of(options: argparse.Namespace) -> list[Target]:
    """`--target`s, then a replica of each pool of `--config`, with what the other options tell of them."""
    try:
        targets = [parse_target(text) for text in options.target]
        if options.config is not None:
            targets += _of_config(load(options.config))
        require_apart([*(target.name for target in targets), *(published_rows() if options.simulated else ())])
        gpus = with_told(targets, options.gpus, "--gpus")
        models = with_told(targets, options.model, "--model")
    except TargetError as error:
        raise UsageError(str(error)) from error
    return [
        replace(
            target,
            gpus=positive(gpus[target.name], "--gpus") if target.name in gpus else target.gpus,
            model=models.get(target.name, target.model),
            api_key_env=target.api_key_env or options.api_key_env,
        )
        for target in targets
    ]


def isls_of(text: str) -> list[int]:
    """`--isl`."""
    try:
        return parse_isls(text)
    except ValueError as error:
        raise UsageError(f"--isl: {error}") from error


def shares_of(text: str) -> list[float]:
    """`--cached`."""
    try:
        return parse_shares(text)
    except ValueError as error:
        raise UsageError(f"--cached: {error}") from error


def positive(text: str | int, option: str) -> int:
    """A whole number above 0."""
    number = int(text) if isinstance(text, int) or (text.isascii() and text.isdigit()) else 0
    if number < 1:
        raise UsageError(f"{option}: `{text}` is not a whole number above 0")
    return number


def plot_of(path: Path | None) -> Path | None:
    """`--plot`, checked before anything runs."""
    if path is not None and path.suffix not in SUFFIXES:
        raise UsageError(f"--plot {path} must end in {' or '.join(SUFFIXES)}")
    return folder_exists(path, "--plot")


def folder_exists(path: Path | None, option: str) -> Path | None:
    """A file that is to be written, whose folder must be there."""
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"{option} {path}: there is no such folder")
    return path


def _of_config(config: Config) -> list[Target]:
    """The first listed replica of each pool."""
    return [
        Target(
            name=pool.name,
            url=pool.replicas[0].rstrip("/"),
            gpus=pool.gpus_per_replica,
            model=pool.model,
            api_key_env=pool.api_key_env,
        )
        for pool in config.pools
        if pool.replicas
    ]
