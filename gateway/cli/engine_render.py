"""`prefixgate engine render`: the exact command that starts each replica; prints, and reads the configuration."""

import argparse
from pathlib import Path

import msgspec

from engines.launch.confidential import guest_evidence
from engines.launch.drop_in import drop_in
from engines.launch.launcher import LaunchSpec
from engines.launch.workload import workload_patch
from engines.registry import dialect
from gateway.cli.usage import Commands, UsageError, command
from gateway.config import PoolConfig, load
from gateway.config.launch import KUBERNETES, SYSTEMD
from gateway.serving.launching import places_of, specs_of

_AT = "TIME"


class Rendering(msgspec.Struct, frozen=True, omit_defaults=True):
    """How one replica is launched. `shell` is the command as one line; `drop_in` and `patch` are what its launcher
    writes or sends.
    """

    replica: str
    pool: str
    kind: str
    shell: str
    command: tuple[str, ...]
    env: dict[str, str]
    drop_in: str | None = None
    patch: dict[str, object] | None = None


def add_render(verbs: Commands) -> None:
    """Declare the command."""
    parser = command(
        verbs,
        "render",
        _render,
        "print the exact command that starts each replica, with every flag that measuring needs",
        "prefixgate engine render --config gateway.toml --pool vllm-w4a8 --multi-line",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", required=True, help="TOML configuration")
    parser.add_argument("--pool", metavar="NAME", help="only this pool")
    parser.add_argument("--replica", metavar="NAME", help="only this replica")
    parser.add_argument("--multi-line", action="store_true", help="a line for each flag")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _render(options: argparse.Namespace) -> int:
    renderings, lines = [], []
    for pool in load(options.config).pools:
        for spec in specs_of(pool) if options.pool in (None, pool.name) else ():
            if options.replica in (None, spec.name):
                renderings.append(_rendering(pool, spec))
                written = dialect(spec.dialect).launch_command(spec)
                shell = written.shell_lines() if options.multi_line else written.shell()
                lines.append(f"# {spec.name} ({pool.launch.kind}{_where(pool, spec)})\n{shell}")
    if not renderings:
        raise UsageError("the file lists no such replica, and those that are discovered have no command of ours")
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(renderings), indent=2).decode())
        return 0
    for rendering, line in zip(renderings, lines, strict=True):
        print(line)
        if rendering.drop_in is not None:
            print(f"\n{rendering.drop_in}", end="")
        if rendering.patch is not None:
            print(f"\n{msgspec.json.format(msgspec.json.encode(rendering.patch), indent=2).decode()}")
        print()
    return 0


def _where(pool: PoolConfig, spec: LaunchSpec) -> str:
    """The folder that relative paths are in, where it was said, and how we know of a confidential guest."""
    folder = f", in {spec.directory}" if spec.directory else ""
    seen = spec.confidential and pool.launch.confidential is None
    return folder + (f", in a confidential-computing guest ({guest_evidence()})" if seen else "")


def _rendering(pool: PoolConfig, spec: LaunchSpec) -> Rendering:
    written, kind, workload = dialect(spec.dialect).launch_command(spec), pool.launch.kind, pool.launch.kubernetes
    patch = None
    if kind == KUBERNETES and workload is not None:
        patch = workload_patch(places_of(pool, workload)[spec.name], spec, _AT)
    file = drop_in(spec) if kind == SYSTEMD else None
    return Rendering(spec.name, pool.name, kind, written.shell(), written.words, dict(written.env), file, patch)
