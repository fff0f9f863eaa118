"""`serve --workers 2` as processes: one gateway from outside, whatever becomes of its parts."""

import asyncio
import json
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from subprocess import Popen
from threading import Event
from typing import Any

import httpx
import pytest
from fake_engine import DONE, fake_engine, frame, held_stream
from gateways import chat_bytes, until_refused
from processes import prefixgate
from raw_client import raw_client

from gateway.cli import run
from gateway.journal.lines import read_journal
from gateway.serving.workers.supervisor import TRIES

MODEL = "deepseek-v4-flash"
LIMIT_S = 60.0
"""For what happens soon by itself, on a slow machine too."""


@pytest.fixture(scope="module")
def engine() -> Iterator[str]:
    """A simulated engine that answers at once."""
    with prefixgate("engine", "simulate", "--port", "0", "--speed", "200", "--model", MODEL) as (_, urls):
        yield urls[0]


@pytest.fixture(scope="module")
def gateway(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator["Gateway"]:
    """Two workers that write journals; 40 requests were sent, each over a connection of its own."""
    folder = tmp_path_factory.mktemp("journals")
    config = folder / "gateway.toml"
    config.write_text(
        f'[server]\nport = 0\nworkers = 2\n[journal]\npath = "{folder}/journal.jsonl"\n'
        f'[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "{MODEL}"\nreplicas = ["{engine}"]\n'
    )
    with prefixgate("serve", "--config", str(config)) as (process, urls):
        one = Gateway(process, *urls, folder)
        for number in range(40):
            assert one.post(number).status_code == 200
        yield one


class Gateway:
    """A gateway with several workers, asked over fresh connections so that any of them may answer."""

    def __init__(self, process: Popen[str], url: str, admin_url: str, folder: Path | None = None) -> None:
        self.process = process
        self.url = url
        self.admin_url = admin_url
        self.folder = folder

    def post(self, number: int, **more: Any) -> httpx.Response:
        body = chat(f"question {number % 5} " * 300, **more)
        headers = {"x-request-id": f"request-{number}"}
        return httpx.post(f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=60, trust_env=False)

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.admin_url + path, timeout=60, trust_env=False)

    def view(self) -> dict[str, Any]:
        view: dict[str, Any] = self.get("/api/snapshot").json()
        return view

    def workers(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = self.view()["gateway"]["workers"]
        return rows

    def restarts(self) -> int:
        """Of the first worker; 0 where this waited for one that was given up."""
        try:
            return int(self.workers()[0]["restarts"])
        except httpx.TransportError:
            return 0

    def completed(self) -> int:
        """By /metrics."""
        found = re.findall(
            r'^prefixgate_requests_total\{.*outcome="completed".*\} (\S+)$', self.metrics(), re.MULTILINE
        )
        return round(sum(map(float, found)))

    def metrics(self) -> str:
        return self.get("/metrics").text


def chat(text: str, **more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "max_tokens": 2, **more}


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that nobody waits for stays as a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_both_workers_serve_and_each_shows_all(gateway: Gateway) -> None:
    views = [gateway.view() for _ in range(12)]
    for view in views:
        rows = view["gateway"]["workers"]
        assert [row["number"] for row in rows] == [0, 1]
        assert all(row["state"] == "up" and row["requests"] > 0 and row["restarts"] == 0 for row in rows)
        assert sum(row["requests"] for row in rows) == 40
        assert len({row["pid"] for row in rows} | {gateway.process.pid}) == 3
        [series] = view["snapshot"]["series"]
        assert series["outcomes"] == {"completed": 40}
        assert sum(series["histograms"]["request_seconds"]["counts"]) == 40
        assert [one["inflight"] for one in view["snapshot"]["replicas"]] == [0]
        assert sum(one["requests"] for one in view["snapshot"]["families"]) == 40
        assert view["gateway"]["notices"] == []
    assert len({view["snapshot"]["at"] for view in views}) == 12


def test_the_metrics_are_of_all_workers(gateway: Gateway) -> None:
    for _ in range(6):
        assert gateway.completed() == 40
    shown = gateway.metrics()
    assert 'prefixgate_workers{state="up"} 2.0' in shown
    assert "prefixgate_worker_restarts_total 0.0" in shown
    assert 'prefixgate_request_seconds_count{model="deepseek-v4-flash",pool="p",replica="p-0"} 40.0' in shown
    assert len(re.findall(r"^process_cpu_seconds_total ", shown, re.MULTILINE)) == 1
    memory = re.search(r"^process_resident_memory_bytes (\S+)", shown, re.MULTILINE)
    assert memory is not None
    assert float(memory[1]) > sum(row["memory_bytes"] for row in gateway.workers()) * 1.1, "the parent is in it"


def test_every_request_is_known_to_every_worker(gateway: Gateway) -> None:
    for number in (0, 1, 2, 38, 39):
        for _ in range(3):
            told = gateway.get(f"/api/requests/request-{number}").json()
            assert (told["request_id"], told["outcome"]) == (f"request-{number}", "completed")
    for _ in range(4):
        every = [one["request_id"] for one in gateway.get("/api/requests").json()]
        assert every == [f"request-{number}" for number in reversed(range(40))]
        assert [one["request_id"] for one in gateway.get("/api/requests?limit=3").json()] == every[:3]
    assert gateway.get("/api/requests/none").status_code == 404


def test_the_rest_looks_like_one_gateway(gateway: Gateway) -> None:
    for _ in range(4):
        ready = httpx.get(gateway.url + "/ready", trust_env=False)
        assert ready.status_code == 200
        assert ready.json()["workers"] == {"0": "up", "1": "up"}
        assert [one["name"] for one in gateway.get("/api/replicas").json()] == ["p-0"]
    with httpx.stream("GET", gateway.admin_url + "/api/events", trust_env=False, timeout=60) as events:
        lines = events.iter_lines()
        for _ in range(2):
            view = json.loads(next(line for line in lines if line).removeprefix("data: "))
            assert sum(row["requests"] for row in view["gateway"]["workers"]) == 40


def test_the_journals_are_read_together(gateway: Gateway, capsys: pytest.CaptureFixture[str]) -> None:
    assert gateway.folder is not None
    paths = [gateway.folder / f"journal.jsonl.w{number}" for number in range(2)]

    def lines() -> list[bytes]:
        return [line for path in paths for line in path.read_bytes().splitlines(keepends=True)]

    until(lambda: len(read_journal(lines()).lines) == 40)
    text = read_journal(lines())
    assert len({header.salt_id for header in text.headers}) == 1
    assert text.notes == ()
    assert len({line.hash_ids for line in text.lines}) == 5, "the same prompt has the same ids in both"
    asked = gateway.folder / "journal.jsonl"
    assert not asked.exists()
    assert run(["simulate", "--journal", str(asked), "--policy", "round-robin", "--jobs", "1", "--json"]) == 0
    recorded, _ = json.loads(capsys.readouterr().out)
    assert (recorded["policy"], recorded["requests"]) == ("recorded", 40)


def test_what_one_worker_has_learned_all_know(gateway: Gateway) -> None:
    """Five prompts, asked eight times: each worker has met each, or heard of it."""
    sharing = gateway.view()["gateway"]["sharing"]
    assert (sharing["backend"], sharing["connected"], sharing["peers"]) == ("workers", True, 1)
    fresh = gateway.post(5 * 1000, messages=[{"role": "user", "content": "asked once " * 300}])
    assert fresh.status_code == 200

    def known(text: str) -> bool:
        told = httpx.post(f"{gateway.admin_url}/api/explain", json=chat(text), timeout=60, trust_env=False)
        return bool(told.json()["candidates"][0]["cached_tokens"] > 500)

    until(lambda: all(known("asked once " * 300) for _ in range(8)))


def test_a_worker_that_dies_is_replaced_and_the_port_never_refuses(engine: str) -> None:
    arguments = ("serve", "--vllm", engine, "--port", "0", "--admin-port", "0", "--workers", "2")
    ended, answers, broken = Event(), [], []
    with prefixgate(*arguments) as (process, urls), ThreadPoolExecutor(4) as pool:
        gateway = Gateway(process, *urls)

        def load(worker: int) -> None:
            number = worker * 100_000
            while not ended.is_set():
                number += 1
                try:
                    answers.append(gateway.post(number).status_code)
                except httpx.ConnectError:
                    raise  # refused: what must not happen
                except httpx.TransportError as error:
                    broken.append(error)

        loads = [pool.submit(load, number) for number in range(4)]
        try:
            until(lambda: len(answers) > 20)
            before = gateway.completed()
            victim = gateway.workers()[1]["pid"]
            os.kill(victim, signal.SIGKILL)
            until(lambda: [row["restarts"] for row in gateway.workers()] == [0, 1])
            assert gateway.completed() >= before, "counters never fall"
            until(lambda: all(row["state"] == "up" and row["requests"] > 0 for row in gateway.workers()))
        finally:
            ended.set()
        for one in loads:
            one.result(LIMIT_S)
        assert set(answers) == {200}
        assert len(broken) <= 4, "only what the dead one had begun"
        assert before <= gateway.completed() <= len(answers) + len(broken)
        assert "prefixgate_worker_restarts_total 1.0" in gateway.metrics()
        assert gateway.workers()[1]["pid"] != victim
        process.terminate()
        assert process.wait(LIMIT_S) == 0
        assert process.stderr is not None
        said = process.stderr.read()
        assert f"worker 1 (pid {victim}) was ended by SIGKILL; it is started again" in said
        assert "Traceback" not in said


async def test_streams_in_flight_end_before_the_gateway_does() -> None:
    """Eight streams, so that both workers have some."""
    gate = asyncio.Event()
    answers = held_stream(gate, frame("one"), after=(frame("two"), DONE))
    async with fake_engine(answers) as engine, AsyncExitStack() as streams:
        with ExitStack() as stack:
            arguments = ("serve", "--vllm", engine.url, "--port", "0", "--admin-port", "0", "--workers", "2")
            process, urls = await asyncio.to_thread(stack.enter_context, prefixgate(*arguments))
            clients = [await streams.enter_async_context(raw_client(urls[0])) for _ in range(8)]
            heads = []
            for one in clients:
                await one.post(chat_bytes(stream=True))
                heads.append(await one.head())
                assert await one.chunk() == frame("one")
            assert {status for status, _ in heads} == {200}
            process.terminate()
            await until_refused(urls[0])
            assert process.poll() is None
            gate.set()
            for one, (_, headers) in zip(clients, heads, strict=True):
                assert await one.body(headers) == frame("two") + DONE
            assert await asyncio.to_thread(process.wait, LIMIT_S) == 0


@pytest.mark.slow
def test_one_that_cannot_come_back_leaves_its_connections_to_the_others(
    engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A module that ends every process that is started from now on."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    arguments = ("serve", "--vllm", engine, "--port", "0", "--admin-port", "0", "--workers", "2")
    with prefixgate(*arguments) as (process, urls):
        gateway = Gateway(process, *urls)
        victim = gateway.workers()[0]["pid"]
        broken = tmp_path / "uvloop.py"
        broken.write_text("raise SystemExit(7)\n")
        os.kill(victim, signal.SIGKILL)
        until(lambda: gateway.restarts() >= TRIES + 1)
        for number in range(20):
            assert gateway.post(number).status_code == 200
        dead, alive = gateway.workers()
        assert (dead["state"], alive["state"], alive["requests"]) == ("starting", "up", 20)
        broken.unlink()
        until(lambda: all(row["state"] == "up" for row in gateway.workers()))
        until(lambda: gateway.post(99).status_code == 200 and gateway.workers()[0]["requests"] > 0)


def test_no_worker_outlives_its_parent(engine: str) -> None:
    arguments = ("serve", "--vllm", engine, "--port", "0", "--admin-port", "0", "--workers", "2")
    with prefixgate(*arguments) as (process, urls):
        pids = [row["pid"] for row in Gateway(process, *urls).workers()]
        assert all(is_alive(pid) for pid in pids)
        process.kill()
        until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_taken_port_is_one_clear_sentence(gateway: Gateway, capfd: pytest.CaptureFixture[str]) -> None:
    """Also where those who have it share it among themselves."""
    port = gateway.url.rsplit(":", 1)[1]
    arguments = ["serve", "--vllm", "http://127.0.0.1:9", "--admin-port", "0", "--workers", "2"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        for one in (port, str(taken.getsockname()[1])):
            assert run([*arguments, "--port", one]) == 1
            said = capfd.readouterr().err
            assert said == "prefixgate: cannot listen on 127.0.0.1: Address already in use\n"


@pytest.mark.parametrize(
    ("tables", "complaint"),
    [
        ("[server]\nworkers = 0\n", "[server] workers must be between 1 and"),
        ('[server]\nport = 0\nworkers = 2\n[journal]\npath = "/nowhere/j"\n', "there is no directory /nowhere"),
        ("[server]\nport = 0\nworkers = 2\n", "pool `p`: tokens: "),
    ],
    ids=["number", "journal", "tokenizer"],
)
def test_a_bad_configuration_is_one_clear_sentence(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], tables: str, complaint: str
) -> None:
    """What only a worker can find too."""
    path = tmp_path / "gateway.toml"
    pool = '[[pools]]\nname = "p"\nengine = "vllm"\nreplicas = ["http://127.0.0.1:9"]\ntokens = "tokenizer:/nowhere"\n'
    path.write_text(tables + pool)
    assert run(["serve", "--config", str(path)]) == 2
    said = capfd.readouterr().err
    assert said.startswith("prefixgate: ")
    assert complaint in said
    assert said.count("\n") == 1


def test_workers_that_die_at_once_are_given_up(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A broken interpreter: every worker ends before it serves."""
    (tmp_path / "uvloop.py").write_text("raise SystemExit(7)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert run(["serve", "--vllm", "http://127.0.0.1:9", "--port", "0", "--workers", "2"]) == 1
    said = capfd.readouterr().err
    assert "never comes to serve: (pid " in said
    assert "exited with status 7\n" in said
    assert "Traceback" not in said
