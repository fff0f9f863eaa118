"""`prefixgate engine …`: render, launch, status, stop, logs, and a simulated engine under real engines' flags."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from processes import prefixgate
from tiny_engines import PROGRAM, alive, free_port, noted

from engines.launch.command import LaunchCommand
from engines.launch.launcher import LaunchSpec
from engines.registry import dialect
from engines.reports import PrefillSettings
from gateway.cli import run
from gateway.config import load
from gateway.serving.launching import missing_flags
from gateway.serving.supervision import ensure_supervisors

ROOT = Path(__file__).parents[2]
WAIT_S = 40


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, "it does not come about"
        time.sleep(0.02)


def config_of(tmp_path: Path, program: list[str], replicas: int = 2, **launch: object) -> Path:
    urls = [f"http://127.0.0.1:{free_port()}" for _ in range(replicas)]
    keys = {"kind": "local", "run_dir": str(tmp_path / "run"), "gpus": [], "stop_s": 5.0, "program": program, **launch}
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path = tmp_path / "gateway.toml"
    path.write_text(
        "[server]\nport = 0\nadmin_port = 0\n"
        f'[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "m"\nreplicas = {json.dumps(urls)}\n'
        "[pools.prefill]\nchunk_tokens = 4096\n[pools.launch]\n" + "\n".join(lines) + "\n"
    )
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A local pool whose engines are small programs; whatever runs at the end is stopped."""
    path = config_of(tmp_path, [sys.executable, "-I", "-S", str(PROGRAM), "serve", str(tmp_path / "pids")])
    yield path
    run(["engine", "stop", "--config", str(path)])


def states(config: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    capsys.readouterr()
    run(["engine", "status", "--config", str(config), "--json"])
    return {one["replica"]: one["view"]["state"] for one in json.loads(capsys.readouterr().out)}


def test_the_life_of_a_local_pool(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ["--config", str(tiny)]
    assert run(["engine", "status", *file]) == 1
    assert "start it with `prefixgate engine launch --pool p" in capsys.readouterr().err
    assert run(["engine", "launch", *file, "--detach"]) == 0
    said = capsys.readouterr().out
    supervisor = int(said.split()[1])
    assert said == f"process {supervisor} supervises pool p; `prefixgate engine stop` ends it\n"
    eventually(lambda: len(noted(tmp_path)) == 2)
    assert run(["engine", "launch", *file]) == 0  # there is one: nothing is begun twice
    assert f"process {supervisor} supervises" in capsys.readouterr().out
    assert states(tiny, capsys) == {"p-0": "running", "p-1": "running"}
    assert run(["engine", "status", *file]) == 0
    assert "p-1" in capsys.readouterr().out

    assert run(["engine", "stop", *file, "--replica", "p-1"]) == 0
    assert states(tiny, capsys) == {"p-0": "running", "p-1": "stopped"}
    assert run(["engine", "status", *file]) == 1
    assert run(["engine", "launch", *file, "--replica", "p-1"]) == 0
    assert states(tiny, capsys) == {"p-0": "running", "p-1": "running"}
    assert run(["engine", "logs", *file, "--replica", "p-0", "--lines", "1"]) == 0
    assert capsys.readouterr().out == "I load the weights\n"

    [pool] = load(tiny).pools
    assert asyncio.run(missing_flags(pool)) == {"p-0": [], "p-1": []}
    wished = msgspec.structs.replace(pool, prefill=msgspec.structs.replace(pool.prefill, chunk_tokens=8192))
    assert asyncio.run(missing_flags(wished))["p-0"] == ["--max-num-batched-tokens 8192"]

    os.kill(supervisor, signal.SIGKILL)
    eventually(lambda: not any(alive(pid) for pid in noted(tmp_path)))
    assert run(["engine", "launch", *file, "--detach"]) == 0
    assert states(tiny, capsys) == {"p-0": "running", "p-1": "running"}
    assert run(["engine", "stop", *file]) == 0
    assert not any(alive(pid) for pid in noted(tmp_path))
    assert run(["engine", "stop", *file]) == 1


def test_launch_in_the_foreground_ends_its_engines(tiny: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gateway", "engine", "launch", "--config", str(tiny), "--replica", "p-0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("prefixgate supervises p-0 of pool p (logs in ")
        eventually(lambda: len(noted(tmp_path)) == 1)
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 0
    assert not alive(noted(tmp_path)[0])


def test_serve_starts_a_supervisor_and_leaves_its_engines_running(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with prefixgate("serve", "--config", str(tiny)):
        eventually(lambda: len(noted(tmp_path)) == 2)
    assert states(tiny, capsys) == {"p-0": "running", "p-1": "running"}
    assert len(noted(tmp_path)) == 2


def test_a_service_of_systemd_starts_none(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end with the service."""
    monkeypatch.setenv("SYSTEMD_EXEC_PID", str(os.getpid()))
    [sentence] = asyncio.run(ensure_supervisors(load(tiny).pools, tiny))
    assert sentence.startswith("pool `p` has no supervisor")
    assert asyncio.run(ensure_supervisors([], tiny)) == []


def test_a_program_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_of(tmp_path, ["nonsuch-program"], replicas=1)
    assert run(["engine", "launch", "--config", str(path), "--detach"]) == 1
    assert capsys.readouterr().err.startswith("prefixgate: p-0: nonsuch-program cannot be started: No such file")
    assert states(path, capsys) == {"p-0": "failed"}
    assert run(["engine", "stop", "--config", str(path)]) == 0


def test_a_supervisor_that_does_not_come_up_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_of(tmp_path, ["x"], run_dir=str(tmp_path / ("x" * 120)))
    assert run(["engine", "launch", "--config", str(path), "--detach"]) == 1
    assert "AF_UNIX path too long" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    path = config_of(tmp_path, ["x"], run_dir=str(tmp_path / "file"))
    assert run(["engine", "launch", "--config", str(path)]) == 2
    assert "cannot be made: File exists" in capsys.readouterr().err
    (tmp_path / "open").mkdir(mode=0o755)
    path = config_of(tmp_path, ["x"], run_dir=str(tmp_path / "open"))
    for detach in ((), ("--detach",)):
        assert run(["engine", "launch", "--config", str(path), *detach]) == 2
        assert "is open to others" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["launch", "--pool", "q"], "there is no pool q; there are p"),
        (["launch", "--replica", "p-9"], "no pool that fits has [pools.launch] kind"),
        (["launch", "--pool", "p", "--replica", "p-9"], "pool `p` has no replica p-9; it has p-0, p-1"),
        (["logs", "--replica", "p-0", "--lines", "0"], "--lines must be at least 1"),
        (["render", "--replica", "p-9"], "the file lists no such replica"),
        (["simulate", "--dialect", "vllm", "--chunked-prefill-size", "1"], "vllm has no flag --chunked-prefill-size"),
        (["simulate", "--dialect", "sglang", "--enable-prompt-tokens-details"], "sglang has no flag --enable-prompt"),
        (["simulate", "--kv-events-config", "{"], "--kv-events-config is not understood"),
        (["simulate", "--max-num-batched-tokens", "9999999"], "leaves no room for the KV cache"),
        (["simulate", "--start-s", "-1"], "start_s must not be negative"),
    ],
)
def test_bad_usage(tmp_path: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = [] if arguments[0] == "simulate" else ["--config", str(config_of(tmp_path, ["x"]))]
    assert run(["engine", *arguments, *file]) == 2
    assert complaint in capsys.readouterr().err


def test_external_pools_have_nothing_to_show(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config_of(tmp_path, ["x"], kind="external")
    assert run(["engine", "status", "--config", str(path)]) == 2
    assert "no pool has a [pools.launch]" in capsys.readouterr().err
    assert run(["engine", "launch", "--config", str(path), "--pool", "p"]) == 2
    assert 'its [pools.launch] kind is "external"' in capsys.readouterr().err
    assert run(["engine", "render", "--config", str(path)]) == 0
    assert "# p-0 (external)\nx m --served-model-name m --host 127.0.0.1" in capsys.readouterr().out


def test_render_shows_what_each_launcher_sends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["engine", "render", "--config", str(ROOT / "deploy" / "engines.toml"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["replica"] for row in rows] == ["vllm-w4a8-0", "vllm-w4a8-1", "sglang-fp4-0", "sglang-fp4-1"]
    seed = "vllm serve ./dsv4-w4a8 --tensor-parallel-size 2 --disable-custom-all-reduce --trust-remote-code"
    assert set(seed.split()) <= set(rows[0]["command"])
    assert rows[2]["command"][-2:] == ["--moe-runner-backend", "marlin"]
    assert rows[0]["env"] == {"CUDA_VISIBLE_DEVICES": "0,1"}
    path = config_of(tmp_path, ["/opt/vllm", "serve"], kind="systemd")
    assert run(["engine", "render", "--config", str(path), "--multi-line", "--replica", "p-1"]) == 0
    shown = capsys.readouterr().out
    assert "# p-1 (systemd)\n/opt/vllm serve m \\\n  --served-model-name m \\\n" in shown
    assert '\nExecStart="/opt/vllm" "serve" "m"' in shown
    text = config_of(tmp_path, ["vllm", "serve"], replicas=1, kind="kubernetes").read_text()
    path.write_text(text.replace("127.0.0.1:", "vllm-0.vllm:") + 'kubernetes = {workload = "vllm", container = "c"}\n')
    assert run(["engine", "render", "--config", str(path)]) == 0
    patch = json.loads(capsys.readouterr().out.partition("\n\n")[2])
    assert patch["spec"]["template"]["spec"]["containers"][0]["command"] == ["vllm", "serve"]


def started(command: LaunchCommand) -> list[str]:
    """A rendered command, as it starts a simulated engine of ours in a test."""
    return ["engine", *command.words[command.words.index("simulate") :]]


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_a_rendered_command_starts_a_simulated_engine(engine: str) -> None:
    first = free_port()
    spec = LaunchSpec(
        name="r",
        dialect=engine,
        model="./weights",
        served_name="m",
        host="127.0.0.1",
        port=0,
        prefill=PrefillSettings(4096, 2048, 8192, mixed_chunk=True),
        tensor_parallel=2,
        event_ports=(first, free_port()),
        event_topic="kv",
        program=("python", "-m", "gateway", "engine", "simulate", "--dialect", engine, "--speed", "50"),
        flags=("--trust-remote-code", *(("--moe-runner-backend", "marlin") if engine == "sglang" else ())),
        confidential=True,
    )
    known = dialect(engine)
    with prefixgate(*started(known.launch_command(spec))) as (_, urls):
        paths = (known.models_path, *known.description_paths)
        answers = {path: httpx.get(urls[0] + path, trust_env=False) for path in paths}
        pages = {path: answer.content for path, answer in answers.items() if answer.status_code == 200}
    assert [card.id for card in known.read_models(pages[known.models_path])] == ["m"]
    described = known.describe(pages)
    wished = {"vllm": PrefillSettings(4096, 2048), "sglang": PrefillSettings(4096, None, 8192, mixed_chunk=True)}
    assert described.prefill == wished[engine]
    assert described.publishes_events
    [source] = known.read_event_sources(pages)
    assert (source.endpoint, source.topic) == (f"tcp://*:{first}", "kv")
