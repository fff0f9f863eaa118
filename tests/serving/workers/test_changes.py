"""A change of prefill settings in a gateway of several workers: one of them makes it, and it ends with that one."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from processes import prefixgate

LIMIT_S = 60.0
ENGINE = ("engine", "simulate", "--dialect", "sglang", "--port", "0", "--model", "m", "--takes-chunk")


@pytest.fixture
def admin_url(tmp_path: Path) -> Iterator[str]:
    """Two workers; the change that is begun waits for traffic that never comes."""
    with prefixgate(*ENGINE) as (_, engine):
        config = tmp_path / "gateway.toml"
        config.write_text(
            "[server]\nport = 0\nworkers = 2\n[polling]\ninterval_s = 0.2\n"
            f'[[pools]]\nname = "p"\nengine = "sglang"\nmodel = "m"\nreplicas = ["{engine[0]}"]\n'
            "[pools.prefill]\nchunk_tokens = 8192\ncompare_s = 600.0\n"
        )
        with prefixgate("serve", "--config", str(config)) as (_, urls):
            yield urls[1]


def ask(admin_url: str, method: str, path: str, **more: Any) -> httpx.Response:
    """Over a connection of its own, so that any of the workers may answer."""
    return httpx.request(method, admin_url + path, trust_env=False, timeout=30, **more)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.3)


@pytest.mark.slow
def test_one_worker_makes_it_all_know_of_it_and_it_ends_with_the_worker(admin_url: str) -> None:
    path = "/api/pools/p/prefill"
    assert ask(admin_url, "PUT", path, json={"chunk_tokens": 16_384}).status_code == 202

    def view() -> dict[str, Any]:
        told: dict[str, Any] = ask(admin_url, "GET", path).json()
        return told

    until(lambda: view()["change"]["replicas"] == {"p-0": "comparing"})
    for _ in range(8):  # whichever worker is asked
        seen = view()
        assert seen["desired"]["chunk_tokens"] == 16_384
        assert seen["change"]["state"] == "running"
        answer = ask(admin_url, "PUT", path, json={"chunk_tokens": 4096})
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "change_runs")
    workers = {row["number"]: row["pid"] for row in ask(admin_url, "GET", "/api/snapshot").json()["gateway"]["workers"]}
    for number in workers:  # one of them makes it
        os.kill(workers[number], signal.SIGKILL)
        until(lambda number=number: workers[number] not in serving(admin_url))
    until(lambda: len(serving(admin_url)) == 2)
    until(lambda: view()["desired"]["chunk_tokens"] == 8192)
    assert view()["change"]["reason"].startswith("the worker that made it ended")
    assert ask(admin_url, "PUT", path, json={}).status_code == 202  # no worker holds one for ever
    assert ask(admin_url, "POST", f"{path}/cancel").status_code == 202
    until(lambda: (view()["change"] or {"state": "running"})["state"] == "done")


def serving(admin_url: str) -> list[int]:
    """The processes of the workers that serve."""
    try:
        rows = ask(admin_url, "GET", "/api/snapshot").json()["gateway"]["workers"]
    except httpx.HTTPError:  # the worker that was asked is gone
        return []
    return [row["pid"] for row in rows if row["state"] == "up"]
