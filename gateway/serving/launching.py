"""The launchers of the configured pools, and what each replica is to be launched as; does I/O."""

import os
import shlex
from functools import cache
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from engines.kubernetes_api import KubernetesApi
from engines.launch.command import grouped
from engines.launch.confidential import guest_evidence
from engines.launch.external import ExternalLauncher
from engines.launch.kubernetes import KubernetesLauncher
from engines.launch.launcher import Launcher, LaunchSpec
from engines.launch.local import LocalLauncher
from engines.launch.rules import Rules
from engines.launch.systemd import SystemdLauncher
from engines.launch.workload import Place
from engines.registry import dialect
from gateway.config import ConfigError, PoolConfig
from gateway.config import launch as config
from gateway.config.launch import WorkloadConfig
from gateway.config.launch_specs import launch_spec

_PATIENCE_S: Final = 120.0
"""For a pod to be gone, beyond what its processes may take."""


def launcher_of(pool: PoolConfig) -> Launcher:
    """Who starts and restarts the pool's replicas."""
    match pool.launch.kind:
        case config.LOCAL:
            return local_launcher(pool)
        case config.SYSTEMD:
            return _systemd_launcher(pool)
        case config.KUBERNETES:
            return _kubernetes_launcher(pool)
        case _:
            return ExternalLauncher()


def _systemd_launcher(pool: PoolConfig) -> SystemdLauncher:
    systemd = pool.launch.systemd
    words = {"engine": pool.engine, "pool": pool.name}
    units = {
        one.name: systemd.unit.format_map({**words, "name": one.name, "number": number})
        for number, one in enumerate(pool.spec().replicas)
    }
    own = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "systemd" / "user"
    default = own if systemd.user else Path("/etc/systemd/system")
    folder = default if systemd.drop_in_dir is None else Path(systemd.drop_in_dir).expanduser()
    return SystemdLauncher(units, folder, ("systemctl", "--user") if systemd.user else ("systemctl",))


def _kubernetes_launcher(pool: PoolConfig) -> KubernetesLauncher:
    workload = pool.launch.kubernetes
    if workload is None:
        raise ConfigError(f"pool `{pool.name}`: say launch.kubernetes")
    api = KubernetesApi(workload.api, workload.namespace, workload.token_file, workload.ca_file)
    return KubernetesLauncher(api, places_of(pool, workload), pool.launch.stop_s + _PATIENCE_S)


def places_of(pool: PoolConfig, workload: WorkloadConfig) -> dict[str, Place]:
    """Where each replica's pod is."""
    places = {}
    for number, one in enumerate(pool.spec().replicas):
        host = (urlsplit(one.url).hostname or "").partition(".")[0]
        if workload.kind == "StatefulSet":
            places[one.name] = Place("StatefulSet", workload.workload, host, workload.container)
        else:
            name = workload.workload.format_map({"name": one.name, "number": number, "host": host})
            places[one.name] = Place("Deployment", name, "", workload.container)
    return places


def local_launcher(pool: PoolConfig) -> LocalLauncher:
    """The one that asks the pool's supervisor."""
    return LocalLauncher(pool.name, run_dir_of(pool), pool.launch.stop_s)


def spec_of(pool: PoolConfig, name: str, url: str) -> LaunchSpec:
    """The replica as the configuration has it, on this host. Raises ConfigError."""
    return launch_spec(pool, name, url, guest=is_guest())


def specs_of(pool: PoolConfig) -> list[LaunchSpec]:
    """All replicas that the file lists. Raises ConfigError."""
    return [spec_of(pool, one.name, one.url) for one in pool.spec().replicas]


async def missing_flags(pool: PoolConfig) -> dict[str, list[str]]:
    """By replica of a launched pool: the flags that its process was not started with, though the file has them.

    Nothing for a pool whose replicas somebody else starts. Raises LaunchError where a launcher cannot be asked.
    """
    launcher = launcher_of(pool)
    if not launcher.can_restart:
        return {}
    try:
        return {spec.name: _missing_from((await launcher.view(spec.name)).command, spec) for spec in specs_of(pool)}
    finally:
        await launcher.close()


def _missing_from(runs: tuple[str, ...], spec: LaunchSpec) -> list[str]:
    there = set(grouped(runs))
    wanted = grouped(dialect(spec.dialect).launch_command(spec).arguments)
    return [shlex.join(flag) for flag in wanted if flag[0].startswith("-") and flag not in there] if runs else []


@cache
def is_guest() -> bool:
    """Whether this host is a confidential-computing guest."""
    return guest_evidence() is not None


def run_dir_of(pool: PoolConfig) -> Path:
    """Where a local pool's supervisor has its socket and its state: by default below what systemd gives a service for
    its state, or the user's folder for that.
    """
    if pool.launch.run_dir is not None:
        return Path(pool.launch.run_dir).expanduser()
    state = os.environ.get("STATE_DIRECTORY", "").partition(":")[0] or os.environ.get("XDG_STATE_HOME")
    return Path(state or Path.home() / ".local" / "state") / "prefixgate" / pool.name


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
