"""`prefixgate engine launch`, `status`, `stop` and `logs`: the engines that prefixgate runs itself; does I/O."""

import argparse
import asyncio
import sys
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from engines.launch.launcher import LaunchError, ProcessState, ProcessView
from engines.launch.local import LocalLauncher
from gateway.cli.usage import Commands, UsageError, command
from gateway.config import Config, PoolConfig, load
from gateway.config.launch import EXTERNAL, LOCAL
from gateway.serving.launching import launcher_of, local_launcher
from gateway.serving.supervision import ensure_supervisor, supervise, supervised_by

_LOOK_S: Final = 0.05


class Standing(msgspec.Struct, frozen=True):
    """One replica's process."""

    replica: str
    pool: str
    kind: str
    view: ProcessView


def add_launch(verbs: Commands) -> None:
    """Declare `engine launch`."""
    parser = command(
        verbs,
        "launch",
        _launch,
        "run the replicas of a local pool under supervision, until Ctrl-C",
        "prefixgate engine launch --config gateway.toml --pool vllm-w4a8 --detach",
    )
    _add_common(parser)
    parser.add_argument("--replica", metavar="NAME", help="only this one (default: all of the pool)")
    parser.add_argument("--detach", action="store_true", help="in the background; `engine stop` ends it")


def add_status(verbs: Commands) -> None:
    """Declare `engine status`."""
    parser = command(
        verbs,
        "status",
        _status,
        "how the processes of launched replicas stand",
        "prefixgate engine status --config gateway.toml",
    )
    _add_common(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_stop(verbs: Commands) -> None:
    """Declare `engine stop`."""
    parser = command(
        verbs,
        "stop",
        _stop,
        "end a local pool's engines and their supervisor, or one replica alone",
        "prefixgate engine stop --config gateway.toml --pool vllm-w4a8",
    )
    _add_common(parser)
    parser.add_argument("--replica", metavar="NAME", help="end this one and leave it so, until it is launched again")


def add_logs(verbs: Commands) -> None:
    """Declare `engine logs`."""
    parser = command(
        verbs,
        "logs",
        _logs,
        "the last lines that a local replica printed",
        "prefixgate engine logs --config gateway.toml --replica vllm-w4a8-0",
    )
    _add_common(parser)
    parser.add_argument("--replica", metavar="NAME", required=True, help="which one")
    parser.add_argument("--lines", type=int, default=50, metavar="N", help="how many (default 50)")


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", required=True, help="TOML configuration")
    parser.add_argument("--pool", metavar="NAME", help="which pool (default: the only one that there is)")


def _launch(options: argparse.Namespace) -> int:
    return _run(_launched(options, _local_pool(options)))


async def _launched(options: argparse.Namespace, pool: PoolConfig) -> int:
    launcher, only = local_launcher(pool), options.replica
    running = await supervised_by(launcher)
    if running is None and not options.detach:
        await supervise(pool, only, lambda line: print(line, flush=True))
        return 0
    if running is None:
        await ensure_supervisor(pool, options.config, only)
    else:
        for name, view in (await launcher.views()).items():
            if only == name or (only is None and view.state is ProcessState.FAILED):
                await launcher.begin(name)
    print(f"process {await launcher.supervisor()} supervises pool {pool.name}; `prefixgate engine stop` ends it")
    failed = {name: view for name, view in (await _begun(launcher)).items() if view.state is ProcessState.FAILED}
    for name, view in failed.items():
        print(f"prefixgate: {name}: {view.reason}", file=sys.stderr)
    return 1 if failed else 0


async def _begun(launcher: LocalLauncher) -> dict[str, ProcessView]:
    """How the replicas stand once none of them is just being started."""
    while True:
        views = await launcher.views()
        if all(view.state is not ProcessState.STARTING for view in views.values()):
            return views
        await asyncio.sleep(_LOOK_S)


def _status(options: argparse.Namespace) -> int:
    config = load(options.config)
    pools = [pool for pool in _chosen(config, options.pool) if pool.launch.kind != EXTERNAL]
    if not pools:
        raise UsageError("no pool has a [pools.launch] whose engines prefixgate runs")
    return _run(_shown(options, pools))


async def _shown(options: argparse.Namespace, pools: list[PoolConfig]) -> int:
    standings = [one for pool in pools for one in await _standings(pool)]
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(standings), indent=2).decode())
    else:
        Console(highlight=False, markup=False).print(_table(standings))
    return 0 if all(one.view.state is ProcessState.RUNNING for one in standings) else 1


async def _standings(pool: PoolConfig) -> list[Standing]:
    launcher = launcher_of(pool)
    try:
        return [
            Standing(one.name, pool.name, pool.launch.kind, await launcher.view(one.name))
            for one in pool.spec().replicas
        ]
    finally:
        await launcher.close()


def _table(standings: list[Standing]) -> Table:
    table = Table("replica", "by", "state", "pid", "restarts", "reason")
    for one in standings:
        pid = "" if one.view.pid is None else str(one.view.pid)
        table.add_row(one.replica, one.kind, one.view.state, pid, str(one.view.restarts), one.view.reason)
    return table


def _stop(options: argparse.Namespace) -> int:
    return _run(_stopped(options.replica, _local_pool(options)))


async def _stopped(replica: str | None, pool: PoolConfig) -> int:
    launcher = local_launcher(pool)
    if replica is not None:
        await launcher.stop(replica)
        print(f"{replica} is stopped")
        return 0
    pid = await launcher.shutdown()
    while await supervised_by(launcher) is not None:  # noqa: ASYNC110 - another process has no event
        await asyncio.sleep(_LOOK_S)
    print(f"process {pid} and the replicas of pool {pool.name} are stopped")
    return 0


def _logs(options: argparse.Namespace) -> int:
    if options.lines < 1:
        raise UsageError("--lines must be at least 1")
    return _run(_tail(options, _local_pool(options)))


async def _tail(options: argparse.Namespace, pool: PoolConfig) -> int:
    for line in await local_launcher(pool).tail(options.replica, options.lines):
        print(line)
    return 0


def _run(work: Coroutine[Any, Any, int]) -> int:
    try:
        return asyncio.run(work)
    except LaunchError as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1


def _local_pool(options: argparse.Namespace) -> PoolConfig:
    """The pool that is meant. Raises UsageError or ConfigError."""
    pools = _chosen(load(options.config), options.pool)
    if options.pool is None:
        pools = [pool for pool in pools if pool.launch.kind == LOCAL]
        if getattr(options, "replica", None) is not None:
            pools = [pool for pool in pools if options.replica in _names(pool)]
    if not pools:
        raise UsageError('no pool that fits has [pools.launch] kind = "local"')
    if len(pools) > 1:
        raise UsageError(f"say which --pool: {', '.join(pool.name for pool in pools)}")
    [pool] = pools
    if pool.launch.kind != LOCAL:
        raise UsageError(f'pool `{pool.name}` is not run here: its [pools.launch] kind is "{pool.launch.kind}"')
    if getattr(options, "replica", None) not in (None, *_names(pool)):
        raise UsageError(f"pool `{pool.name}` has no replica {options.replica}; it has {', '.join(_names(pool))}")
    return pool


def _names(pool: PoolConfig) -> list[str]:
    return [one.name for one in pool.spec().replicas]


def _chosen(config: Config, name: str | None) -> list[PoolConfig]:
    found = [pool for pool in config.pools if name in (None, pool.name)]
    if not found:
        raise UsageError(f"there is no pool {name}; there are {', '.join(pool.name for pool in config.pools)}")
    return found
