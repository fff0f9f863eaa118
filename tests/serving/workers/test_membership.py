"""`serve --workers 2`: whichever worker is told, all of them do it, and one that is started later too."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import until
from processes import prefixgate

MODEL = "deepseek-v4-flash"


@pytest.fixture(scope="module")
def engines() -> Iterator[list[str]]:
    """Two simulated engines that answer at once."""
    arguments = ("engine", "simulate", "--port", "0", "--speed", "200", "--model", MODEL)
    with prefixgate(*arguments) as (_, one), prefixgate(*arguments) as (_, two):
        yield [one[0], two[0]]


class Gateway:
    """A gateway of two workers, asked over fresh connections so that any of them may answer."""

    def __init__(self, path: Path, pid: int, url: str, admin_url: str) -> None:
        self.path = path
        self.pid = pid
        self.url = url
        self.admin_url = admin_url

    def admin(self, method: str, path: str, **more: Any) -> httpx.Response:
        return httpx.request(method, self.admin_url + path, timeout=60, trust_env=False, **more)

    def ask(self, replica: str) -> int:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        headers = {"x-prefixgate-replica": replica}
        url = f"{self.url}/v1/chat/completions"
        return httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False).status_code

    def all_say(self, replica: str, status: int) -> bool:
        """By a dozen connections, one of which comes to the other worker for all practical purposes."""
        return all(self.ask(replica) == status for _ in range(12))

    def state(self, replica: str) -> str:
        rows = self.admin("GET", "/api/replicas").json()
        return next((str(row["state"]) for row in rows if row["name"] == replica), "removed")

    def workers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.admin("GET", "/api/snapshot").json()["gateway"]["workers"]
        return rows

    def policies(self) -> set[str]:
        return {self.admin("GET", "/api/snapshot").json()["snapshot"]["policy"] for _ in range(12)}


def write(path: Path, *urls: str, tables: str = "") -> None:
    listed = ", ".join(f'"{url}"' for url in urls)
    path.write_text(
        f"[server]\nport = 0\nworkers = 2\n{tables}[retry]\nwait_s = 0\n"
        f'[journal]\npath = "{path.parent}/journal.jsonl"\n'
        f'[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "{MODEL}"\nreplicas = [{listed}]\n'
    )


@contextmanager
def running(path: Path) -> Iterator[Gateway]:
    with prefixgate("serve", "--config", str(path)) as (process, urls):
        yield Gateway(path, process.pid, *urls)


@pytest.fixture
def gateway(engines: list[str], tmp_path: Path) -> Iterator[Gateway]:
    """Over the first engine."""
    path = tmp_path / "gateway.toml"
    write(path, engines[0])
    with running(path) as one:
        yield one


def test_all_workers_add_drain_resume_and_remove(gateway: Gateway, engines: list[str]) -> None:
    added = gateway.admin("POST", "/api/replicas", json={"pool": "p", "url": engines[1]})
    assert (added.status_code, added.json()["name"]) == (201, "p-1")
    until(lambda: gateway.all_say("p-1", 200))
    assert gateway.admin("POST", "/api/replicas", json={"pool": "p", "url": engines[1]}).status_code == 409
    assert gateway.admin("POST", "/api/replicas/p-1/drain").status_code == 200
    until(lambda: gateway.all_say("p-1", 503))

    victim = gateway.workers()[0]["pid"]
    os.kill(victim, signal.SIGKILL)
    until(lambda: all(row["state"] == "up" and row["pid"] != victim for row in gateway.workers()))
    assert gateway.all_say("p-1", 503)
    assert gateway.admin("POST", "/api/replicas/p-1/resume").status_code == 200
    until(lambda: gateway.all_say("p-1", 200))

    assert gateway.admin("DELETE", "/api/replicas/p-1").status_code in (200, 202)
    until(lambda: gateway.state("p-1") == "removed")
    until(lambda: gateway.all_say("p-1", 400))
    assert gateway.all_say("p-0", 200)
    assert gateway.admin("DELETE", "/api/replicas/p-1").status_code == 404


def test_all_workers_read_the_file_again(gateway: Gateway, engines: list[str]) -> None:
    write(gateway.path, *engines, tables='[routing]\npolicy = "prefix"\n')
    told = gateway.admin("POST", "/api/config/reload")
    assert told.status_code == 200
    assert {name: value for name, value in told.json().items() if value} == {
        "changed": ["pools.p.replicas", "routing.policy"],
        "replicas_added": ["p-1"],
    }
    until(lambda: gateway.policies() == {"prefix"})
    until(lambda: gateway.all_say("p-1", 200))

    gateway.path.write_text("[[pools]]\n")
    assert gateway.admin("POST", "/api/config/reload").status_code == 400
    os.kill(gateway.pid, signal.SIGHUP)  # which says so in the log, and changes nothing either
    assert gateway.policies() == {"prefix"}

    write(gateway.path, engines[0], tables='[routing]\npolicy = "random"\n')
    os.kill(gateway.pid, signal.SIGHUP)
    until(lambda: gateway.policies() == {"random"})
    until(lambda: gateway.state("p-1") == "removed")
    victim = gateway.workers()[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    until(lambda: all(row["state"] == "up" and row["pid"] != victim for row in gateway.workers()))
    assert gateway.policies() == {"random"}


def test_one_worker_discovers_and_all_are_told(engines: list[str], tmp_path: Path) -> None:
    targets, path = tmp_path / "targets.json", tmp_path / "gateway.toml"
    targets.write_text(f'[{{"targets": ["{engines[0]}"]}}]')
    path.write_text(
        f'[server]\nport = 0\nworkers = 2\n[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "{MODEL}"\n'
        f'[pools.discovery]\nfile = "{targets}"\nevery_s = 0.2\n'
    )
    with running(path) as one:
        until(lambda: one.all_say("p-0", 200))
        targets.write_text(f'[{{"targets": ["{engines[0]}", "{engines[1]}"]}}]')
        until(lambda: one.all_say("p-1", 200))
        os.kill(one.workers()[0]["pid"], signal.SIGKILL)  # the one that discovers
        until(lambda: all(row["state"] == "up" and row["restarts"] == 1 for row in one.workers()[:1]))
        targets.write_text(f'[{{"targets": ["{engines[1]}"]}}]')
        until(lambda: one.state("p-0") == "removed")
        assert one.all_say("p-1", 200)
