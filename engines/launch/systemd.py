"""The launcher of replicas that are systemd units: a drop-in sets what they run, systemctl does the rest; does I/O."""

import asyncio
from asyncio.subprocess import PIPE
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from engines.launch.drop_in import command_in, drop_in
from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState, ProcessView

_DROP_IN: Final = "90-prefixgate.conf"
_SHOWN: Final = ("ActiveState", "SubState", "MainPID", "NRestarts", "Result", "ExecMainStatus")
_STATES: Final = {
    "active": ProcessState.RUNNING,
    "reloading": ProcessState.RUNNING,
    "activating": ProcessState.STARTING,
    "deactivating": ProcessState.STOPPED,
    "inactive": ProcessState.STOPPED,
    "failed": ProcessState.FAILED,
}


class SystemdLauncher:
    """`units` by replica. `systemctl` is the command, with `--user` for a user's own manager."""

    can_restart = True

    def __init__(self, units: Mapping[str, str], folder: Path, systemctl: tuple[str, ...]) -> None:
        self._units = units
        self._folder = folder
        self._systemctl = systemctl

    async def start(self, spec: LaunchSpec) -> None:
        """Start its unit; start it again where what it runs has changed."""
        if await self._write(spec):
            await self._call("restart", self._unit(spec.name))
        else:
            await self._call("start", self._unit(spec.name))

    async def restart(self, spec: LaunchSpec) -> None:
        """Have it run as the spec says. How it is killed is the unit's own affair (KillMode, TimeoutStopSec)."""
        await self._write(spec)
        await self._call("restart", self._unit(spec.name))

    async def stop(self, name: str) -> None:
        """Stop its unit."""
        await self._call("stop", self._unit(name))

    async def view(self, name: str) -> ProcessView:
        """What `systemctl show` says."""
        unit = self._unit(name)
        said = await self._call("show", unit, f"--property={','.join(_SHOWN)}")
        shown = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        state = _STATES.get(shown.get("ActiveState", ""), ProcessState.UNKNOWN)
        if shown.get("SubState") == "auto-restart":
            state = ProcessState.BACKOFF
        ended = state in (ProcessState.FAILED, ProcessState.BACKOFF)
        reason = f"it ended with {shown.get('Result')} (status {shown.get('ExecMainStatus')}): journalctl -u {unit}"
        command = command_in(self._read(unit))
        pid, restarts = int(shown.get("MainPID") or 0), int(shown.get("NRestarts") or 0)
        return ProcessView(state, command, pid or None, restarts, reason if ended else "")

    async def close(self) -> None:
        """Nothing is held."""

    def _unit(self, name: str) -> str:
        if name not in self._units:
            raise LaunchError(f"{name} has no systemd unit: only replicas that the file lists have one")
        return self._units[name]

    def _path(self, unit: str) -> Path:
        return self._folder / f"{unit}.d" / _DROP_IN

    def _read(self, unit: str) -> str:
        try:
            return self._path(unit).read_text(encoding="utf-8")
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise LaunchError(f"{self._path(unit)} cannot be read: {error.strerror or error}") from error

    async def _write(self, spec: LaunchSpec) -> bool:
        """Write the drop-in and have systemd read it; False where it was so already."""
        unit, text = self._unit(spec.name), drop_in(spec)
        if self._read(unit) == text:
            return False
        path = self._path(unit)
        draft = path.with_suffix(".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        except OSError as error:
            raise LaunchError(f"{path} cannot be written: {error.strerror or error}") from error
        await self._call("daemon-reload")
        return True

    async def _call(self, *words: str) -> str:
        command = (*self._systemctl, *words)
        try:
            process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=PIPE)
        except OSError as error:
            raise LaunchError(f"{command[0]} cannot be run: {error.strerror or error}") from error
        said, complaint = await process.communicate()
        if process.returncode:
            why = complaint.decode(errors="replace").strip().replace("\n", " ") or f"status {process.returncode}"
            raise LaunchError(f"`{' '.join(command)}` failed: {why}")
        return said.decode(errors="replace")
