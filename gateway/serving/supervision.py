"""Running the supervisor of a local pool: in this process until it is told to stop, or in one of its own; does I/O."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Final

from engines.launch.launcher import LaunchError
from engines.launch.local import LocalLauncher, NoSupervisorError
from engines.launch.supervisor import Supervisor
from gateway.config import ConfigError, PoolConfig
from gateway.config.launch import LOCAL
from gateway.serving.launching import local_launcher, log_dir_of, rules_of, run_dir_of, specs_of

_UP_S: Final = 30.0
_LOOK_S: Final = 0.05


async def supervise(pool: PoolConfig, only: str | None, say: Callable[[str], None]) -> None:
    """Run the pool's replicas, or `only` one, until SIGINT, SIGTERM, or a shutdown over the socket.

    Those that were stopped stay so, unless they are named. Raises LaunchError.
    """
    run_dir, log_dir = run_dir_of(pool), log_dir_of(pool)
    _own(run_dir)
    _make(log_dir)
    supervisor = Supervisor(specs_of(pool), run_dir, log_dir, rules_of(pool))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, supervisor.over.set)
    async with supervisor.serving():
        names = [one.name for one in pool.spec().replicas]
        say(f"prefixgate supervises {only or ', '.join(names)} of pool {pool.name} (logs in {log_dir})")
        starts = [supervisor.begin(only)] if only is not None else [supervisor.resume(name) for name in names]
        await asyncio.gather(*(_said(start, say) for start in starts))
        await supervisor.over.wait()


async def _said(start: Awaitable[None], say: Callable[[str], None]) -> None:
    """One replica that cannot be started leaves the others running."""
    try:
        await start
    except LaunchError as error:
        say(f"prefixgate: {error}")


def _own(run_dir: Path) -> None:
    """Make the folder of socket and state, which nobody else may look into. Raises ConfigError."""
    _make(run_dir)
    status = run_dir.stat()
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise ConfigError(f"{run_dir} is open to others: say a launch.run_dir of its own, or chmod 700 it")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror or error}") from error


async def supervised_by(launcher: LocalLauncher) -> int | None:
    """The process id of the supervisor; None where there is none. Raises LaunchError where it cannot be asked."""
    try:
        return await launcher.supervisor()
    except NoSupervisorError:
        return None


async def ensure_supervisors(pools: Sequence[PoolConfig], config: Path) -> list[str]:
    """Those of all local pools that want it, one sentence for each that was started or does not come up.

    None is started by a gateway that is itself a systemd service: systemd would end it together with the gateway.
    """
    said = []
    for pool in (one for one in pools if one.launch.kind == LOCAL and one.launch.autostart):
        try:
            if os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid()):
                await local_launcher(pool).supervisor()
            elif (started := await ensure_supervisor(pool, config)) is not None:
                said.append(f"process {started} supervises pool {pool.name}")
        except LaunchError as error:
            said.append(str(error))
    return said


async def ensure_supervisor(pool: PoolConfig, config: Path, only: str | None = None) -> int | None:
    """Start one in the background unless one answers; its process id, None where it was there. `only`: as `supervise`.

    It says what it has to say in `supervisor.log` of its folder. Raises LaunchError where it does not come up.
    """
    launcher = local_launcher(pool)
    if await supervised_by(launcher) is not None:
        return None
    run_dir = run_dir_of(pool)
    _own(run_dir)
    log = run_dir / "supervisor.log"
    command = [sys.executable, "-m", "gateway", "engine", "launch", "--config", str(config.resolve())]
    command += ["--pool", pool.name, *(("--replica", only) if only is not None else ())]
    process = _spawned(command, log)
    deadline = time.monotonic() + _UP_S
    has_ended = False
    while not has_ended and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)
        has_ended = _has_ended(process)  # perhaps because somebody else has just started one: asked is once more
        with contextlib.suppress(LaunchError):
            if (found := await supervised_by(launcher)) is not None:
                return found
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    raise LaunchError(f"the supervisor of pool `{pool.name}` does not come up: {said[-1] if said else f'see {log}'}")


def _spawned(command: list[str], log: Path) -> int:
    """A process that is nobody's to wait for and hears no terminal."""
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
        (os.POSIX_SPAWN_DUP2, 1, 2),
    ]
    return os.posix_spawn(command[0], command, os.environ, file_actions=actions, setsid=True)


def _has_ended(process: int) -> bool:
    return os.waitpid(process, os.WNOHANG)[0] != 0
