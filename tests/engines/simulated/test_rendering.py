"""Conversations render so that answers sent back extend the prefix; answers are a function of the prompt."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.simulated import tokens
from engines.simulated.asks import (
    Ask,
    ReadingRules,
    read_anthropic,
    read_chat,
    read_completion,
    read_responses,
    render_body,
)
from engines.simulated.refusals import Refusal
from engines.simulated.rendering import render_begun, render_chat
from engines.simulated.replies import Reply, Tool, Wish, plan_reply

RULES = ReadingRules()
QUESTION = {"role": "user", "content": "What is the capital of Österreich?"}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": ["integer", "null"]},
                "unit": {"enum": ["celsius"]},
                "where": {"anyOf": [{"type": "array", "items": {"type": "number"}}]},
                "exact": {"type": "boolean"},
                "note": {"type": "string"},
            },
            "required": ["city", "days", "unit", "where", "exact"],
        },
    },
}


def answer(ask: Ask, default_tokens: int = 64) -> Reply:
    return plan_reply(ask.prompts[0], ask.wish, default_tokens, 100_000, "")


def test_the_answer_sent_back_extends_the_prefix() -> None:
    first = read_chat({"messages": [QUESTION]}, RULES)
    reply = answer(first)
    turns = [QUESTION, {"role": "assistant", "content": reply.text("content")}, {"role": "user", "content": "And?"}]
    second = read_chat({"messages": turns}, RULES)
    assert second.prompts[0].startswith(first.prompts[0] + reply.tokens)


def test_a_tool_call_sent_back_extends_the_prefix() -> None:
    body: dict[str, Any] = {"messages": [QUESTION], "tools": [WEATHER], "tool_choice": "required"}
    first = read_chat(body, RULES)
    reply = answer(first)
    arguments = reply.text("tool_arguments")
    called = json.loads(arguments)
    assert set(called) == {"city", "days", "unit", "where", "exact"}
    assert (called["days"], called["unit"], called["where"], called["exact"]) == (1, "celsius", [1.5], True)
    call = {"id": "x", "type": "function", "function": {"name": reply.text("tool_name"), "arguments": arguments}}
    turns = [QUESTION, {"role": "assistant", "content": None, "tool_calls": [call]}, {"role": "tool", "content": "20"}]
    second = read_chat({**body, "messages": turns}, RULES)
    assert second.prompts[0].startswith(first.prompts[0] + reply.tokens)


def test_the_same_holds_for_anthropic_messages() -> None:
    body: dict[str, Any] = {
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        "messages": [QUESTION],
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}],
        "tool_choice": {"type": "tool", "name": "f"},
        "max_tokens": 100,
    }
    first = read_anthropic(body, RULES)
    reply = answer(first)
    used = {"type": "tool_use", "id": "x", "name": "f", "input": json.loads(reply.text("tool_arguments"))}
    turns = [
        QUESTION,
        {"role": "assistant", "content": [used]},
        {"role": "user", "content": [{"type": "tool_result", "content": "20"}, {"type": "text", "text": "So?"}]},
    ]
    second = read_anthropic({**body, "messages": turns}, RULES)
    assert second.prompts[0].startswith(first.prompts[0] + reply.tokens)
    assert [message["role"] for message in second.messages] == ["system", "user", "assistant", "tool", "user"]


def test_the_same_holds_for_responses() -> None:
    tool = {"type": "function", "name": "f", "parameters": {"properties": {"a": {"type": "string"}}}}
    body: dict[str, Any] = {"input": "Hi", "tools": [tool], "tool_choice": {"type": "function", "name": "f"}}
    first = read_responses(body, RULES)
    reply = answer(first)
    called = {"type": "function_call", "name": "f", "arguments": reply.text("tool_arguments")}
    items = [{"role": "user", "content": "Hi"}, called, {"type": "function_call_output", "output": "20"}]
    second = read_responses({**body, "input": items}, RULES)
    assert second.prompts[0].startswith(first.prompts[0] + reply.tokens)


def test_thinking_is_a_namespace_and_its_history_is_dropped_without_tools() -> None:
    on = {"chat_template_kwargs": {"thinking": True}}
    first = read_chat({"messages": [QUESTION], **on}, RULES)
    reply = answer(first)
    assert reply.reasoning_tokens == 16
    assert reply.text("reasoning")
    said = {"role": "assistant", "content": reply.text("content"), "reasoning_content": reply.text("reasoning")}
    turns = [QUESTION, said, {"role": "user", "content": "And?"}]
    assert not read_chat({"messages": turns, **on}, RULES).prompts[0].startswith(first.prompts[0] + reply.tokens)
    with_tools = {**on, "tools": [WEATHER]}
    first = read_chat({"messages": [QUESTION], **with_tools}, RULES)
    assert answer(first).reasoning_tokens
    reply = answer(first)
    said = {"role": "assistant", "content": reply.text("content"), "reasoning": reply.text("reasoning")}
    turns = [QUESTION, said, {"role": "user", "content": "And?"}]
    assert read_chat({"messages": turns, **with_tools}, RULES).prompts[0].startswith(first.prompts[0] + reply.tokens)


def test_defaults_and_efforts_are_disjoint_from_the_first_block_on() -> None:
    bodies: list[dict[str, Any]] = [
        {"chat_template_kwargs": {"thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": True}},
        {"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "max"},
        {"chat_template_kwargs": {"thinking": True}, "reasoning_effort": "medium"},
        {"chat_template_kwargs": {"thinking": False}, "tools": [WEATHER]},
    ]
    prompts = [read_chat({"messages": [QUESTION], **body}, RULES).prompts[0] for body in bodies]
    assert len({prompt[:24] for prompt in prompts}) == len(prompts)
    thinker = ReadingRules(thinks_by_default=True)
    assert read_chat({"messages": [QUESTION]}, thinker).prompts[0] == prompts[1]
    assert read_chat({"messages": [QUESTION]}, RULES).prompts[0] == prompts[0]
    assert read_chat({"messages": [QUESTION], "reasoning_effort": "none"}, thinker).prompts[0] == prompts[0]
    effort = read_responses({"input": QUESTION["content"], "reasoning": {"effort": "max"}}, thinker)
    assert effort.prompts[0] == prompts[2]
    assert not effort.wish.thinking  # not asked for, so not shown
    claude = {"messages": [QUESTION], "thinking": {"type": "enabled", "budget_tokens": 9}}
    assert read_anthropic(claude, RULES).prompts[0] == prompts[1]


def test_media_count_by_what_they_hold() -> None:
    def prompt(url: str) -> bytes:
        parts = [{"type": "text", "text": "Look"}, {"type": "image_url", "image_url": {"url": url}}]
        return render_chat([{"role": "user", "content": parts}], (), "chat")

    assert prompt("a") == prompt("a")
    assert prompt("a") != prompt("b")
    assert render_chat([{"role": "user", "content": ["Look"]}], (), "chat") == render_chat(
        [{"role": "user", "content": "Look"}], (), "chat"
    )


def test_every_rendering_is_whole_tokens() -> None:
    for content in ("", "a", "ab", "abc", "ä", "日本語", None, {"odd": 1}):
        assert len(render_chat([{"role": "user", "content": content}], (), "chat")) % tokens.TOKEN_BYTES == 0


def test_answers_depend_on_prompt_and_seed_alone() -> None:
    wish = Wish(max_tokens=2000)
    one = plan_reply(b"abcd", wish, 64, 10_000, "")
    assert plan_reply(b"abcd", wish, 64, 10_000, "") == one
    assert plan_reply(b"abce", wish, 64, 10_000, "").tokens[:40] != one.tokens[:40]
    assert plan_reply(b"abcd", wish, 64, 10_000, "other").tokens[:40] != one.tokens[:40]
    assert len(one.tokens) == 4 * len(one.pieces)
    assert one.tokens.decode() == one.text("content")
    shorter = plan_reply(b"abcd", Wish(max_tokens=10), 64, 10_000, "")
    assert one.tokens.startswith(shorter.tokens)


@pytest.mark.parametrize(
    ("wish", "length", "finish"),
    [
        (Wish(), 64, "stop"),
        (Wish(max_tokens=5), 5, "length"),
        (Wish(max_tokens=5000, ignore_eos=True), 5000, "length"),
        (Wish(ignore_eos=True), 64, "stop"),
        (Wish(max_tokens=5000, min_tokens=4000), 4000, "stop"),
    ],
)
def test_lengths(wish: Wish, length: int, finish: str) -> None:
    reply = plan_reply(b"abcd", wish, 64, 100_000, "")
    assert (len(reply.pieces), reply.finish) == (length, finish)


def test_an_answer_ends_by_itself_between_one_and_eight_times_the_default() -> None:
    wish = Wish(max_tokens=100_000)
    lengths = [len(plan_reply(bytes([n] * 4), wish, 64, 100_000, "").pieces) for n in range(200)]
    assert 64 <= min(lengths) < max(lengths) <= 512


def test_a_tool_call_may_be_cut() -> None:
    reply = plan_reply(b"abcd", Wish(max_tokens=2, tools=(Tool("f", {}),)), 64, 1000, "")
    assert (len(reply.pieces), reply.finish) == (2, "length")


def test_tools_are_called_when_they_must_be_or_when_the_model_is_eager() -> None:
    body: dict[str, Any] = {"messages": [QUESTION], "tools": [WEATHER]}
    eager = ReadingRules(eager_tools=True)
    assert not read_chat(body, RULES).wish.tools
    assert read_chat(body, eager).wish.tools
    assert not read_chat({**body, "tool_choice": "none"}, eager).wish.tools
    assert not read_chat({**body, "messages": [QUESTION, {"role": "tool", "content": "1"}]}, eager).wish.tools
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert [tool.name for tool in read_chat({**body, "tool_choice": named}, RULES).wish.tools] == ["get_weather"]
    anthropic = {"messages": [QUESTION], "tools": [{"name": "f"}], "tool_choice": {"type": "any"}}
    assert [tool.name for tool in read_anthropic(anthropic, RULES).wish.tools] == ["f"]


def test_prompts_of_completions() -> None:
    def prompts(prompt: object) -> tuple[bytes, ...]:
        return read_completion({"prompt": prompt}, RULES).prompts

    assert prompts("abcde") == (b"abcde\0\0\0",)
    assert prompts("") == (bytes(4),)
    assert prompts([1, 2]) == (tokens.from_ids([1, 2]),)
    assert prompts(["a", "b"]) == (b"a\0\0\0", b"b\0\0\0")
    assert prompts([[1], [2, 3]]) == (tokens.from_ids([1]), tokens.from_ids([2, 3]))


def test_tokenize_renders_what_chat_renders() -> None:
    body: dict[str, Any] = {"messages": [QUESTION], "tools": [WEATHER]}
    assert render_body(body, RULES) == read_chat(body, RULES).prompts[0]
    shorter = render_body({**body, "add_generation_prompt": False}, RULES)
    assert read_chat(body, RULES).prompts[0].startswith(shorter)
    assert render_body({"prompt": "abcd"}, RULES) == b"abcd"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "body.messages"),
        ({"messages": []}, "body.messages"),
        ({"messages": "hi"}, "body.messages"),
        ({"messages": [QUESTION], "max_tokens": "many"}, "body.max_tokens"),
        ({"messages": [QUESTION], "max_tokens": 0}, "max_tokens"),
        ({"messages": [QUESTION], "tools": {}}, "body.tools"),
        ({"messages": [QUESTION], "stream_options": "all"}, "body.stream_options"),
        ({"messages": [{"role": "assistant", "tool_calls": 7}]}, "body.tool_calls"),
    ],
)
def test_what_is_malformed_is_refused_with_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(Refusal) as refused:
        read_chat(body, RULES)
    assert (refused.value.status, refused.value.param) == (400, param)


def test_malformed_prompts_and_inputs_are_refused() -> None:
    for body in ({}, {"prompt": [-1]}, {"prompt": {}}, {"prompt": [[None]]}):
        with pytest.raises(Refusal):
            read_completion(body, RULES)
    for body in ({}, {"input": 7}, {"input": ["x"]}):
        with pytest.raises(Refusal):
            read_responses(body, RULES)


_KEYS = (
    *("role", "content", "type", "text", "function", "name", "arguments"),
    *("parameters", "input", "thinking", "effort", "tool_calls", "input_schema"),
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_KEYS), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = (
    *("messages", "tools", "tool_choice", "prompt", "input", "system", "stream_options", "reasoning", "thinking"),
    *("max_tokens", "n", "cache_salt", "chat_template_kwargs", "reasoning_effort", "instructions"),
)


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON, max_size=6))
def test_whatever_is_sent_is_read_or_refused(body: dict[str, Any]) -> None:
    answered = 0
    for read in (read_chat, read_completion, read_anthropic, read_responses):
        try:
            ask = read({"messages": [QUESTION], "input": "x", "prompt": "x", **body}, RULES)
        except Refusal:
            continue
        answered += 1
        assert all(prompt and len(prompt) % 4 == 0 for prompt in ask.prompts)
        reply = plan_reply(ask.prompts[0], ask.wish, 8, 100, "")
        assert reply.pieces
    assert 0 <= answered <= 4


@given(
    default=st.integers(1, 20),
    limit=st.none() | st.integers(1, 60),
    thinking=st.booleans(),
    question=st.text(max_size=20),
    at=st.integers(0, 100),
)
def test_an_answer_that_is_sent_back_as_begun_goes_on_as_it_would_have(
    default: int, limit: int | None, thinking: bool, question: str, at: int
) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": question}]}
    body["chat_template_kwargs"] = {"thinking": thinking}
    body |= {} if limit is None else {"max_tokens": limit}
    undisturbed = answer(read_chat(body, RULES), default)
    cut = undisturbed.pieces[:at]
    said = {kind: "".join(piece.text for piece in cut if piece.kind == kind) for kind in ("content", "reasoning")}
    if len(cut) == len(undisturbed.pieces) or (thinking and not said["content"]):
        return
    begun = {"role": "assistant", **said}
    flags = {"continue_final_message": True, "add_generation_prompt": False}
    rest = {} if limit is None else {"max_tokens": limit - len(cut)}
    again = answer(read_chat({**body, "messages": [*body["messages"], begun], **flags, **rest}, RULES), default)
    assert again.pieces == undisturbed.pieces[at:]
    assert again.finish == undisturbed.finish


@given(prompt=st.text(max_size=20), limit=st.integers(1, 40), at=st.integers(0, 39))
def test_so_does_a_completion(prompt: str, limit: int, at: int) -> None:
    padded = prompt + " " * (-len(prompt.encode("utf-8", "surrogatepass")) % 4) if prompt else "abcd"
    undisturbed = answer(read_completion({"prompt": padded, "max_tokens": limit}, RULES), 5)
    said = "".join(piece.text for piece in undisturbed.pieces[:at])
    if at < len(undisturbed.pieces):
        again = answer(read_completion({"prompt": padded + said, "max_tokens": limit - at}, RULES), 5)
        assert (again.pieces, again.finish) == (undisturbed.pieces[at:], undisturbed.finish)


def test_vllm_refuses_to_begin_an_answer_and_to_go_on_with_it() -> None:
    body = {"messages": [QUESTION, {"role": "assistant", "content": "So"}], "continue_final_message": True}
    with pytest.raises(Refusal):
        read_chat(body, ReadingRules(refuses_both_flags=True))
    assert read_chat(body, RULES).prompts[0].endswith(b"So  ")
    with pytest.raises(Refusal):
        read_chat({**body, "messages": [QUESTION]}, RULES)


@pytest.mark.parametrize("mode", ["chat", "think-high"])
def test_an_answer_that_is_over_differs_from_one_that_is_gone_on_with(mode: str) -> None:
    question, answer = {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}
    asked = render_chat([question], (), mode)
    begun = render_begun([question, answer], (), mode)
    over = render_chat([question, answer], (), mode, answer_follows=False)
    assert begun.startswith(asked)
    assert begun != over
