"""The systemd launcher against a systemctl that notes what it is asked."""

import dataclasses
import sys
from pathlib import Path

import pytest

from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState
from engines.launch.systemd import SystemdLauncher
from engines.registry import dialect
from engines.reports import PrefillSettings

SPEC = LaunchSpec(name="v-0", dialect="vllm", model="m", host="127.0.0.1", port=8000, prefill=PrefillSettings(8192))
UNIT = "vllm@v-0.service"

SYSTEMCTL = """#!{python} -IS
import os, sys
os.chdir(os.path.dirname(sys.argv[0]))
open("asked", "a").write(" ".join(sys.argv[1:]) + "\\n")
verb = next(word for word in sys.argv[1:] if not word.startswith("-"))
if os.path.exists("fails-" + verb):
    sys.exit(open("fails-" + verb).read())
if verb == "show":
    print(open("shown").read())
"""


class Systemctl:
    """A fake one in a folder; `asked` are its calls."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "systemctl"
        self.path.write_text(SYSTEMCTL.format(python=sys.executable))
        self.path.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        asked = self.folder / "asked"
        calls = asked.read_text().splitlines() if asked.exists() else []
        asked.unlink(missing_ok=True)
        return calls

    def shows(self, **properties: object) -> None:
        (self.folder / "shown").write_text("\n".join(f"{name}={value}" for name, value in properties.items()))


@pytest.fixture
def systemctl(tmp_path: Path) -> Systemctl:
    return Systemctl(tmp_path)


@pytest.fixture
def launcher(systemctl: Systemctl, tmp_path: Path) -> SystemdLauncher:
    return SystemdLauncher({"v-0": UNIT}, tmp_path / "system", (str(systemctl.path), "--user"))


async def test_a_restart_writes_the_command_and_restarts_the_unit(
    launcher: SystemdLauncher, systemctl: Systemctl, tmp_path: Path
) -> None:
    await launcher.restart(SPEC)
    assert systemctl.asked == ["--user daemon-reload", f"--user restart {UNIT}"]
    file = tmp_path / "system" / f"{UNIT}.d" / "90-prefixgate.conf"
    assert '"--max-num-batched-tokens" "8192"' in file.read_text()
    await launcher.restart(SPEC)  # as before: there is nothing to reload
    assert systemctl.asked == [f"--user restart {UNIT}"]
    await launcher.start(SPEC)
    assert systemctl.asked == [f"--user start {UNIT}"]
    await launcher.start(dataclasses.replace(SPEC, prefill=PrefillSettings(4096)))
    assert systemctl.asked == ["--user daemon-reload", f"--user restart {UNIT}"]
    assert '"--max-num-batched-tokens" "4096"' in file.read_text()
    await launcher.stop("v-0")
    assert systemctl.asked == [f"--user stop {UNIT}"]


@pytest.mark.parametrize(
    ("active", "sub", "state"),
    [
        ("active", "running", ProcessState.RUNNING),
        ("activating", "start", ProcessState.STARTING),
        ("activating", "auto-restart", ProcessState.BACKOFF),
        ("inactive", "dead", ProcessState.STOPPED),
        ("failed", "failed", ProcessState.FAILED),
        ("maintenance", "", ProcessState.UNKNOWN),
    ],
)
async def test_a_view_is_what_systemd_shows(
    launcher: SystemdLauncher, systemctl: Systemctl, active: str, sub: str, state: ProcessState
) -> None:
    await launcher.restart(SPEC)
    shown = {"ActiveState": active, "SubState": sub, "MainPID": 4711, "NRestarts": 2}
    systemctl.shows(**shown, Result="exit-code", ExecMainStatus=3)
    view = await launcher.view("v-0")
    assert (view.state, view.pid, view.restarts) == (state, 4711, 2)
    assert view.command == dialect("vllm").launch_command(SPEC).words
    ended = state in (ProcessState.BACKOFF, ProcessState.FAILED)
    assert view.reason == (f"it ended with exit-code (status 3): journalctl -u {UNIT}" if ended else "")


async def test_what_goes_wrong_is_one_sentence(launcher: SystemdLauncher, systemctl: Systemctl, tmp_path: Path) -> None:
    (tmp_path / "fails-restart").write_text("Failed to restart: Unit not found.\nSee logs.")
    with pytest.raises(LaunchError, match=rf"--user restart {UNIT}` failed: Failed to restart: .* not found. See logs"):
        await launcher.restart(SPEC)
    with pytest.raises(LaunchError, match="v-9 has no systemd unit"):
        await launcher.stop("v-9")
    (tmp_path / "blocked").write_text("a file, below which not even root can write")
    with pytest.raises(LaunchError, match=r"90-prefixgate\.conf cannot be "):
        await SystemdLauncher({"v-0": UNIT}, tmp_path / "blocked", (str(systemctl.path),)).restart(SPEC)
    with pytest.raises(LaunchError, match="/nowhere/systemctl cannot be run: No such file"):
        await SystemdLauncher({"v-0": UNIT}, tmp_path, ("/nowhere/systemctl",)).stop("v-0")
