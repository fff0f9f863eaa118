"""The quality probe against two real vLLM servers of one model: they agree with themselves, token for token."""

import json
from pathlib import Path

import pytest
from real_vllm import RealVllm

from gateway.cli import run

pytestmark = [pytest.mark.real_vllm, pytest.mark.filterwarnings("default")]

QUESTIONS = 20


def test_two_replicas_of_one_model_agree(
    vllms: list[RealVllm], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "answers.jsonl"
    asked = ["probe", "--limit", str(QUESTIONS), "--max-tokens", "48", "--json", "--out", str(out)]
    for name, server in zip("AB", vllms, strict=True):
        asked += ["--target", f"{name}={server.url}"]
    assert run(asked) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["compared"], found["same_answer"], found["same_text"]) == (QUESTIONS, QUESTIONS, QUESTIONS)
    assert all(pair["divergence"] is None for pair in found["pairs"])
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(0 < len(answer["tokens"]) == answer["completion_tokens"] for answer in answers)
    print(found["sentence"])


def test_another_prompt_is_told_apart_by_its_first_token(
    vllms: list[RealVllm], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The same server with answers that differ: what was kept of it is changed, and found at that very token."""
    out = tmp_path / "answers.jsonl"
    asked = ["probe", "--limit", "3", "--max-tokens", "24", "--json", "--out", str(out)]
    asked += ["--target", f"A={vllms[0].url}", "--target", f"B={vllms[0].url}/v1"]
    assert run(asked) == 0
    capsys.readouterr()
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    for answer in answers:
        if answer["target"] == "B":
            answer["tokens"][7] = "something else"
    out.write_text("".join(json.dumps(answer) + "\n" for answer in answers))
    assert run(asked) == 0
    pairs = json.loads(capsys.readouterr().out)["pairs"]
    assert [(pair["divergence"]["unit"], pair["divergence"]["at"]) for pair in pairs] == [("token", 7)] * 3
