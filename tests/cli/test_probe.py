"""`prefixgate probe` as it is called, against targets that are right, wrong, or gone."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from fake_engine import Answer, FakeEngine, Request, fake_engine, response
from gateways import gateway_of
from threaded import in_thread

from gateway.cli import run
from gateway.probe import target as target_module
from gateway.probe.questions import own_questions

Says = Callable[[str, Request], str]


def saying(say: Says | int) -> Answer:
    """Something to each question, or only a status."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        if isinstance(say, int):
            writer.write(response(b'{"error": {"message": "out of order"}}', say))
            return
        asked = json.loads(request.body)["messages"][0]["content"]
        choice = {"message": {"content": say(asked, request)}, "finish_reason": "stop"}
        writer.write(response(json.dumps({"choices": [choice]}).encode()))

    return answer


@asynccontextmanager
async def engines(*says: Says | int) -> AsyncIterator[tuple[list[str], list[FakeEngine]]]:
    """An engine for each, with their URLs."""
    async with AsyncExitStack() as stack:
        them = [await stack.enter_async_context(fake_engine(saying(say))) for say in says]
        yield [engine.url for engine in them], them


@asynccontextmanager
async def behind_a_gateway(*says: Says | int) -> AsyncIterator[tuple[list[str], list[FakeEngine]]]:
    """The same as pools of a gateway, with its URLs for each of them."""
    async with engines(*says) as (urls, them):
        pools = [
            {"name": f"p{number}", "engine": "vllm", "model": "m", "replicas": [url]} for number, url in enumerate(urls)
        ]
        async with gateway_of(pools, limit_s=None) as gateway:
            yield [f"{gateway.url}#pool={pool['name']}" for pool in pools], them


def targets(*says: Says | int) -> AbstractContextManager[tuple[list[str], list[FakeEngine]]]:
    return in_thread(engines(*says))


def right(asked: str, _request: Request) -> str:
    """Knows our own questions by heart."""
    [answer] = [one.answer for one in own_questions() if asked.endswith(one.question)]
    return f"Let me see.\n#### {answer}"


def mostly_wrong(asked: str, request: Request) -> str:
    return "I think 0\n#### 0" if len(asked) % 3 else right(asked, request)


def other_words(asked: str, request: Request) -> str:
    return right(asked, request).replace("Let me see.", "Well, easy.")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_PAUSES_S", (0.0,))


def test_two_that_agree(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    with targets(right, other_words) as (urls, _):
        asked = ["probe", "--target", f"A={urls[0]}", "--target", f"B={urls[1]}"]
        assert run([*asked, "--json", "--html", str(page)]) == 0
        found = json.loads(capsys.readouterr().out)
        count = len(own_questions())
        assert (found["questions"], found["same_answer"], found["same_text"]) == (count, count, 0)
        assert [score["right"] for score in found["scores"]] == [count, count]
        assert found["verdict"] == "same"
        assert all(pair["divergence"] == {"unit": "character", "at": 0, "left": pair["divergence"]["left"],
                                          "right": pair["divergence"]["right"]} for pair in found["pairs"])  # fmt: skip
        assert page.read_text().count("<details") == count
        assert run([*asked, "--limit", "5", "--concurrency", "4"]) == 0
        assert "no difference found" in capsys.readouterr().out


def test_the_second_is_worse(capsys: pytest.CaptureFixture[str]) -> None:
    with targets(right, mostly_wrong) as (urls, _):
        asked = ["probe", "--target", f"A={urls[0]}", "--target", f"B={urls[1]}", "--limit", "30"]
        assert run(asked) == 1
        assert re.search(r"B is worse by [\d.]+ points", " ".join(capsys.readouterr().out.split()))
        assert run([*asked, "--max-drop", "99"]) == 0
        assert run(["probe", "--target", f"A={urls[1]}", "--target", f"B={urls[0]}", "--limit", "30"]) == 0


def test_a_pool_behind_a_gateway_is_a_target(capsys: pytest.CaptureFixture[str]) -> None:
    with in_thread(behind_a_gateway(right, mostly_wrong)) as (urls, engines):
        asked = ["probe", "--target", f"A={urls[0]}", "--target", f"B={urls[1]}", "--limit", "20", "--json"]
        assert run(asked) == 1
        found = json.loads(capsys.readouterr().out)
        assert found["scores"][0]["right"] == 20 > found["scores"][1]["right"]
        assert [len(engine.requests) for engine in engines] == [20, 20]


def test_what_was_answered_is_not_asked_again(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    with targets(right, 500) as (urls, engines):
        asked = ["probe", "--target", f"A={urls[0]}", "--target", f"B={urls[1]}", "--limit", "9", "--out", str(out)]
        assert run(asked) == 1
        shown = " ".join(capsys.readouterr().out.split())
        assert "not comparable in full: B left 9 unanswered" in shown
        assert "answered 500: out of order" in shown
        assert run(asked) == 1
        assert len(engines[0].requests) == 9
        other = ["probe", "--target", f"A={urls[0]}", "--target", f"B={urls[0]}", "--limit", "9", "--out", str(out)]
        assert run(other) == 0
        assert len(engines[0].requests) == 18


def test_a_target_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with targets(right) as (urls, engines):
        assert run(["probe", "--target", f"A={urls[0]}", "--target", "B=http://127.0.0.1:1"]) == 1
        assert engines[0].requests == [], "nothing is asked before both are there"
    said = capsys.readouterr().err
    assert said.startswith("prefixgate: B: http://127.0.0.1:1 cannot be asked")


def test_keys_models_and_questions_of_ones_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY_OF_B", "secret-of-b")
    mine = tmp_path / "mine.jsonl"
    mine.write_text('{"question": "1 + 1?", "answer": 2}\n')
    with targets(lambda _asked, _request: "2") as (urls, engines):
        status = run(
            ["probe", "--target", f"A={urls[0]}", "--target", f"B={urls[0]}/v1", "--questions", str(mine), "--model",
             "a-model", "--model", "B=b-model", "--api-key-env", "B=KEY_OF_B", "--thinking", "on"]
        )  # fmt: skip
        assert status == 0
        sent = [json.loads(one.body) for one in engines[0].requests]
        assert sorted(one["model"] for one in sent) == ["a-model", "b-model"]
        assert all(one["chat_template_kwargs"]["thinking"] is True for one in sent)
        keys = {json.loads(one.body)["model"]: one.headers.get("authorization") for one in engines[0].requests}
        assert keys == {"a-model": None, "b-model": "Bearer secret-of-b"}
    assert "secret-of-b" not in "".join(capsys.readouterr())


TWO = ["--target", "A=http://h:1", "--target", "B=http://h:2"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "give two targets of different names"),
        (["--target", "A=http://h:1"], "give two targets of different names"),
        (["--target", "A=http://h:1", "--target", "A=http://h:2"], "give two targets of different names"),
        (["--target", "A=nonsense", "--target", "B=http://h:2"], "NAME=http(s)://HOST:PORT"),
        ([*TWO, "--questions", "/nowhere"], "/nowhere: cannot be read"),
        ([*TWO, "--api-key-env", "NO_SUCH_VARIABLE"], "NO_SUCH_VARIABLE for A is not set"),
        ([*TWO, "--limit", "0"], "--limit must be at least 1"),
        ([*TWO, "--max-tokens", "0"], "--max-tokens must be at least 1"),
        ([*TWO, "--timeout-s", "0"], "--timeout-s must be above 0"),
        ([*TWO, "--out", "/nowhere/out"], "/nowhere/out: cannot be used"),
    ],
)
def test_bad_usage(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["probe", *arguments]) == 2
    said = capsys.readouterr().err
    assert said.startswith("prefixgate: ")
    assert complaint in said
    assert len(said.strip().splitlines()) == 1
