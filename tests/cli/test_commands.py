"""The command line, against simulated engines in processes of their own."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from processes import prefixgate

from gateway.cli import run

MODEL = "deepseek-v4-flash"
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "hello " * 400}], "max_tokens": 2}


@pytest.fixture(scope="module")
def engines() -> Iterator[dict[str, str]]:
    """One simulated engine of each dialect."""
    common = ("engine", "simulate", "--port", "0", "--speed", "50", "--model", MODEL)
    with (
        prefixgate(*common, "--dialect", "vllm") as (_, vllm),
        prefixgate(*common, "--dialect", "sglang", "--chunk-tokens", "4096") as (_, sglang),
    ):
        yield {"vllm": vllm[0], "sglang": sglang[0]}


@pytest.fixture
def config(engines: dict[str, str], tmp_path: Path) -> Path:
    """A configuration of both, that wishes for another chunk size than SGLang runs with."""
    path = tmp_path / "gateway.toml"
    wishes = {"vllm": "long_prefill_threshold = 2048", "sglang": "max_prefill_tokens = 32768\nmixed_chunk = true"}
    pools = "".join(
        f'[[pools]]\nname = "{name}"\nengine = "{name}"\nmodel = "{MODEL}"\nreplicas = ["{url}"]\n'
        f"[pools.prefill]\nchunk_tokens = 8192\n{wishes[name]}\n"
        for name, url in engines.items()
    )
    path.write_text("[server]\nport = 0\n" + pools)
    return path


def test_check_prints_what_replicas_report(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--config", str(config), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["usable"] is True
    by_name = {finding["replica"]["name"]: finding for finding in report["replicas"]}
    assert by_name["vllm-0"]["replica"]["models"] == [MODEL]
    assert by_name["sglang-0"]["replica"]["prefill_actual"]["chunk_tokens"] == 4096
    assert any("8192" in warning and "4096" in warning for warning in by_name["sglang-0"]["warnings"])
    assert not any("4096" in warning for warning in by_name["vllm-0"]["warnings"])
    asked = [warning for warning in by_name["vllm-0"]["warnings"] if "answers do not say" in warning]
    assert asked == [
        "answers do not say how long prefill took without the queue: restart with --enable-per-request-metrics"
    ]


def test_check_for_people(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--config", str(config)]) == 0
    shown = capsys.readouterr().out
    assert "vllm-0" in shown
    assert "block 256" in shown
    assert "warning: chunk is 4096" in shown
    assert "chunk 8,192, long-prefill threshold 0 (wished 2,048)," in shown
    assert (
        "chunk 4,096 (wished 8,192), max prefill tokens 16,384 (wished 32,768), mixed chunk off (wished on)," in shown
    )


def test_check_names_a_model_that_the_engine_does_not_serve(
    engines: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "other.toml"
    path.write_text(f'[[pools]]\nname = "p"\nengine = "vllm"\nmodel = "other"\nreplicas = ["{engines["vllm"]}"]\n')
    assert run(["check", "--config", str(path)]) == 0
    assert "--served-model-name other" in capsys.readouterr().out


def test_check_says_when_a_pool_is_unusable(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", "--vllm", "http://127.0.0.1:1"]) == 1
    assert "not usable" in capsys.readouterr().out


def test_explain_without_a_running_gateway(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = tmp_path / "body.json"
    body.write_text(json.dumps(CHAT))
    assert run(["explain", "--config", str(config), str(body), "--json"]) == 0
    explanation = json.loads(capsys.readouterr().out)
    assert {row["replica"] for row in explanation["candidates"]} == {"vllm-0", "sglang-0"}
    for row in explanation["candidates"]:
        assert row["cost_ms"] == pytest.approx(sum(term["ms"] for term in row["terms"]))
    assert sum(row["chosen"] for row in explanation["candidates"]) == 1
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["explain", "--config", str(config), str(body)]) == 0
    shown = capsys.readouterr().out
    assert "chosen" in shown
    assert "no gateway runs there" in shown


def test_explain_asks_the_running_gateway(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The gateway that served a prompt knows where it is cached; a fresh one would not."""
    body = tmp_path / "body.json"
    body.write_text(json.dumps(CHAT))
    with prefixgate("serve", "--config", str(config)) as (_, urls):
        answer = httpx.post(urls[0] + "/v1/chat/completions", json=CHAT, timeout=20, trust_env=False)
        assert answer.status_code == 200, answer.text
        home = answer.headers["x-prefixgate-replica"]
        admin_port = int(urls[1].rsplit(":", 1)[1])
        asked = tmp_path / "asked.toml"
        asked.write_text(config.read_text().replace("port = 0", f"port = 0\nadmin_port = {admin_port}"))
        assert run(["explain", "--config", str(asked), str(body), "--json"]) == 0
        rows = {row["replica"]: row for row in json.loads(capsys.readouterr().out)["candidates"]}
        assert rows[home]["chosen"]
        assert rows[home]["cached_tokens"] > 256
        assert all(row["cached_tokens"] == 0 for name, row in rows.items() if name != home)
        assert run(["explain", "--config", str(asked), str(body), "--endpoint", "/v1/nonsense"]) == 1
        assert "not an inference endpoint" in capsys.readouterr().err


def test_serve_from_urls_answers_and_ends_in_order(engines: dict[str, str]) -> None:
    arguments = ("serve", "--vllm", engines["vllm"], "--sglang", engines["sglang"], "--port", "0", "--policy", "random")
    with prefixgate(*arguments) as (process, urls):
        answer = httpx.post(urls[0] + "/v1/chat/completions", json=CHAT, timeout=20, trust_env=False)
        assert answer.json()["choices"][0]["message"]["content"]
        assert httpx.get(urls[1] + "/api/snapshot", trust_env=False).json()["snapshot"]["policy"] == "random"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_serve_says_when_its_port_is_taken(engines: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    taken = engines["vllm"].rsplit(":", 1)[1]
    assert run(["serve", "--vllm", engines["vllm"], "--port", taken, "--admin-port", "0"]) == 1
    assert "cannot listen" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["serve"], "--config FILE"),
        (["serve", "--config", "/nowhere.toml"], "/nowhere.toml: cannot be read"),
        (["serve", "--vllm", "http://h:1", "--config", "x"], "not both"),
        (["serve", "--vllm", "http://h:1", "--policy", "tftt"], "did you mean `ttft`?"),
        (["serve", "--vllm", "nonsense"], "is not an http(s)://host:port URL"),
        (["serve", "--vllm", "http://h:1", "--workers", "0"], "[server] workers must be between 1 and"),
        (["serve", "--vllm", "http://h:1", "--port", "70000"], "between 0 and 65535"),
        (["explain", "--vllm", "http://h:1", "/nowhere.json"], "/nowhere.json: cannot be read"),
        (["engine", "simulate", "--speed", "0"], "speed must be above 0"),
        (["engine", "simulate", "--dialect", "vllm", "--profile", "sglang-fp4"], "not one of vllm"),
    ],
)
def test_bad_usage_is_one_sentence_and_status_2(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("prefixgate: ")
    assert complaint in said
    assert len(said.strip().splitlines()) == 1


def test_unknown_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run(["serv"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err


def test_a_bad_body_is_explained_as_such(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = tmp_path / "body.json"
    body.write_text('{"model": "x", "messages": []}')
    assert run(["explain", "--config", str(config), str(body)]) == 1
    assert "messages" in capsys.readouterr().err
