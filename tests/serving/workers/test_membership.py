"""`serve --workers 2`: whichever worker is told, all of them do it, and one that is started later too."""

import os
import signal
from collections.abc import Iterator
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
    """A gateway of two workers over the first engine, asked over fresh connections so that any of them may answer."""

    def __init__(self, path: Path, engine: str) -> None:
        self.path = path
        self.engine = engine
        self.url = self.admin_url = ""
        self.pid = 0
        self.write()

    def write(self, *more: str, tables: str = "") -> None:
        urls = ", ".join(f'"{url}"' for url in (self.engine, *more))
        self.path.write_text(
            f"[server]\nport = 0\nworkers = 2\n{tables}"
            f'[journal]\npath = "{self.path.parent}/journal.jsonl"\n'
            f'[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "{MODEL}"\nreplicas = [{urls}]\n'
        )

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


@pytest.fixture
def gateway(engines: list[str], tmp_path: Path) -> Iterator[Gateway]:
    one = Gateway(tmp_path / "gateway.toml", engines[0])
    with prefixgate("serve", "--config", str(one.path)) as (process, urls):
        one.url, one.admin_url = urls
        one.pid = process.pid
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
    gateway.write(engines[1], tables='[routing]\npolicy = "prefix"\n')
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

    gateway.write(tables='[routing]\npolicy = "random"\n')
    os.kill(gateway.pid, signal.SIGHUP)
    until(lambda: gateway.policies() == {"random"})
    until(lambda: gateway.state("p-1") == "removed")
    victim = gateway.workers()[1]["pid"]
    os.kill(victim, signal.SIGKILL)
    until(lambda: all(row["state"] == "up" and row["pid"] != victim for row in gateway.workers()))
    assert gateway.policies() == {"random"}
