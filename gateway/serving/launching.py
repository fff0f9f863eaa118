"""The launchers of the configured pools, and what each replica is to be launched as; does I/O."""

import os
from functools import cache
from pathlib import Path

from engines.launch.confidential import guest_evidence
from engines.launch.external import ExternalLauncher
from engines.launch.launcher import Launcher, LaunchSpec
from engines.launch.local import LocalLauncher
from engines.launch.rules import Rules
from gateway.config import PoolConfig
from gateway.config.launch import LOCAL
from gateway.config.launch_specs import launch_spec


def launcher_of(pool: PoolConfig) -> Launcher:
    """Who starts and restarts the pool's replicas."""
    if pool.launch.kind == LOCAL:
        return local_launcher(pool)
    return ExternalLauncher()


def local_launcher(pool: PoolConfig) -> LocalLauncher:
    """The one that asks the pool's supervisor."""
    return LocalLauncher(pool.name, run_dir_of(pool), pool.launch.stop_s)


def spec_of(pool: PoolConfig, name: str, url: str) -> LaunchSpec:
    """The replica as the configuration has it, on this host. Raises ConfigError."""
    return launch_spec(pool, name, url, guest=is_guest())


def specs_of(pool: PoolConfig) -> list[LaunchSpec]:
    """All replicas that the file lists. Raises ConfigError."""
    return [spec_of(pool, one.name, one.url) for one in pool.spec().replicas]


@cache
def is_guest() -> bool:
    """Whether this host is a confidential-computing guest."""
    return guest_evidence() is not None


def run_dir_of(pool: PoolConfig) -> Path:
    """Where a local pool's supervisor has its socket and its state."""
    if pool.launch.run_dir is not None:
        return Path(pool.launch.run_dir).expanduser()
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "prefixgate" / pool.name


def log_dir_of(pool: PoolConfig) -> Path:
    """Where it keeps what its engines print."""
    return run_dir_of(pool) if pool.launch.log_dir is None else Path(pool.launch.log_dir).expanduser()


def rules_of(pool: PoolConfig) -> Rules:
    """How patient it is."""
    launch, restart = pool.launch, pool.launch.restart
    return Rules(
        backoff_s=restart.backoff_s,
        most_backoff_s=restart.most_backoff_s,
        tries=restart.tries,
        steady_s=restart.steady_s,
        stop_s=launch.stop_s,
        log_bytes=launch.log_bytes,
        log_keep=launch.log_keep,
    )
