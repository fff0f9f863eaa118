"""Bodies are read as prompts, or the reason is given why their tokens would be a guess."""

import json
import struct
from typing import Any

import pytest

from gateway.tokens.conversation import conversation
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.prompt import ChatPrompt, IdsPrompt, TextPrompt, check_vllm_fields, read
from gateway.wire.request import Endpoint

CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f"}}
IMAGE = {"type": "image_url", "image_url": {"url": "data:"}}


def chat(*messages: Any, **fields: Any) -> ChatPrompt:
    prompt = read(Endpoint.CHAT, json.dumps({"messages": messages or [user()], **fields}).encode())
    assert isinstance(prompt, ChatPrompt)
    return prompt


def user(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def assistant(content: Any = "yes", **fields: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **fields}


def completion(prompt: Any, **fields: Any) -> Any:
    return read(Endpoint.COMPLETIONS, json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


def test_texts_and_ids() -> None:
    assert completion("hello") == TextPrompt("hello", special=True, model="m", shape="text")
    assert completion("", add_special_tokens=False) == TextPrompt("", special=False, model="m", shape="text+bare")
    assert completion([1, 0, 70000]) == IdsPrompt(struct.pack("<3I", 1, 0, 70000))


@pytest.mark.parametrize(
    ("prompt", "fields", "reason"),
    [
        (None, {}, Reason.MALFORMED),
        ([], {}, Reason.MALFORMED),
        ({"a": 1}, {}, Reason.MALFORMED),
        (["a", "b"], {}, Reason.BATCH),
        (["a"], {}, Reason.BATCH),
        ([[1, 2]], {}, Reason.BATCH),
        ([1, True], {}, Reason.BATCH),
        ([1, 2.0], {}, Reason.BATCH),
        ([-1], {}, Reason.MALFORMED),
        ([2**32], {}, Reason.MALFORMED),
        ("a", {"suffix": "b"}, Reason.FIELD),
        ("a", {"truncate_prompt_tokens": 5}, Reason.FIELD),
        ("a", {"prompt_embeds": "AAAA"}, Reason.FIELD),
        ("a", {"add_special_tokens": "no"}, Reason.MALFORMED),
    ],
)
def test_texts_that_are_not_read(prompt: Any, fields: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(InexactError) as refusal:
        completion(prompt, **fields)
    assert refusal.value.reason is reason


@pytest.mark.parametrize("endpoint", [each for each in Endpoint if each not in (Endpoint.CHAT, Endpoint.COMPLETIONS)])
def test_endpoints_that_render_in_ways_of_their_own(endpoint: Endpoint) -> None:
    with pytest.raises(InexactError) as refusal:
        read(endpoint, b'{"messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi"}')
    assert refusal.value.reason is Reason.ENDPOINT


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"messages": "\\ud800"}', b"[" * 100_000, b'{"a": 1e999}', b"\xff"]
)
def test_bodies_that_are_not_read(body: bytes) -> None:
    with pytest.raises(InexactError) as refusal:
        read(Endpoint.CHAT, body)
    assert refusal.value.reason is Reason.MALFORMED


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([], Reason.MALFORMED),
        ("hi", Reason.MALFORMED),
        (["hi"], Reason.MALFORMED),
        ([{"content": "hi"}], Reason.MALFORMED),
        ([user(5)], Reason.MALFORMED),
        ([user({"type": "text"})], Reason.MALFORMED),
        ([user([IMAGE])], Reason.CONTENT),
        ([user([{"type": "text", "text": "a"}, {"type": "input_audio", "input_audio": {}}])], Reason.CONTENT),
        ([user([{"type": "file", "file": {}}])], Reason.CONTENT),
        ([user([{"type": "tool_reference", "name": "f"}])], Reason.CONTENT),
        ([user([{"text": "a"}])], Reason.CONTENT),
        ([user([{"type": "text"}])], Reason.CONTENT),
        ([user([{"type": "text", "text": None}])], Reason.CONTENT),
        ([user([{"type": "text", "text": "a", "uuid": "u"}])], Reason.CONTENT),
        ([user([{"type": ["text"], "text": "a"}])], Reason.CONTENT),
        ([user([5])], Reason.CONTENT),
        ([user(name=3)], Reason.MALFORMED),
        ([user(name=None)], Reason.MALFORMED),
        ([assistant(function_call={"name": "f", "arguments": ""})], Reason.FIELD),
        ([{"role": "developer", "content": "x", "tools": [TOOL]}], Reason.FIELD),
        ([assistant(tool_calls={"a": 1})], Reason.MALFORMED),
        ([assistant(tool_calls=["f"])], Reason.MALFORMED),
        ([assistant(tool_calls=[{**CALL, "type": "custom"}])], Reason.MALFORMED),
        ([assistant(tool_calls=[{**CALL, "function": None}])], Reason.MALFORMED),
        ([assistant(tool_calls=[{**CALL, "function": {"name": "f", "arguments": {}}}])], Reason.MALFORMED),
        ([assistant(reasoning=5)], Reason.MALFORMED),
        ([{"role": "tool", "content": "x", "tool_call_id": 5}], Reason.MALFORMED),
    ],
)
def test_messages_that_are_not_read(messages: Any, reason: Reason) -> None:
    with pytest.raises(InexactError) as refusal:
        read(Endpoint.CHAT, json.dumps({"messages": messages}).encode())
    assert refusal.value.reason is reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"chat_template": "{{ x }}"}, Reason.FIELD),
        ({"chat_template_kwargs": {"chat_template": "{{ x }}"}}, Reason.FIELD),
        ({"chat_template_kwargs": {"tokenize": True}}, Reason.FIELD),
        ({"chat_template_kwargs": {"messages": []}}, Reason.FIELD),
        ({"chat_template_kwargs": [1]}, Reason.MALFORMED),
        ({"truncate_prompt_tokens": -1}, Reason.FIELD),
        ({"input_ids": [1]}, Reason.FIELD),
        ({"kv_transfer_params": {"prompt_token_ids": [1]}}, Reason.FIELD),
        ({"functions": [{"name": "f"}]}, Reason.FIELD),
        ({"documents": "x"}, Reason.MALFORMED),
        ({"tools": []}, Reason.MALFORMED),
        ({"tools": "f"}, Reason.MALFORMED),
        ({"tools": [TOOL], "tool_choice": "none"}, Reason.FIELD),
        ({"tools": [{"type": "web_search"}]}, Reason.MALFORMED),
        ({"tools": [{"type": "custom", "function": {"name": "f"}}]}, Reason.MALFORMED),
        ({"tools": [{"function": {"description": "f"}}]}, Reason.MALFORMED),
        ({"tools": [{"function": {"name": "f", "parameters": "x"}}]}, Reason.MALFORMED),
        ({"tools": [{"function": {"name": "f", "strict": "yes"}}]}, Reason.MALFORMED),
        ({"add_generation_prompt": 1}, Reason.MALFORMED),
        ({"continue_final_message": None}, Reason.MALFORMED),
    ],
)
def test_fields_that_are_not_read(fields: dict[str, Any], reason: Reason) -> None:
    with pytest.raises(InexactError) as refusal:
        chat(user(), **fields)
    assert refusal.value.reason is reason


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": {"effort": "low"}},
        {"task": "x"},
        {"reasoning_effort": 5},
        {"reasoning_effort": "extreme"},
        {"documents": [{"a": 1}]},
        {"documents": ["a"]},
    ],
)
def test_fields_that_engines_take_differently(fields: dict[str, Any]) -> None:
    prompt = chat(user(), **fields)
    with pytest.raises(InexactError):
        check_vllm_fields(prompt)
    check_vllm_fields(chat(user(), reasoning_effort="max", documents=[{"a": "b"}], response_format={"type": "text"}))


@pytest.mark.parametrize(
    ("prompt", "shape"),
    [
        (chat(), "chat"),
        (chat({"role": "system", "content": "x"}, user()), "chat"),
        (chat(user([{"type": "text", "text": "a"}, "b"])), "chat+parts"),
        (chat(user(), tools=[TOOL], tool_choice="auto"), "chat+tools"),
        (chat(user(), assistant(tool_calls=[CALL]), user(), tools=[TOOL]), "chat+tools+calls"),
        (chat(user(), {"role": "tool", "content": "x"}), "chat+calls"),
        (chat(user(), assistant(reasoning_content="r"), user()), "chat+reasoning"),
        (chat(user(), assistant(reasoning=None, tool_calls=[]), user()), "chat"),
        (chat(user(), reasoning_effort="low"), "chat+kwargs"),
        (chat(user(), chat_template_kwargs={"thinking": True}), "chat+kwargs"),
        (chat(user(), chat_template_kwargs={}), "chat"),
        (chat({"role": "developer", "content": "x"}, user()), "chat+roles"),
        (chat(user(), {"role": "system", "content": "x"}), "chat+roles"),
        (chat(user(), assistant()), "chat+tail"),
        (chat(user(), add_generation_prompt=False), "chat+tail"),
        (chat(user(), add_special_tokens=True), "chat+tail"),
    ],
)
def test_shapes(prompt: ChatPrompt, shape: str) -> None:
    assert prompt.shape == shape


def test_conversations() -> None:
    """What vLLM 0.32 makes of the same messages."""
    messages = [
        {"role": "system", "content": "x-anthropic-billing-header: a\nrest"},
        {"role": "system", "content": [{"type": "text", "text": "x-anthropic-billing-header: a"}, "b", "c"]},
        user([{"type": "text", "text": "a", "cache_control": {"type": "e"}}, "", "b"], name="bob", more=1),
        assistant(None, tool_calls=[{"index": 0, **CALL, "function": {"name": "f", "arguments": '{"b": 1, "a": 2}'}}]),
        assistant(tool_calls=[{**CALL, "function": {"name": "f", "arguments": text}} for text in ("", "no", "[1]")]),
        assistant(tool_calls=[], reasoning="", reasoning_content="r", refusal=None),
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "1"}, {"type": "text", "text": ""}]},
        {"role": "user", "task": "t"},
        {"role": "developer", "content": "d"},
    ]
    call = {"id": "c", "function": {"arguments": {}, "name": "f"}, "type": "function"}
    made = conversation(messages, parts=False)
    assert made == [
        {"role": "system", "content": "rest"},
        {"role": "system", "content": "b\nc"},
        {"role": "user", "content": "a\nb", "name": "bob"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{**call, "function": {"arguments": {"b": 1, "a": 2}, "name": "f"}, "index": 0}],
        },
        {"role": "assistant", "content": "yes", "tool_calls": [call] * 3},
        {"role": "assistant", "content": "yes", "reasoning": "", "reasoning_content": ""},
        {"role": "tool", "content": "1", "tool_call_id": "c"},
        {"role": "user", "content": "", "task": "t"},
        {"role": "developer", "content": "d", "tools": None},
    ]
    assert [list(call) for call in (made[3]["tool_calls"][0], made[3]["tool_calls"][0]["function"])] == [
        ["id", "function", "type", "index"],
        ["arguments", "name"],
    ]
    listed = conversation(messages, parts=True)
    assert listed[2]["content"] == [
        {"type": "text", "text": "a", "cache_control": {"type": "e"}},
        {"type": "text", "text": ""},
        {"type": "text", "text": "b"},
    ]
    assert listed[6]["content"] == "1\n"
    assert listed[3]["content"] == []


def test_tools_as_vllm_dumps_them() -> None:
    function = {"parameters": {"b": 1}, "strict": True, "description": "d", "name": "f", "x": 1}
    given = [TOOL, {"function": function, "y": 2}, {"defer_loading": True, "function": {"name": "f"}}]
    prompt = chat(user(), tools=[*given, {"function": {"name": "f", "defer_loading": False}, "defer_loading": True}])
    bare = {"name": "f", "description": None, "parameters": None}
    assert json.dumps(prompt.engine_tools()) == json.dumps(
        [
            {"type": "function", "function": bare},
            {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"b": 1}, "strict": True}},
            {"type": "function", "function": {**bare, "defer_loading": True}, "defer_loading": True},
            {"type": "function", "function": {**bare, "defer_loading": False}, "defer_loading": True},
        ]
    )
