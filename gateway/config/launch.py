"""`[pools.launch]`: who starts a pool's engines, and with what; pure."""

import math
import re
from typing import Final

import msgspec

from gateway.config.discovery import SERVICE_ACCOUNT
from gateway.config.section import Section, one_of, require

EXTERNAL, LOCAL, SYSTEMD, KUBERNETES = "external", "local", "systemd", "kubernetes"
KINDS: Final = [EXTERNAL, LOCAL, SYSTEMD, KUBERNETES]
_ENV_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAMED: Final = ("{name}", "{number}")


class RestartConfig(Section, frozen=True):
    """`restart = {…}`: when a local engine that ended by itself is started again.

    After `backoff_s`, twice as long each further time in a row, at most `most_backoff_s`; after `tries` in a row no
    more. One that ran for `steady_s` begins a new row.
    """

    backoff_s: float = 1.0
    most_backoff_s: float = 60.0
    tries: int = 5
    steady_s: float = 60.0


class SystemdConfig(Section, frozen=True):
    """`systemd = {…}`: the replicas are units, whose ExecStart a drop-in sets.

    `unit` may say `{engine}`, `{pool}`, `{name}` and `{number}`; `user`: units of the user's own service manager.
    `drop_in_dir` is by default where that looks.
    """

    unit: str = "{engine}@{name}.service"
    user: bool = False
    drop_in_dir: str | None = None


class WorkloadConfig(Section, frozen=True):
    """`kubernetes = {…}`: the replicas are pods, whose container's command is patched.

    `kind` is "StatefulSet" (its pods are the replicas, by the first label of their URL's host) or "Deployment" (one of
    one pod for each replica; `workload` may say `{name}`, `{number}` and `{host}`). The rest is as in
    `[pools.discovery] kubernetes`.
    """

    workload: str
    container: str
    kind: str = "StatefulSet"
    namespace: str | None = None
    api: str | None = None
    token_file: str = f"{SERVICE_ACCOUNT}/token"
    ca_file: str = f"{SERVICE_ACCOUNT}/ca.crt"


class LaunchConfig(Section, frozen=True):
    """`[pools.launch]`: by default somebody else starts the replicas, and prefixgate only says how.

    `model_path` is what engines load, by default the pool's `model`; `program` what is run instead of the engine's own
    (`vllm serve`, `python3 -m sglang.launch_server`); `flags` come after ours, and of ours those in `without` are left
    out, for engines too old to know them. `host` is what they listen on, by default the URL's host, and every address
    in a pod. `gpus` lists each replica's devices, by default the next `gpus_per_replica` from 0; [] leaves them all
    visible. `confidential` None looks whether this host is a confidential-computing guest. `run_dir` and `log_dir` hold
    a local pool's socket, state and logs; `autostart`: `serve` starts its supervisor. A process group has `stop_s` to
    end.
    """

    kind: str = EXTERNAL
    model_path: str | None = None
    program: list[str] = msgspec.field(default_factory=list)
    flags: list[str] = msgspec.field(default_factory=list)
    without: list[str] = msgspec.field(default_factory=list)
    env: dict[str, str] = msgspec.field(default_factory=dict)
    directory: str = ""
    host: str | None = None
    tensor_parallel: int | None = None
    gpus: list[list[int]] | None = None
    confidential: bool | None = None
    run_dir: str | None = None
    log_dir: str | None = None
    autostart: bool = True
    stop_s: float = 30.0
    log_bytes: int = 64 << 20
    log_keep: int = 3
    restart: RestartConfig = RestartConfig()
    systemd: SystemdConfig = SystemdConfig()
    kubernetes: WorkloadConfig | None = None

    @property
    def is_here(self) -> bool:
        """Whether the replicas run on this host."""
        return self.kind in (LOCAL, SYSTEMD)


def check_launch(where: str, launch: LaunchConfig, replicas: int) -> None:
    """What types cannot say, as far as the pool's other settings do not matter. Raises ConfigError."""
    one_of(f"{where}: launch.kind", launch.kind, KINDS)
    parallel = launch.tensor_parallel
    require(parallel is None or parallel >= 1, f"{where}: launch.tensor_parallel must be at least 1")
    require(0 < launch.stop_s < math.inf, f"{where}: launch.stop_s must be above 0")
    require(launch.log_bytes >= 4096, f"{where}: launch.log_bytes must be at least 4096")
    require(launch.log_keep >= 0, f"{where}: launch.log_keep must not be negative")
    require("" not in launch.program[:1], f"{where}: launch.program must begin with a program")
    for name in launch.env:
        require(bool(_ENV_NAME.fullmatch(name)), f"{where}: launch.env: {name!r} is no name of a variable")
    _check_gpus(where, launch, replicas)
    _check_restart(where, launch.restart)
    elsewhere = launch.kind in (SYSTEMD, KUBERNETES) and launch.directory
    absolute = not elsewhere or launch.directory.startswith("/")
    require(absolute, f"{where}: launch.directory must be an absolute path: {launch.kind} has no folder of ours")
    if launch.kind == SYSTEMD:
        _check_systemd(where, launch.systemd, replicas)
    if launch.kind == KUBERNETES:
        _check_workload(where, launch.kubernetes, replicas)


def _check_gpus(where: str, launch: LaunchConfig, replicas: int) -> None:
    if not launch.gpus:
        return
    one_each = len(launch.gpus) == replicas
    require(one_each, f"{where}: launch.gpus has {len(launch.gpus)} lists for {replicas} replicas")
    seen: set[int] = set()
    for devices in launch.gpus:
        require(bool(devices), f"{where}: launch.gpus has an empty list: `gpus = []` leaves all devices visible")
        for device in devices:
            require(device >= 0, f"{where}: launch.gpus: {device} is no device")
            require(device not in seen, f"{where}: launch.gpus has device {device} twice")
            seen.add(device)


def _check_restart(where: str, restart: RestartConfig) -> None:
    rising = 0 < restart.backoff_s <= restart.most_backoff_s < math.inf
    require(rising, f"{where}: launch.restart.backoff_s must be above 0, and most_backoff_s no less")
    require(restart.tries >= 1, f"{where}: launch.restart.tries must be at least 1")
    require(0 <= restart.steady_s < math.inf, f"{where}: launch.restart.steady_s must not be negative")


def _check_systemd(where: str, systemd: SystemdConfig, replicas: int) -> None:
    require(systemd.unit.endswith(".service"), f"{where}: launch.systemd.unit must end with .service")
    own = replicas == 1 or any(word in systemd.unit for word in _NAMED)
    require(own, f"{where}: launch.systemd.unit must say {{name}} or {{number}}: each replica is a unit")
    _check_template(f"{where}: launch.systemd.unit", systemd.unit, "engine", "pool", "name", "number")


def _check_workload(where: str, workload: WorkloadConfig | None, replicas: int) -> None:
    if workload is None:
        require(False, f"{where}: launch.kind is kubernetes: say kubernetes = {{workload = …, container = …}}")
        return
    one_of(f"{where}: launch.kubernetes.kind", workload.kind, ["StatefulSet", "Deployment"])
    own = any(word in workload.workload for word in (*_NAMED, "{host}"))
    if workload.kind == "Deployment":
        need = f"{where}: launch.kubernetes.workload must say {{name}}, {{number}} or {{host}}: each replica is one"
        require(own or replicas == 1, need)
    else:
        require(not own, f"{where}: launch.kubernetes.workload is one StatefulSet: it takes no {{…}}")
    _check_template(f"{where}: launch.kubernetes.workload", workload.workload, "name", "number", "host")


def _check_template(what: str, template: str, *words: str) -> None:
    try:
        template.format_map(dict.fromkeys(words, ""))
    except (KeyError, ValueError, IndexError, AttributeError):
        require(False, f"{what} may say {', '.join(f'{{{word}}}' for word in words)}, not {template!r}")
