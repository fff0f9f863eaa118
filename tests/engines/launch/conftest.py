"""Replicas of small programs, and supervisors in processes of their own."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from tiny_engines import Spec, tiny_spec

from engines.launch.launcher import LaunchSpec
from engines.launch.rules import Rules

_SUPERVISOR = """
import asyncio, sys
from pathlib import Path
import msgspec
from engines.launch.launcher import LaunchSpec
from engines.launch.rules import Rules
from engines.launch.supervisor import Supervisor

async def main(spec, run_dir, rules):
    supervisor = Supervisor([spec], run_dir, run_dir, rules)
    async with supervisor.serving():
        await supervisor.resume(spec.name)
        await supervisor.over.wait()

spec, rules = (msgspec.json.decode(text, type=kind) for text, kind in zip(sys.argv[1:3], (LaunchSpec, Rules)))
asyncio.run(main(spec, Path(sys.argv[3]), rules))
"""


@pytest.fixture
def spec(tmp_path: Path) -> Spec:
    return lambda *words, **changes: tiny_spec(tmp_path, *words, **changes)


class Supervisors:
    """Supervisors in processes of their own."""

    def __init__(self) -> None:
        self._all: list[subprocess.Popen[bytes]] = []

    def start(self, spec: LaunchSpec, run_dir: Path, rules: Rules) -> subprocess.Popen[bytes]:
        run_dir.mkdir(exist_ok=True)
        arguments = [msgspec.json.encode(one).decode() for one in (spec, rules)]
        self._all.append(subprocess.Popen([sys.executable, "-c", _SUPERVISOR, *arguments, str(run_dir)]))
        return self._all[-1]

    def kill(self) -> None:
        for process in self._all:
            process.kill()
            process.wait()


@pytest.fixture
def supervisors() -> Iterator[Supervisors]:
    those = Supervisors()
    yield those
    those.kill()
