"""A real redis-server of a test's own, on a free port; `make test` sees to it that there is one."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

_INSTALLED = Path(__file__).parents[2] / ".redis" / "redis-server"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class RedisServer:
    """Keeps nothing on disk. It can be paused, killed and started again on the same port."""

    def __init__(self, password: str = "") -> None:
        found = _INSTALLED if _INSTALLED.exists() else shutil.which("redis-server")
        assert found, "there is no redis-server: run `tests/redis/install .redis`"
        self.port = free_port()
        self.url = f"redis://:{password}@127.0.0.1:{self.port}" if password else f"redis://127.0.0.1:{self.port}"
        options = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "dir": "/tmp"}
        self._command = [str(found), *(word for key, value in options.items() for word in (f"--{key}", str(value)))]
        self._command += ["--requirepass", password] if password else []
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while time.monotonic() < until:
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.1).close()
            except OSError:
                time.sleep(0.01)
            else:
                return
        raise AssertionError("redis-server did not start")

    def __enter__(self) -> "RedisServer":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def pause(self) -> None:
        """It takes connections, and answers nothing."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
