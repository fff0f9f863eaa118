"""The routers that are measured, as processes in front of the same upstreams: ours, and peers where installed."""

import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

PEERS_FOLDER = Path(".venv-peers")
READY_S = 60.0


@dataclass(frozen=True, slots=True)
class Process:
    """A running server and the port that clients use; `pid` 0 for what is not accounted, `admin_port` for ours."""

    pid: int
    port: int
    admin_port: int = 0


@contextmanager
def started(command: Sequence[str], log: Path, *, announces: bool = True) -> Iterator[subprocess.Popen[str]]:
    """The command as a process, ended when left; what it says goes to `log`, but for what it announces on stdout."""
    with log.open("w") as said:
        out = subprocess.PIPE if announces else said
        process = subprocess.Popen(command, stdout=out, stderr=said, text=True)
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def upstream(log: Path, **options: float) -> Iterator[Process]:
    """A cheap engine; its options are the program's."""
    flags = [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    with started([sys.executable, str(Path(__file__).with_name("upstream.py")), *flags], log) as process:
        assert process.stdout is not None
        yield Process(process.pid, int(process.stdout.readline()))


@contextmanager
def upstreams(count: int, chunks: int, gap_ms: float, folder: Path, cache_blocks: int = 0) -> Iterator[list[Process]]:
    """So many cheap engines."""
    with ExitStack() as stack:
        options = {"chunks": chunks, "gap_ms": gap_ms, "cache_blocks": cache_blocks}
        logs = [folder / f"upstream-{number}.log" for number in range(count)]
        yield [stack.enter_context(upstream(log, **options)) for log in logs]


@contextmanager
def prefixgate(engines: Sequence[int], folder: Path, workers: int = 1, tables: str = "") -> Iterator[Process]:
    """Ours with everything on: policy `ttft`, metrics, usage asked for and taken out again; `tables` of its file."""
    urls = ", ".join(f'"http://127.0.0.1:{port}"' for port in engines)
    file = folder / "prefixgate.toml"
    file.write_text(f'[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = [{urls}]\n{tables}')
    command = [sys.executable, "-m", "gateway", "serve", "--config", str(file), "--port", "0", "--admin-port", "0"]
    command += ["--workers", str(workers)]
    with started(command, folder / "prefixgate.log") as process:
        assert process.stdout is not None
        ports = re.findall(r"http://127\.0\.0\.1:(\d+)", process.stdout.readline())
        if not ports:
            raise RuntimeError(f"prefixgate did not start: see {folder / 'prefixgate.log'}")
        yield Process(process.pid, *map(int, ports))


def _peer(name: str, *command: str) -> "Router":
    """A program of an environment of its own, in its cache-aware mode; the first of `command` is in its `bin`."""
    program = PEERS_FOLDER / name / "bin" / command[0]

    @contextmanager
    def run(engines: Sequence[int], folder: Path) -> Iterator[Process]:
        port = _free_port()
        urls = [f"http://127.0.0.1:{engine}" for engine in engines]
        options = ["--worker-urls", *urls, "--policy", "cache_aware", "--host", "127.0.0.1"]
        options += ["--port", str(port), "--prometheus-port", str(_free_port())]  # by default all share one
        log = folder / f"{name}.log"
        with started([str(program), *command[1:], *options], log, announces=False) as process:
            _await_answer(process, port, log)
            yield Process(process.pid, port)

    return Router(name, run, program)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_answer(process: subprocess.Popen[str], port: int, log: Path) -> None:
    """Until a chat completion comes through."""
    body = {"model": "m", "messages": [{"role": "user", "content": "ready?"}]}
    until = time.monotonic() + READY_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise RuntimeError(f"did not come up: see {log}")


@dataclass(frozen=True, slots=True)
class Router:
    """One of those that are compared. `needs` must exist for it to be installed; None: it always is."""

    name: str
    run: Callable[[Sequence[int], Path], AbstractContextManager[Process]]
    needs: Path | None = None

    @property
    def installed(self) -> bool:
        """Whether it can be started here."""
        return self.needs is None or self.needs.exists()


ROUTERS = (
    Router("prefixgate", prefixgate),
    _peer("sglang-router", "python", "-m", "sglang_router.launch_router"),
    _peer("vllm-router", "vllm-router"),
    _peer("smg", "smg", "launch"),
)
