"""`prefixgate checkpoint …`: a W4A16 checkpoint made W4A8, laid out, and held against its base; does I/O."""

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.table import Table

from engines.checkpoint.conversion import converted, reversed_to_base
from engines.checkpoint.materialize import Laid, lay_out, planned
from engines.checkpoint.recipe import config_bytes, write_recipe
from engines.checkpoint.refusal import CheckpointError
from engines.checkpoint.validation import validated
from engines.checkpoint.verify import Verification, bytes_to_read, verified
from engines.checkpoint.writing import Advance, Copying, HardLinking
from gateway import __version__
from gateway.cli.usage import Commands, UsageError, command

CONVERT: Final = "prefixgate checkpoint convert dsv4-w4a16 dsv4-w4a8-config --tensor-parallel 2"
MATERIALIZE: Final = "prefixgate checkpoint materialize dsv4-w4a16 dsv4-w4a8-config dsv4-w4a8"
VERIFY: Final = "prefixgate checkpoint verify dsv4-w4a16 dsv4-w4a8"


def add_parser(commands: Commands) -> None:
    """Declare the command and its verbs."""
    parser = commands.add_parser(
        "checkpoint",
        help="make a W4A16 checkpoint W4A8, and check it",
        description="Checkpoints: INT4 experts with FP8 activations (W4A8) from W4A16, by the config alone.",
        epilog=f"example: {CONVERT}",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_convert(verbs)
    _add_materialize(verbs)
    _add_verify(verbs)


def _add_convert(verbs: Commands) -> None:
    summary = "write the W4A8 config of a W4A16 checkpoint, and copy what goes with it but the weights"
    add = command(verbs, "convert", _convert, summary, CONVERT).add_argument
    add("base", type=Path, metavar="BASE", help="the checkpoint's folder, or its config.json")
    add("out", type=Path, metavar="OUT", help="a new folder, or a new file if it is named *.json")
    add("--reverse", action="store_true", help="BASE is W4A8: give back the config it was made from, byte for byte")
    add("--tensor-parallel", type=int, default=2, metavar="N",
        help="GPUs that will share the experts, whose slices the kernel must fit (default 2)")  # fmt: skip


def _add_materialize(verbs: Commands) -> None:
    summary = "make a whole checkpoint folder of a base's shards and a converted config; a run cut off is gone on with"
    add = command(verbs, "materialize", _materialize, summary, MATERIALIZE).add_argument
    add("base", type=Path, metavar="BASE", help="the W4A16 checkpoint's folder")
    add("config_dir", type=Path, metavar="CONFIG_DIR", help="what convert wrote")
    add("out", type=Path, metavar="OUT", help="the new folder")
    add("--copy", action="store_true",
        help="copy the shards; by default they are hard links: one file under two names, no room taken")  # fmt: skip


def _add_verify(verbs: Commands) -> None:
    summary = "hold a W4A8 checkpoint folder against its base: every byte of the shards, the config, the index"
    add = command(verbs, "verify", _verify, summary, VERIFY).add_argument
    add("base", type=Path, metavar="BASE", help="the W4A16 checkpoint's folder")
    add("out", type=Path, metavar="OUT", help="the folder to check")
    add("--json", action="store_true", help="print {shards, findings, notes}")


def _told(run: Callable[[], int]) -> int:
    try:
        return run()
    except CheckpointError as error:
        print(f"prefixgate: {error}", file=sys.stderr)
    except OSError as error:
        print(f"prefixgate: {error.filename}: {error.strerror}", file=sys.stderr)
    return 1


def _convert(options: argparse.Namespace) -> int:
    if options.tensor_parallel < 1:
        raise UsageError("--tensor-parallel must be at least 1")
    _refuse_missing(options.base)
    return _told(lambda: _reverse(options) if options.reverse else _forward(options))


def _forward(options: argparse.Namespace) -> int:
    made = converted(
        config_bytes(options.base), tensor_parallel=options.tensor_parallel, tool=f"prefixgate {__version__}"
    )
    model = validated(made.data)
    names = write_recipe(options.base, options.out, made.data)
    print(f"{options.out}: {', '.join(names)}")
    print(f"config.json differs from the base's in: {', '.join(made.changed)}")
    judged = "compressed-tensors is not installed: not validated by its config model"
    print(judged if model is None else f"validated by the config model of compressed-tensors {model}")
    return 0


def _reverse(options: argparse.Namespace) -> int:
    names = write_recipe(options.base, options.out, reversed_to_base(config_bytes(options.base)))
    print(f"{options.out}: {', '.join(names)}")
    print("config.json is the base's again, byte for byte: its SHA-256 is the one that the conversion noted")
    return 0


def _materialize(options: argparse.Namespace) -> int:
    for path in (options.base, options.config_dir):
        _refuse_missing(path)
    return _told(lambda: _lay_out(options))


def _lay_out(options: argparse.Namespace) -> int:
    plan = planned(options.base, options.config_dir)
    with _progress("materialize", plan.bytes) as advance:
        laid = lay_out(plan, options.out, Copying() if options.copy else HardLinking(), advance)
    for note in plan.notes:
        print(f"note: {note}")
    print(f"{options.out} is complete: {_ways(laid)}; its index fits its shards")
    shards = {piece.name for piece in plan.pieces if piece.is_shard}
    if not options.copy and any(one.way == "copied" for one in laid if one.name in shards):
        print("note: shards were copied, since the file system cannot link them from there")
    return 0


def _ways(laid: list[Laid]) -> str:
    told = {"linked": "hard-linked", "copied": "copied", "kept": "kept from the run before"}
    sums = {way: [one.bytes for one in laid if one.way == way] for way in told}
    return ", ".join(f"{len(sizes)} files {told[way]} ({_gb(sum(sizes))})" for way, sizes in sums.items() if sizes)


def _verify(options: argparse.Namespace) -> int:
    for path in (options.base, options.out):
        _refuse_missing(path)
    if options.base.samefile(options.out):
        raise UsageError("BASE and OUT are the same folder")
    return _told(lambda: _compare(options))


def _compare(options: argparse.Namespace) -> int:
    with _progress("verify", bytes_to_read(options.base, options.out)) as advance:
        verification = verified(options.base, options.out, advance)
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(verification), indent=2).decode())
    else:
        _print(verification, options.out)
    return 1 if verification.findings else 0


def _print(verification: Verification, out: Path) -> None:
    table = Table("shard", "size", "against the base's")
    for shard in verification.shards:
        table.add_row(shard.name, _gb(shard.bytes), shard.identity)
    Console().print(table)
    for note in verification.notes:
        print(f"note: {note}")
    for finding in verification.findings:
        print(f"wrong: {finding}")
    if not verification.findings:
        print(f"{out} is the base's checkpoint in every byte but the named places of config.json")


def _refuse_missing(path: Path) -> None:
    if not path.exists():
        raise UsageError(f"{path} is not there")


@contextmanager
def _progress(what: str, total: int) -> Iterator[Advance]:
    """A bar of bytes on stderr, where that is a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda count: progress.advance(task, count)


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e3:.1f} kB"
