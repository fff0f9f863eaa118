"""The quality probe as a guardrail of an experiment: an arm whose answers are wrong is stopped, others are not."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_engine import Answer, FakeEngine, Request, fake_engine, response, whole
from gateways import gateway_of, nothing_is_booked, outcomes, until

from gateway.config import ConfigError, build
from gateway.probe.questions import own_questions
from gateway.serving.experiments.trial import Trial
from gateway.serving.server import RunningGateway

RIGHT = {one.question: str(one.answer) for one in own_questions()}


def answering(say: Callable[[str], str]) -> Answer:
    """To the text after the last empty line of a question."""

    async def answer(request: Request, writer: asyncio.StreamWriter) -> None:
        asked = json.loads(request.body)["messages"][0]["content"].rpartition("\n\n")[2]
        choice = {"message": {"content": say(asked)}, "finish_reason": "stop"}
        writer.write(response(json.dumps({"choices": [choice], "usage": {"prompt_tokens": 50}}).encode()))

    return answer


def right(asked: str) -> str:
    return f"#### {RIGHT[asked]}"


def mostly_wrong(asked: str) -> str:
    return right(asked) if len(asked) % 2 else "#### -77"


def pools(*engines: FakeEngine) -> list[dict[str, Any]]:
    return [
        {"name": name, "engine": "vllm", "model": "m", "replicas": [engine.url]}
        for name, engine in zip("abc", engines, strict=False)
    ]


def experiment(**rails: Any) -> dict[str, Any]:
    return {"name": "e", "arms": {"a": 0.5, "b": 0.5}, "guardrails": {"probe_every_s": 1, **rails}}


@asynccontextmanager
async def probed(one: Answer, other: Answer, tmp_path: Path, **rails: Any) -> AsyncIterator[RunningGateway]:
    async with (
        fake_engine(one) as first,
        fake_engine(other) as second,
        gateway_of(
            pools(first, second), experiments=[experiment(**rails)], state={"path": str(tmp_path)}, limit_s=60
        ) as run,
    ):
        yield run


def trial(run: RunningGateway) -> Trial:
    [one] = run.gateway.experiments.trials
    return one


async def test_an_arm_that_answers_wrongly_is_stopped(tmp_path: Path) -> None:
    async with probed(answering(right), answering(mostly_wrong), tmp_path) as run:
        async with asyncio.timeout(50):
            while not trial(run).stopped_arms:  # noqa: ASYNC110 - a probe has no event
                await asyncio.sleep(0.05)
        [stopped] = trial(run).stopped_arms
        assert stopped.arm == "b"
        assert "probe questions right, and a 73; p = " in stopped.why
        assert nothing_is_booked(run)
        assert outcomes(run) == {}, "our own requests are in nobody's figures"


async def test_arms_that_answer_alike_go_on(tmp_path: Path) -> None:
    async with probed(answering(mostly_wrong), answering(mostly_wrong), tmp_path) as run:
        probing = run.probing
        await until(lambda: probing.probes(trial(run)) >= 1)
        assert trial(run).stopped_arms == ()


async def test_a_drop_that_is_allowed(tmp_path: Path) -> None:
    async with probed(answering(right), answering(mostly_wrong), tmp_path, probe_max_drop=0.9) as run:
        await until(lambda: run.probing.probes(trial(run)) >= 1)
        assert trial(run).stopped_arms == ()


async def test_an_arm_that_gives_no_answers_is_not_judged_by_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with probed(answering(right), whole(b'{"error": {"message": "out of order"}}', 400), tmp_path) as run:
        await until(lambda: run.probing.probes(trial(run)) >= 1)
        assert trial(run).stopped_arms == ()
        assert "experiment e: the probe of b is not judged: out of order" in caplog.text


async def test_who_asks_for_none_has_none(tmp_path: Path) -> None:
    async with (
        fake_engine() as one,
        fake_engine() as two,
        gateway_of(
            pools(one, two),
            experiments=[{"name": "e", "arms": {"a": 0.5, "b": 0.5}, "guardrails": {}}],
            state={"path": str(tmp_path)},
        ) as run,
    ):
        await asyncio.sleep(1.2)
        assert run.probing.probes(trial(run)) == 0
        assert one.requests == two.requests == []


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"guardrails": {"probe_every_s": 0}}, "guardrails.probe_every_s must be between 1 and 2592000"),
        ({"guardrails": {"probe_max_drop": 1.0}}, "guardrails.probe_max_drop must be at least 0 and below 1"),
        (
            {"guardrails": {"probe_every_s": 60}, "arms": {"x": {"policy": "ttft"}, "y": {"policy": "prefix"}}},
            "guardrails.probe_every_s needs arms that are pools or replicas",
        ),
        ({"pinned_only": True}, "arm `b`: the pool `b` is pinned_only, so nobody gets there"),
    ],
)
def test_what_is_wrong_in_the_configuration(change: dict[str, Any], complaint: str) -> None:
    table = [{"name": name, "engine": "vllm", "replicas": [f"http://{name}"]} for name in "ab"]
    table[1]["pinned_only"] = change.pop("pinned_only", False)
    with pytest.raises(ConfigError) as said:
        build({"pools": table, "experiments": [experiment() | change]})
    assert complaint in str(said.value)
