"""`serve --workers 2`: one worker is told of an experiment, all of them follow it, and all write to one store."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from patience import until
from processes import prefixgate

MODEL = "deepseek-v4-flash"
AB = {"name": "ab", "arms": {"a": 0.5, "b": 0.5}, "warm_up_s": 0, "unit": "session"}


class Gateway:
    """Asked over fresh connections, so that any worker may answer."""

    def __init__(self, url: str, admin_url: str) -> None:
        self.url, self.admin_url = url, admin_url

    def admin(self, method: str, path: str, **more: Any) -> Any:
        answer = httpx.request(method, self.admin_url + path, timeout=60, trust_env=False, **more)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def arm(self, session: int) -> str | None:
        body = {"model": MODEL, "messages": [{"role": "user", "content": "hello " * 200}], "max_tokens": 1}
        headers = {"x-session-id": f"s{session}"}
        url = f"{self.url}/v1/chat/completions"
        answer = httpx.post(url, json=body, headers=headers, timeout=60, trust_env=False)
        assert answer.status_code == 200, answer.text
        return answer.headers.get("x-prefixgate-arm")


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    engine = ("engine", "simulate", "--port", "0", "--speed", "200", "--model", MODEL)
    with prefixgate(*engine) as (_, one), prefixgate(*engine) as (_, two):
        path = tmp_path / "gateway.toml"
        pools = "".join(
            f'[[pools]]\nname = "{name}"\nengine = "vllm"\nmodel = "{MODEL}"\nreplicas = ["{url}"]\n'
            for name, url in (("a", one[0]), ("b", two[0]))
        )
        path.write_text(f"[server]\nport = 0\nworkers = 2\n{pools}")
        with prefixgate("serve", "--config", str(path)) as (_, urls):
            yield Gateway(*urls)


@pytest.mark.slow
def test_all_workers_follow_and_agree(gateway: Gateway) -> None:
    gateway.admin("POST", "/api/experiments", json=AB)
    went = [{gateway.arm(session) for _ in range(8)} for session in range(6)]
    assert all(len(arms) == 1 and None not in arms for arms in went)
    seen = Counter(arm for arms in went for arm in arms)
    [listed] = gateway.admin("GET", "/api/experiments")
    assert [arm["exposures"] for arm in listed["arms"]] == [8 * seen["ab=a"], 8 * seen["ab=b"]]
    until(lambda: _requests(gateway) == 48)

    gateway.admin("POST", "/api/experiments/ab/stop")
    assert {gateway.arm(session) for session in range(12)} == {None}
    workers = gateway.admin("GET", "/api/snapshot")["gateway"]["workers"]
    os.kill(workers[0]["pid"], signal.SIGKILL)
    until(lambda: [one["state"] for one in _workers(gateway)] == ["up", "up"] and _workers(gateway)[0]["restarts"] == 1)
    assert {gateway.arm(session) for session in range(12)} == {None}
    gateway.admin("POST", "/api/experiments/ab/start")
    assert all({gateway.arm(session) for _ in range(6)} == arms for session, arms in enumerate(went[:3]))


def _requests(gateway: Gateway) -> int:
    report = gateway.admin("GET", "/api/experiments/ab/report")
    return sum(arm["requests"] for arm in report["arms"])


def _workers(gateway: Gateway) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = gateway.admin("GET", "/api/snapshot")["gateway"]["workers"]
    return rows
