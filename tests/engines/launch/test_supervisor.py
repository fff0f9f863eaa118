"""The supervisor of local replicas, with small programs as engines: real processes, a real socket."""

import asyncio
import dataclasses
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from gateways import until
from tiny_engines import RULES, Spec, alive, noted, parent_of, same_group

from engines.launch.launcher import LaunchError, LaunchSpec, ProcessState, ProcessView
from engines.launch.local import LocalLauncher, NoSupervisorError
from engines.launch.rules import Rules
from engines.launch.supervisor import Supervisor, socket_in
from engines.reports import PrefillSettings


@asynccontextmanager
async def supervised(
    tmp_path: Path, *specs: LaunchSpec, rules: Rules = RULES
) -> AsyncIterator[tuple[Supervisor, LocalLauncher]]:
    run_dir = tmp_path / "run"
    run_dir.mkdir(exist_ok=True)
    async with asyncio.timeout(30):
        supervisor = Supervisor(specs, run_dir, run_dir, rules)
        async with supervisor.serving():
            yield supervisor, LocalLauncher("p", run_dir, rules.stop_s)


async def until_state(launcher: LocalLauncher, state: ProcessState, name: str = "p-0") -> ProcessView:
    while (view := await launcher.view(name)).state is not state:  # noqa: ASYNC110 - another process has no event
        await asyncio.sleep(0.01)
    return view


async def test_a_replica_is_started_viewed_and_stopped(tmp_path: Path, spec: Spec) -> None:
    one = spec(prefill=PrefillSettings(4096))
    async with supervised(tmp_path, one) as (_, launcher):
        assert (await launcher.view("p-0")).state is ProcessState.STOPPED
        await launcher.start(one)
        view = await launcher.view("p-0")
        assert view.state is ProcessState.RUNNING
        assert view.command[: len(one.program)] == one.program
        assert "--max-num-batched-tokens" in view.command
        await until(lambda: view.pid in noted(tmp_path))
        assert view.pid is not None
        assert alive(view.pid)
        await launcher.start(one)  # it runs so already
        assert (await launcher.view("p-0")).pid == view.pid
        await launcher.stop("p-0")
        assert not alive(view.pid)
        assert (await launcher.view("p-0")).state is ProcessState.STOPPED


async def test_a_restart_has_other_settings_and_another_process(tmp_path: Path, spec: Spec) -> None:
    one = spec(prefill=PrefillSettings(2048))
    async with supervised(tmp_path, one) as (_, launcher):
        await launcher.start(one)
        before = await launcher.view("p-0")
        await launcher.restart(dataclasses.replace(one, prefill=PrefillSettings(4096)))
        after = await launcher.view("p-0")
        assert before.pid is not None
        assert not alive(before.pid)
        assert after.pid != before.pid
        assert after.command[after.command.index("--max-num-batched-tokens") + 1] == "4096"


async def test_what_ends_by_itself_is_started_again_and_says_why_it_ended(tmp_path: Path, spec: Spec) -> None:
    one = spec("p-0", "quits")
    async with supervised(tmp_path, one) as (_, launcher):
        await launcher.start(one)
        await until(lambda: len(noted(tmp_path)) == 2)
        view = await until_state(launcher, ProcessState.RUNNING)
        assert view.restarts == 1
        assert view.reason == "it exited with status 3; its last words: CUDA out of memory"


async def test_what_crashes_again_and_again_is_given_up(tmp_path: Path, spec: Spec) -> None:
    one = spec("p-0", "crash")
    async with supervised(tmp_path, one) as (_, launcher):
        await launcher.start(one)
        view = await until_state(launcher, ProcessState.FAILED)
        assert len(noted(tmp_path)) == RULES.tries
        assert view.restarts == RULES.tries - 1
        assert "CUDA out of memory" in view.reason
        assert view.pid is None
        lines = await launcher.tail("p-0", 50)
        assert lines.count("CUDA out of memory") == RULES.tries
        await launcher.restart(dataclasses.replace(one, program=spec("p-0", "serve").program))
        assert (await launcher.view("p-0")).state is ProcessState.RUNNING


async def test_kill_9_is_healed(tmp_path: Path, spec: Spec) -> None:
    one = spec()
    async with supervised(tmp_path, one) as (_, launcher):
        await launcher.start(one)
        pid = (await launcher.view("p-0")).pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: not alive(pid))
        view = await launcher.view("p-0")
        while view.pid in (None, pid) or view.state is not ProcessState.RUNNING:
            await asyncio.sleep(0.01)
            view = await launcher.view("p-0")
        assert "was ended by SIGKILL" in view.reason


@pytest.mark.parametrize("how", ["stop", "kill -9", "keeper killed"])
async def test_nothing_of_a_family_is_left(tmp_path: Path, spec: Spec, how: str) -> None:
    """Children of its process group, and one that has left it; all heed no SIGTERM."""
    one = spec("p-0", "family")
    rules = dataclasses.replace(RULES, stop_s=0.2, backoff_s=20, most_backoff_s=20)
    async with supervised(tmp_path, one, rules=rules) as (_, launcher):
        await launcher.start(one)
        await until(lambda: len(noted(tmp_path)) == 3)
        family = noted(tmp_path)
        pid = (await launcher.view("p-0")).pid
        assert pid in family
        if how == "stop":
            await launcher.stop("p-0")
        elif how == "kill -9":
            os.kill(pid, signal.SIGKILL)
        else:
            strays = [one for one in family if not same_group(one, pid)]  # who left the group is then nobody's
            os.kill(parent_of(pid), signal.SIGKILL)
            for stray in strays:
                os.kill(stray, signal.SIGKILL)
        await until(lambda: not any(alive(one) for one in family))


async def test_who_heeds_no_sigterm_is_killed(tmp_path: Path, spec: Spec) -> None:
    one = spec("p-0", "stubborn")
    async with supervised(tmp_path, one, rules=dataclasses.replace(RULES, stop_s=0.1)) as (_, launcher):
        await launcher.start(one)
        await until(lambda: len(noted(tmp_path)) == 1)
        await launcher.stop("p-0")
        assert not alive(noted(tmp_path)[0])


async def test_a_port_in_use_is_named_and_waited_for(tmp_path: Path, spec: Spec) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        one = spec(port=other.getsockname()[1])
        async with supervised(tmp_path, one, rules=dataclasses.replace(RULES, tries=1000)) as (_, launcher):
            await launcher.start(one)
            view = await until_state(launcher, ProcessState.BACKOFF)
            assert view.reason == f"port {one.port} of 127.0.0.1 is taken by another process"
            other.close()
            await until_state(launcher, ProcessState.RUNNING)


async def test_event_ports_are_looked_at_too(tmp_path: Path, spec: Spec) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        one = spec(event_ports=(port, port + 1))
        async with supervised(tmp_path, one) as (_, launcher):
            await launcher.start(one)
            assert f"port {port} of this host is taken" in (await until_state(launcher, ProcessState.FAILED)).reason


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"program": ("/nowhere/vllm", "serve")}, "/nowhere/vllm cannot be started: No such file or directory"),
        ({"program": ("nonsuch-program",)}, "nonsuch-program cannot be started: No such file or directory"),
        ({"directory": "/nowhere"}, "/nowhere is no folder that it could run in"),
        ({"host": "192.0.2.1"}, "192.0.2.1 is no address of this host"),
    ],
)
async def test_what_no_second_try_helps_is_an_error_at_once(
    tmp_path: Path, spec: Spec, changes: dict[str, object], sentence: str
) -> None:
    one = spec(**changes)
    async with supervised(tmp_path, one) as (_, launcher):
        with pytest.raises(LaunchError, match=sentence):
            await launcher.start(one)
        assert (await launcher.view("p-0")).state is ProcessState.FAILED


async def test_an_engine_that_is_not_known_disturbs_nothing(tmp_path: Path, spec: Spec) -> None:
    one = spec()
    async with supervised(tmp_path, one) as (_, launcher):
        await launcher.start(one)
        before = await launcher.view("p-0")
        with pytest.raises(LaunchError, match="unknown engine 'vlm': did you mean 'vllm'"):
            await launcher.restart(dataclasses.replace(one, dialect="vlm"))
        assert await launcher.view("p-0") == before


async def test_the_next_supervisor_goes_on_with_what_was_applied(tmp_path: Path, spec: Spec) -> None:
    one, two = spec(prefill=PrefillSettings(2048)), spec("p-1")
    applied = dataclasses.replace(one, prefill=PrefillSettings(4096))
    async with supervised(tmp_path, one, two) as (_, launcher):
        await launcher.restart(applied)
        await launcher.stop("p-1")
    assert not any(alive(pid) for pid in noted(tmp_path))
    async with supervised(tmp_path, one, two) as (supervisor, launcher):
        await supervisor.resume("p-0")
        await supervisor.resume("p-1")
        assert "4096" in (await launcher.view("p-0")).command
        assert (await launcher.view("p-1")).state is ProcessState.STOPPED
        await launcher.begin("p-1")
        assert (await launcher.view("p-1")).state is ProcessState.RUNNING
    changed = dataclasses.replace(one, prefill=PrefillSettings(8192))  # the file's word is newer
    async with supervised(tmp_path, changed) as (supervisor, launcher):
        await supervisor.resume("p-0")
        assert "8192" in (await launcher.view("p-0")).command


async def test_a_state_that_cannot_be_read_is_none(tmp_path: Path, spec: Spec) -> None:
    one = spec()
    async with supervised(tmp_path, one) as (supervisor, launcher):
        (tmp_path / "run" / "p-0.json").write_text("{")
        await supervisor.resume("p-0")
        assert (await launcher.view("p-0")).state is ProcessState.RUNNING


async def test_one_folder_has_one_supervisor(tmp_path: Path, spec: Spec) -> None:
    async with supervised(tmp_path, spec()):
        with pytest.raises(LaunchError, match=r"another supervisor has .*: give this one another run_dir"):
            async with supervised(tmp_path, spec()):
                pass
        mode = socket_in(tmp_path / "run").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
    with pytest.raises(NoSupervisorError, match=r"pool `p` has no supervisor .*`prefixgate engine launch --pool p"):
        await LocalLauncher("p", tmp_path / "run", 1).view("p-0")


async def test_nonsense_over_the_socket_is_answered(tmp_path: Path, spec: Spec) -> None:
    async with supervised(tmp_path, spec()) as (_, launcher):
        for nonsense in (b"{}\n", b"GET / HTTP/1.1\r\n", b"\n", b""):
            reader, writer = await asyncio.open_unix_connection(socket_in(tmp_path / "run"))
            writer.write(nonsense)
            writer.write_eof()
            assert b"was not understood" in await reader.read()
            writer.close()
        with pytest.raises(LaunchError, match="no replica `p-7` is supervised here; there are: p-0"):
            await launcher.stop("p-7")
        with pytest.raises(LaunchError, match="knows no replica `p-7`"):
            await launcher.view("p-7")


async def test_logs_are_rotated(tmp_path: Path, spec: Spec) -> None:
    one = spec("p-0", "chatty")
    log = tmp_path / "run" / "p-0.log"
    async with supervised(tmp_path, one, rules=dataclasses.replace(RULES, log_bytes=8192, log_keep=2)) as (_, launcher):
        await launcher.start(one)
        await until(log.with_name("p-0.log.2").exists)
        assert not log.with_name("p-0.log.3").exists()
        assert len(await launcher.tail("p-0", 3)) <= 3
        await launcher.stop("p-0")
    assert max(path.stat().st_size for path in log.parent.glob("p-0.log*")) <= 8192 + (1 << 16)


async def test_what_a_killed_supervisor_left_ends_before_the_next_begins(
    tmp_path: Path, spec: Spec, supervisors: Any
) -> None:
    """Its engine, which heeds no SIGTERM, has stop_s."""
    one, rules = spec("p-0", "stubborn"), dataclasses.replace(RULES, stop_s=0.3)
    process = supervisors.start(one, tmp_path / "run", rules)
    await until(lambda: len(noted(tmp_path)) == 1)
    process.kill()
    await asyncio.to_thread(process.wait)
    [engine] = noted(tmp_path)
    async with supervised(tmp_path, one, rules=rules) as (supervisor, launcher):
        await supervisor.resume("p-0")
        assert not alive(engine)
        assert (await launcher.view("p-0")).state is ProcessState.RUNNING
