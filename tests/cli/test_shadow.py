"""`prefixgate shadow` as it is called, against a gateway that sends copies."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from patience import until
from processes import prefixgate

from gateway.cli import run

MODEL = "deepseek-v4-flash"


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    """A gateway over two simulated engines, one of which gets copies only."""
    path = tmp_path_factory.mktemp("shadow") / "gateway.toml"
    common = ("engine", "simulate", "--port", "0", "--speed", "50", "--model", MODEL)
    with prefixgate(*common, "--dialect", "vllm") as (_, one), prefixgate(*common, "--dialect", "sglang") as (_, two):
        pools = "".join(
            f'[[pools]]\nname = "{name}"\nengine = "{engine}"\nmodel = "{MODEL}"\nreplicas = ["{url}"]\n{more}'
            for name, engine, url, more in (
                ("p", "vllm", one[0], ""),
                ("q", "sglang", two[0], "pinned_only = true\n"),
            )
        )
        shadow = '[[shadows]]\nname = "s"\nto = "q"\nshare = 1.0\ncompare = "text"\n'
        path.write_text(f"[server]\nport = 0\nadmin_port = 0\nworkers = 2\n{pools}{shadow}")
        with prefixgate("serve", "--config", str(path)) as (_, listening):
            yield listening


def ask(urls: list[str], text: str) -> None:
    kwargs = {"thinking": False}
    body = {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, "stream": True}
    with httpx.Client(trust_env=False, timeout=20) as http:
        answer = http.post(urls[0] + "/v1/chat/completions", json={**body, "chat_template_kwargs": kwargs})
    assert answer.headers["x-prefixgate-pool"] == "p"


def test_what_came_of_copies(urls: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def told() -> dict[str, object]:
        assert run(["shadow", "--url", urls[1], "--json"]) == 0
        [one] = json.loads(capsys.readouterr().out)
        return dict(one)

    assert told()["ttft"] == "not enough pairs: 0"
    for number in range(12):
        ask(urls, f"question {number} " * 50)
    until(lambda: told()["shadow"]["paired"] == 12 == told()["shadow"]["same"])  # type: ignore[index]
    assert "12 pairs)" in str(told()["ttft"])
    assert run(["shadow", "--url", urls[1]]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "12/12" in shown
    assert "TTFT of copies" in shown


def test_no_gateway_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shadow", "--url", "http://127.0.0.1:1"]) == 1
    assert "no gateway answers at http://127.0.0.1:1" in capsys.readouterr().err


def test_a_token_that_is_not_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["shadow", "--token-env", "NO_SUCH_TOKEN"]) == 2
    assert "NO_SUCH_TOKEN is not set" in capsys.readouterr().err
