"""Targets that answer well, badly, late, or not at all."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from fractions import Fraction
from typing import Any

import pytest
from fake_engine import Answer, FakeEngine, fake_engine, in_turn, models, reset, response, silence, whole

from gateway.probe import target as target_module
from gateway.probe.answered import Answered
from gateway.probe.asking import Manner
from gateway.probe.questions import Question
from gateway.probe.run import PATIENCE, ask_all
from gateway.probe.target import HttpTarget, TargetError, target_of

QUESTION = Question("q", "What is 6 times 7?", Fraction(42))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target_module, "_PAUSES_S", (0.0, 0.0))


def said(text: str | None = "6 * 7\n#### 42", **choice: Any) -> Answer:
    message = {"role": "assistant", "content": text, **choice.pop("message", {})}
    body = {"choices": [{"message": message, "finish_reason": "stop", **choice}], "usage": {"completion_tokens": 5}}
    return whole(json.dumps(body).encode())


@asynccontextmanager
async def asked(answer: Answer, timeout_s: float = 10.0) -> AsyncIterator[tuple[HttpTarget, FakeEngine]]:
    async with (
        asyncio.timeout(20),
        fake_engine(answer) as engine,
        HttpTarget(target_of(f"A={engine.url}"), Manner(), timeout_s) as target,
    ):
        await target.open()
        yield target, engine


async def test_what_is_sent() -> None:
    async with asked(said()) as (target, engine):
        answer = await target.ask(QUESTION)
        assert (answer.number, answer.error, answer.completion_tokens, answer.finish) == (42, "", 5, "stop")
        body = json.loads(engine.requests[0].body)
        assert body["model"] == "m"
        assert (body["temperature"], body["seed"], body["max_tokens"]) == (0, 0, 2048)
        assert body["chat_template_kwargs"]["thinking"] is False
        assert body["logprobs"] is True
        assert QUESTION.question in body["messages"][0]["content"]


async def test_tokens_and_thoughts_in_each_engines_words() -> None:
    tokens = {"content": [{"token": "4", "logprob": 0.0}, {"token": "2", "logprob": -1}]}
    for name in ("reasoning", "reasoning_content"):
        async with asked(said("42", logprobs=tokens, message={name: "hm"})) as (target, _):
            answer = await target.ask(QUESTION)
            assert (answer.text, answer.thoughts, answer.tokens) == ("42", "hm", ("4", "2"))


async def test_an_answer_of_nothing_is_an_answer() -> None:
    async with asked(said(None)) as (target, _):
        answer = await target.ask(QUESTION)
        assert (answer.text, answer.number, answer.error) == ("", None, "")


async def test_a_target_that_tells_no_tokens_is_asked_without() -> None:
    refusal = whole(b'{"error": {"message": "logprobs are not served here"}}', 400)
    async with asked(in_turn(refusal, said())) as (target, engine):
        assert (await target.ask(QUESTION)).number == 42
        assert (await target.ask(QUESTION)).number == 42
        assert ["logprobs" in json.loads(one.body) for one in engine.requests] == [True, False, False]


async def test_several_at_once_are_asked_again_without_tokens() -> None:
    good = said()

    async def answer(request: Any, writer: asyncio.StreamWriter) -> None:
        told = "logprobs" not in json.loads(request.body)
        await (good if told else whole(b'{"message": "no logprobs"}', 400))(request, writer)

    questions = [Question(str(number), "?", Fraction(42)) for number in range(6)]
    heard: list[Answered] = []
    async with asked(answer) as (target, _):
        await ask_all(target, questions, 3, heard.append)
    assert [one.error for one in heard] == [""] * 6


@pytest.mark.parametrize("first", [reset(), whole(b"busy", 503), whole(b"", 429)])
async def test_a_moment_of_trouble_is_got_over(first: Answer) -> None:
    async with asked(in_turn(first, said())) as (target, engine):
        assert (await target.ask(QUESTION)).number == 42
        assert len(engine.requests) == 2


@pytest.mark.parametrize(
    ("answer", "complaint", "tries"),
    [
        (reset(), "cannot be asked", 3),
        (whole(b"x" * 5000, 503), "answered 503: xxx", 3),
        (whole(b'{"object": "error", "message": "no such\\nmodel"}', 404), "answered 404: no such model", 1),
        (whole(b"nonsense"), "no chat completion", 1),
        (whole(b"[" * 100_000), "no chat completion", 1),
        (whole(b'{"choices": []}'), "no choice", 1),
        (whole(b'{"choices": [{"message": {"content": 5}}]}'), "no chat completion", 1),
    ],
)
async def test_what_is_no_answer(answer: Answer, complaint: str, tries: int) -> None:
    async with asked(answer) as (target, engine):
        got = await target.ask(QUESTION)
        assert complaint in got.error
        assert len(got.error) < 400
        assert got.number is None
        assert len(engine.requests) == tries


async def test_an_answer_that_takes_too_long() -> None:
    async with asked(silence(), timeout_s=0.05) as (target, engine):
        assert "did not answer in time" in (await target.ask(QUESTION)).error
        assert len(engine.requests) == 1


async def test_a_target_that_is_gone_is_not_asked_for_ever() -> None:
    questions = [Question(str(number), "?", Fraction(1)) for number in range(20)]
    heard: list[Answered] = []
    async with asked(whole(b"", 500)) as (target, engine):
        await ask_all(target, questions, 1, heard.append)
        assert len(heard) == len(engine.requests) == PATIENCE
        assert all(one.error for one in heard)


async def test_one_failure_does_not_end_it_and_so_many_are_asked_at_once() -> None:
    questions = [Question(str(number), "?", Fraction(1)) for number in range(12)]
    heard: list[Answered] = []
    running = most = 0
    good, bad = said(), whole(b"", 500)

    async def answer(request: Any, writer: asyncio.StreamWriter) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        await (bad if running % 3 == 1 else good)(request, writer)

    async with asked(answer) as (target, _):
        await ask_all(target, questions, 3, heard.append)
    assert {one.id for one in heard} == {one.id for one in questions}
    assert most == 3


async def test_which_model_is_asked() -> None:
    async with fake_engine(said()) as engine:
        engine.pages["/v1/models"] = response(models("a", "b"))
        async with HttpTarget(target_of(f"A={engine.url}/v1/"), Manner(), 5) as target:
            with pytest.raises(TargetError, match=r"A: serves a, b; say which with --model A=MODEL"):
                await target.open()
        engine.pages["/v1/models"] = response(b"{}")
        async with HttpTarget(target_of(f"A={engine.url}"), Manner(), 5) as target:
            with pytest.raises(TargetError, match="no list of models"):
                await target.open()
    async with HttpTarget(target_of(f"A={engine.url}"), Manner(), 5) as target:
        with pytest.raises(TargetError, match="cannot be asked"):
            await target.open()


def test_how_targets_are_named() -> None:
    pinned = target_of("A=http://gw:8080/v1#pool=w4a8&replica=w4a8-0")
    assert (pinned.name, pinned.url) == ("A", "http://gw:8080")
    assert pinned.pins == {"x-prefixgate-pool": "w4a8", "x-prefixgate-replica": "w4a8-0"}
    assert target_of("B=https://h/base/").url == "https://h/base"


@pytest.mark.parametrize(
    "text", ["", "A", "=http://h", "A=h:1", "A=ftp://h", "A=http://", "A=http://h:0", "A=http://h:x", "A=http://[",
             "A=http://h#pol=x", "A=http://h#pool=", "A=http://h#x"],
)  # fmt: skip
def test_how_they_are_not(text: str) -> None:
    with pytest.raises(TargetError) as error:
        target_of(text)
    assert str(error.value).startswith("--target")


async def test_what_an_answer_depends_on() -> None:
    targets = [
        HttpTarget(target_of(f"A=http://h:1{pin}"), manner, 1)
        for pin, manner in (
            ("", Manner()),
            ("#pool=p", Manner()),
            ("", Manner(thinking=True)),
            ("", Manner(max_tokens=7)),
            ("", Manner(seed=7)),
        )
    ]
    asked = [one.asked(QUESTION) for one in targets]
    other = Question("q", "Another?", Fraction(42))
    assert len({*asked, targets[0].asked(other)}) == len(asked) + 1
    for one in targets:
        async with one:
            pass
