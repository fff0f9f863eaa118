"""A stream that dies in the middle goes on elsewhere, and its client cannot tell."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from cut_engine import DEAD, MODEL, Cut, End, Fleet, breaks, cut_fleet, dies, ends, in_a_frame, resets, stalls
from gateways import admin, nothing_is_booked, outcomes, post, until

USAGE = {"include_usage": True}
CHAT = {"model": MODEL, "messages": [{"role": "user", "content": "Tell me of it."}], "stream": True, "temperature": 0}
TEXT = {"model": MODEL, "prompt": "Once upon a time", "stream": True, "temperature": 0, "max_tokens": 12}

ASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", CHAT),
    "chat with a limit": ("/v1/chat/completions", {**CHAT, "max_tokens": 6, "stream_options": USAGE}),
    "chat with the newer limit": ("/v1/chat/completions", {**CHAT, "max_completion_tokens": 40, "max_tokens": None}),
    "chat that wants usage": ("/v1/chat/completions", {**CHAT, "stream_options": USAGE}),
    "chat that counts": (
        "/v1/chat/completions",
        {**CHAT, "max_tokens": 9, "stream_options": {**USAGE, "continuous_usage_stats": True}},
    ),
    "chat with tools that are not called": (
        "/v1/chat/completions",
        {**CHAT, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}], "max_tokens": 7},
    ),
    "an answer that its client had begun": (
        "/v1/chat/completions",
        {
            **CHAT,
            "messages": [*CHAT["messages"], {"role": "assistant", "content": "Well now"}],
            "continue_final_message": True,
            "add_generation_prompt": False,
            "stream_options": USAGE,
        },
    ),
    "text": ("/v1/completions", TEXT),
    "text that wants usage": ("/v1/completions", {**TEXT, "stream_options": USAGE}),
    "text at some temperature": ("/v1/completions", {**TEXT, "temperature": 0.7, "stream_options": USAGE}),
}


@dataclass
class Got:
    """What a client makes of a stream."""

    text: str = ""
    reasoning: str = ""
    roles: int = 0
    ids: set[tuple[object, ...]] = field(default_factory=set)
    finish: list[str] = field(default_factory=list)
    usage: list[dict[str, Any]] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    errors: list[Any] = field(default_factory=list)
    done: bool = False


def got(content: bytes) -> Got:
    made = Got()
    assert content.endswith(b"\n\n")
    for frame in content.removesuffix(b"\n\n").split(b"\n\n"):
        assert not made.done
        assert frame.startswith(b"data: ")
        if frame == b"data: [DONE]":
            made.done = True
            continue
        read = json.loads(frame.removeprefix(b"data: "))
        if "error" in read:
            made.errors.append(read["error"])
            continue
        made.ids.add((read["id"], read["created"], read["model"], read["object"]))
        usage = read.get("usage")
        if usage and not read["choices"]:
            made.usage.append(usage)
        for choice in read["choices"]:
            delta = choice.get("delta", choice)
            made.roles += "role" in delta
            made.text += delta.get("content") or delta.get("text") or ""
            made.reasoning += delta.get("reasoning") or delta.get("reasoning_content") or ""
            made.finish += [choice["finish_reason"]] if choice["finish_reason"] else []
            made.running += [usage["completion_tokens"]] if usage else []
    return made


def counts(usage: list[dict[str, Any]]) -> list[tuple[int, int, int]]:
    return [(one["prompt_tokens"], one["completion_tokens"], one["total_tokens"]) for one in usage]


async def asked(fleet: Fleet, path: str, body: dict[str, Any], *cuts: Cut) -> Got:
    fleet.cuts.extend(cuts)
    answer = await post(fleet.run, body, path)
    assert answer.status_code == 200, answer.text
    assert not fleet.cuts
    assert nothing_is_booked(fleet.run)
    return got(answer.content)


def assert_same(one: Got, undisturbed: Got) -> None:
    assert one.text == undisturbed.text
    assert one.reasoning == undisturbed.reasoning
    assert (one.roles, one.finish, one.done, one.errors) == (undisturbed.roles, undisturbed.finish, True, [])
    assert len(one.ids) == 1
    assert one.running == undisturbed.running


@pytest.mark.parametrize("dialect", ["vllm", "sglang"])
@pytest.mark.parametrize("what", ASKS)
async def test_a_stream_cut_after_any_frame_is_the_undisturbed_one(dialect: str, what: str) -> None:
    path, body = ASKS[what]
    async with cut_fleet(dialect) as fleet:
        undisturbed = await asked(fleet, path, body)
        assert undisturbed.text
        frames = len(fleet.frames)
        for cut in range(1, frames + 1):
            one = await asked(fleet, path, body, Cut(cut))
            assert_same(one, undisturbed)
            # An engine that is asked to go on with an answer that is complete has to say so, with a token.
            over = dialect == "sglang" and len(one.text) == len(undisturbed.text)
            differs = [(a[1] - b[1]) for a, b in zip(counts(one.usage), counts(undisturbed.usage), strict=True)]
            assert all(0 <= more <= over for more in differs), cut
            assert [a[0] for a in counts(one.usage)] == [a[0] for a in counts(undisturbed.usage)]
            assert all(prompt + completion == total for prompt, completion, total in counts(one.usage))
        assert outcomes(fleet.run) == {"completed": frames + 1}


@pytest.mark.parametrize("end", [breaks, resets, ends, dies, in_a_frame, stalls])
async def test_however_it_dies(end: End) -> None:
    path, body = ASKS["chat with a limit"]
    async with cut_fleet("vllm", timeouts={"idle_s": 0.3}) as fleet:
        undisturbed = await asked(fleet, path, body)
        one = await asked(fleet, path, body, Cut(3, end))
        assert_same(one, undisturbed)
        assert counts(one.usage) == counts(undisturbed.usage)


async def test_what_goes_on_is_no_prompt_to_warm_with() -> None:
    path, body = ASKS["chat with a limit"]
    async with cut_fleet("vllm", pool={"warm_families": 2}) as fleet:
        undisturbed = await asked(fleet, path, body)
        assert_same(await asked(fleet, path, body, Cut(3)), undisturbed)


async def test_it_may_die_again() -> None:
    path, body = ASKS["chat with a limit"]
    async with cut_fleet("vllm", replicas=4) as fleet:
        undisturbed = await asked(fleet, path, body)
        one = await asked(fleet, path, body, Cut(2), Cut(2))
        assert_same(one, undisturbed)
        assert counts(one.usage) == counts(undisturbed.usage)
        fleet.cuts.extend([Cut(2), Cut(1), Cut(1)])  # the third attempt is the last
        answer = await post(fleet.run, body, path)
        assert got(answer.content).errors
        assert not got(answer.content).done
        assert outcomes(fleet.run) == {"completed": 2, "engine_failed": 1}
        assert nothing_is_booked(fleet.run)


async def test_the_metrics_and_the_record_tell_but_the_client_does_not() -> None:
    path, body = ASKS["chat"]
    async with cut_fleet("vllm") as fleet:
        fleet.cuts.append(Cut(3))
        answer = await post(fleet.run, body, path, {"x-request-id": "mine"})
        assert got(answer.content).done
        async with admin(fleet.run) as http:
            page = (await http.get("/metrics")).text
            record = (await http.get("/api/requests/mine")).json()
    first = answer.headers["x-prefixgate-replica"]
    assert f'prefixgate_continuations_total{{model="sim",outcome="continued",pool="p",replica="{first}"}} 1.0' in page
    assert f'prefixgate_retries_total{{model="sim",pool="p",reason="continued",replica="{first}"}} 1.0' in page
    assert record["replicas"][0] == first
    assert len(set(record["replicas"])) == record["attempts"] == 2
    assert record["outcome"] == "completed"
    ttfts = [line for line in page.splitlines() if line.startswith("prefixgate_ttft_seconds_count")]
    assert [first in line for line in ttfts if line.endswith(" 1.0")] == [True]


STAYS_BROKEN: dict[str, dict[str, Any]] = {
    "several_choices": {"n": 2},
    "logprobs": {"logprobs": True},
    "seed": {"seed": 5, "temperature": 1},
    "penalty": {"presence_penalty": 0.5},
    "structured_output": {"response_format": {"type": "json_object"}},
    "tool_call": {"tools": [{"type": "function", "function": {"name": "f"}}], "eager": True},
    "stop": {"stop": ["never"]},
    "reasoning": {"chat_template_kwargs": {"thinking": True}, "max_tokens": 40},
}


@pytest.mark.parametrize("why", STAYS_BROKEN)
async def test_what_cannot_go_on_ends_with_an_error(why: str) -> None:
    more = dict(STAYS_BROKEN[why])
    eager = more.pop("eager", False)
    async with cut_fleet("vllm", settings={"eager_tools": eager}) as fleet:
        if why == "stop":
            whole = await asked(fleet, "/v1/chat/completions", CHAT)
            more["stop"] = [whole.text[6:8] + "never"]
        before = len(fleet.asked)
        fleet.cuts.append(Cut(3))
        made = got((await post(fleet.run, {**CHAT, **more})).content)
        assert len(fleet.asked) == before + 1
        async with admin(fleet.run) as http:
            page = (await http.get("/metrics")).text
        assert nothing_is_booked(fleet.run)
    assert [error["type"] for error in made.errors] == ["bad_gateway"]
    assert not made.done
    assert f'outcome="{why}"' in page


async def test_a_template_that_ignores_the_flags_is_found_out() -> None:
    async with cut_fleet("vllm") as fleet:
        fleet.heeds = False
        fleet.cuts.append(Cut(3))
        made = got((await post(fleet.run, CHAT)).content)
        assert made.errors
        assert len(fleet.asked) == 1
        fleet.cuts.append(Cut(3))
        assert got((await post(fleet.run, TEXT, "/v1/completions")).content).done
        async with admin(fleet.run) as http:
            page = (await http.get("/metrics")).text
        assert 'outcome="template"' in page
        assert nothing_is_booked(fleet.run)


@pytest.mark.parametrize("more", [{"max_tokens": 7, "stream_options": USAGE}, {"max_completion_tokens": 30}])
async def test_where_flags_are_ignored_the_prompts_own_tokens_are_gone_on_with(more: dict[str, Any]) -> None:
    body = {**CHAT, "chat_template_kwargs": {"thinking": False}, **more}
    async with cut_fleet("vllm") as fleet:
        fleet.heeds = False
        undisturbed = await asked(fleet, "/v1/chat/completions", body)
        for cut in range(1, len(fleet.frames) + 1):
            one = await asked(fleet, "/v1/chat/completions", body, Cut(cut))
            assert_same(one, undisturbed)
            assert counts(one.usage) == counts(undisturbed.usage)
        assert "/v1/completions" in [request.target for request in fleet.asked]
        fleet.cuts.append(Cut(3))
        assert got((await post(fleet.run, {**body, "max_tokens": None, "max_completion_tokens": None})).content).done
        rooms = [json.loads(one.body) for one in fleet.asked if one.target == "/v1/completions"]
        assert 8192 in [len(one["prompt"]) + one["max_tokens"] for one in rooms], "what the context leaves"
        fleet.cuts.append(Cut(3))
        tools = [{"type": "function", "function": {"name": "f"}}]
        assert got((await post(fleet.run, {**body, "tools": tools})).content).errors


async def test_switched_off_it_is_an_error_too() -> None:
    async with cut_fleet("vllm", retry={"continue_streams": False}) as fleet:
        fleet.cuts.append(Cut(3))
        made = got((await post(fleet.run, CHAT)).content)
        assert made.errors
        assert len(fleet.asked) == 1


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
async def test_other_streams_end_with_an_error(path: str) -> None:
    body = {"messages": CHAT["messages"], "max_tokens": 9} if path == "/v1/messages" else {"input": "x"}
    async with cut_fleet("vllm") as fleet:
        fleet.cuts.append(Cut(4))
        answer = await post(fleet.run, {"model": MODEL, "stream": True, **body}, path)
        assert answer.content.startswith(b"".join(fleet.frames[:4]))
        rest = answer.content.removeprefix(b"".join(fleet.frames[:4]))
        assert rest.startswith(b"event: error\n" if path == "/v1/messages" else b"data: {")
        assert b'"error"' in rest
        assert outcomes(fleet.run) == {"engine_failed": 1}


async def test_thoughts_that_are_over_are_sent_along_where_the_template_has_them() -> None:
    body = {**CHAT, "chat_template_kwargs": {"thinking": True}, "max_tokens": 24, "stream_options": USAGE}
    async with cut_fleet("vllm") as fleet:
        undisturbed = await asked(fleet, "/v1/chat/completions", body)
        assert undisturbed.reasoning
        frames = fleet.frames
        spoken = next(n for n, frame in enumerate(frames) if b'"content":" ' in frame)
        for cut in range(spoken + 1, len(frames)):
            one = await asked(fleet, "/v1/chat/completions", body, Cut(cut))
            assert_same(one, undisturbed)


async def test_nobody_left_to_go_on() -> None:
    async with cut_fleet("vllm", replicas=1) as fleet:
        for end in (breaks, dies):
            fleet.cuts.append(Cut(3, end))
            answer = await post(fleet.run, CHAT)
            if answer.status_code == 200:  # else it died before its first frame was taken
                made = got(answer.content)
                assert made.errors
                assert not made.done
                assert answer.content.endswith(DEAD) == (end is dies)
        assert outcomes(fleet.run) == {"engine_failed": 2}
        assert nothing_is_booked(fleet.run)


async def test_a_client_that_leaves_after_the_seam_is_noticed() -> None:
    async with cut_fleet("vllm") as fleet:
        fleet.cuts.extend([Cut(2), Cut(1, stalls)])
        task = asyncio.ensure_future(post(fleet.run, CHAT))
        await until(lambda: len(fleet.asked) == 2)
        task.cancel()
        await asyncio.wait((task,))
        await until(lambda: outcomes(fleet.run) == {"client_gone": 1})
        assert nothing_is_booked(fleet.run)
