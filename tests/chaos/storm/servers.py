"""Engines, gateways and a Redis as processes of their own, to be killed and started again; does I/O."""

import asyncio
import re
import signal
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from storm.asks import MODEL

START_S = 60.0
END_S = 45.0


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Server:
    """A process that announces on one line that it listens; its other words go to `log`."""

    def __init__(self, command: list[str], log: Path) -> None:
        self._command = [sys.executable, "-m", "gateway", *command]
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def ended_with(self) -> int | None:
        """The exit status, None while it lives."""
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Raises RuntimeError where it does not come up."""
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            line = await self._process.stdout.readline()
        if not re.search(rb"http://[\d.]+:\d+", line):
            await self.end()
            raise RuntimeError(f"{' '.join(self._command)} did not start: see {self._log}")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()

    async def end(self) -> int:
        """SIGTERM; the exit status."""
        assert self._process is not None
        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
        try:
            async with asyncio.timeout(END_S):
                return await self._process.wait()
        except TimeoutError:
            await self.kill()
            return -signal.SIGKILL


class Engine(Server):
    """A simulated engine on a port that it keeps over restarts; `replica` is what the gateway calls it."""

    def __init__(self, dialect: str, replica: str, speed: float, folder: Path) -> None:
        self.port = free_port()
        self.replica = replica
        self.url = f"http://127.0.0.1:{self.port}"
        options = ["--dialect", dialect, "--port", str(self.port), "--model", MODEL, "--speed", str(speed)]
        super().__init__(["engine", "simulate", *options], folder / f"{replica}.log")

    async def order(self, **fault: object) -> None:
        """Have it misbehave; nothing: have it behave."""
        async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
            (await http.post(self.url + "/sim/fault", json=fault)).raise_for_status()


@dataclass
class GatewayFile:
    """The gateway's configuration and its ports, which successors share."""

    path: Path
    port: int = field(default_factory=free_port)
    admin_port: int = field(default_factory=free_port)

    def write(self, engines: list[Engine], timeouts_s: tuple[float, ...], redis_url: str | None) -> None:
        """`timeouts_s`: for a connection, the beginning of an answer, and between its bytes."""
        connect_s, first_byte_s, idle_s = timeouts_s
        pools: dict[str, list[str]] = {}
        for engine in engines:
            pools.setdefault(engine.replica.rpartition("-")[0], []).append(engine.url)
        tables = [
            f"[server]\nport = {self.port}\nadmin_port = {self.admin_port}\nreuse_port = true",
            f"[timeouts]\nconnect_s = {connect_s}\nfirst_token_s = {first_byte_s}\nfirst_byte_s = {first_byte_s}\n"
            f"idle_s = {idle_s}",
            "[polling]\ninterval_s = 0.5\ntimeout_s = 1",
            *([f'[state]\nredis_url = "{redis_url}"'] if redis_url else []),
            *(
                f'[[pools]]\nname = "{name}"\nengine = "{name}"\nmodel = "{MODEL}"\nreplicas = {urls}'
                for name, urls in pools.items()
            ),
        ]
        self.path.write_text("\n".join(tables).replace("'", '"') + "\n")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def admin_url(self) -> str:
        return f"http://127.0.0.1:{self.admin_port}"

    def gateway(self) -> Server:
        """One more gateway of this file."""
        return Server(["serve", "--config", str(self.path)], self.path.with_suffix(".log"))


def resident_mib(pid: int) -> float:
    """`VmRSS`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))
