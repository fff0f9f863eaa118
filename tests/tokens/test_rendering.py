"""Chat templates render what engines render."""

import json
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from model_folders import CHATML, PARTS, TEMPLATES, TOOLS, model_folder, tokenizer

from gateway.tokens.errors import InexactError, Reason, TokeniserError
from gateway.tokens.prompt import ChatPrompt, read
from gateway.tokens.template import ChatTemplate
from gateway.tokens.tokeniser import Tokeniser
from gateway.wire.request import Endpoint

# Made by vLLM 0.32.0 with transformers 5.19.0: its ChatCompletionRequest, parse_chat_messages and
# safe_apply_chat_template, on random requests and the templates of tests/support/model_folders.py. `text` null: it
# refused.
RENDERED = json.loads((Path(__file__).parent / "rendered_by_vllm.json").read_text(encoding="utf-8"))
TOKENS = {"bos_token": "<s>", "eos_token": "<|im_end|>"}


def prompt(*messages: dict[str, Any], **fields: Any) -> ChatPrompt:
    made = read(Endpoint.CHAT, json.dumps({"messages": messages, **fields}).encode())
    assert isinstance(made, ChatPrompt)
    return made


def user(content: Any = "hi", **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def render(source: str, *messages: dict[str, Any], **fields: Any) -> str:
    return ChatTemplate(source, "test").render(prompt(*(messages or (user(),)), **fields), TOKENS)


@pytest.mark.parametrize("name", TEMPLATES)
def test_as_vllm_renders(name: str, tmp_path: Path) -> None:
    tokeniser = Tokeniser(model_folder(tmp_path / name, TEMPLATES[name], config=TOKENS))
    cases = [case for case in RENDERED if case["template"] == name]
    assert len(cases) >= 12
    for case in cases:
        try:
            given: str | None = tokeniser.text_of(prompt(*case["body"].pop("messages"), **case["body"]))
        except InexactError:
            given = None
        assert given == case["text"]


def test_the_environment() -> None:
    assert render("{{ tools | tojson }}", tools=[tool("é<&")]) == json.dumps(
        [{"type": "function", "function": {"name": "é<&", "description": None, "parameters": None}}], ensure_ascii=False
    )
    assert render("{{ {'b': 1, 'a': [1.0]} | tojson(indent=1, sort_keys=true) }}") == json.dumps(
        {"a": [1.0], "b": 1}, indent=1
    )
    assert (
        render("{{ 'é' | tojson(ensure_ascii=true) }}{{ [1, 2] | tojson(separators=(',', ':')) }}") == '"\\u00e9"[1,2]'
    )
    assert render("{% for n in range(9) %}{% if n == 3 %}{% break %}{% endif %}{% continue %}x{% endfor %}y") == "y"
    assert render("{% generation %}{% set a = 1 %}<{{ a }}{% endgeneration %}{{ a }}>") == "<1>"
    assert render("{{ strftime_now('%Y') }}") == str(datetime.now().year)
    assert render("  {% if true %}\nx\n  {% endif %}\ny\n") == "x\ny"
    assert render("{{ bos_token }}{{ unk_token }}{{ messages[0].nothing }}") == "<s>"


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages[0].content.nothing.more }}",
        "{{ messages[0]['content'] + 1 }}",
        "{{ 1 // 0 }}",
        "{{ messages.append(1) }}",
        "{{ ''.__class__.__mro__ }}",
        "{{ 'x' | tojson(indent={}) + {} }}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
    ],
)
def test_a_template_that_refuses(source: str) -> None:
    with pytest.raises(InexactError) as refusal:
        render(source)
    assert refusal.value.reason is Reason.TEMPLATE


def test_a_template_that_is_not_valid() -> None:
    with pytest.raises(TokeniserError, match=r"the chat template in here is not valid, correct it: .*endfor"):
        ChatTemplate("{% for x in y %}", "here")


def test_template_arguments() -> None:
    source = "{{ [reasoning_effort, enable_thinking, style, add_generation_prompt] | map('string') | join(',') }}"
    assert render(source) == ",,,True"
    assert render(source, reasoning_effort="none") == "none,False,,True"
    assert render(source, reasoning_effort="low", chat_template_kwargs={"enable_thinking": False}) == "low,False,,True"
    given = {"style": "auto", "enable_thinking": None, "reasoning_effort": "x", "add_generation_prompt": False}
    assert render(source, chat_template_kwargs=given) == "x,,,True"
    assert render("{% set style = 1 %}{{ style }}", chat_template_kwargs={"style": 2}) == "1"
    assert render("{{ bos_token }}", chat_template_kwargs={"bos_token": "B"}) == "B"


def test_a_final_message_is_continued() -> None:
    answer = {"role": "assistant", "content": "The answer is "}
    fields = {"add_generation_prompt": False, "continue_final_message": True}
    assert render(CHATML, user(), answer, **fields).endswith("<|im_start|>assistant\nThe answer is ")
    trimming = "{% for message in messages %}[{{ message.content | trim }}]{% endfor %}"
    assert render(trimming, user(), answer, **fields) == "[hi][The answer is"
    parts = {"role": "assistant", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]}
    assert render(PARTS, user(), parts, **fields).endswith("<|im_start|>assistant\nonetwo")
    refused = (
        ("{% for message in messages[:1] %}{{ message.content }}{% endfor %}", answer, fields),
        ("{{ messages | length }}", answer, fields),
        (CHATML, answer, {"continue_final_message": True}),
        (PARTS, {"role": "assistant", "content": []}, fields),
    )
    for source, last, how in refused:
        with pytest.raises(InexactError):
            render(source, user(), last, **how)


def test_developers_become_systems_where_the_template_knows_none() -> None:
    told = {"role": "developer", "content": "be brief"}
    system = {"role": "system", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    assert render(CHATML, told, user()).startswith("<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user")
    assert render(CHATML, system, told, user()).startswith(
        "<|im_start|>system\na\nb\n\nbe brief<|im_end|>\n<|im_start|>u"
    )
    assert render(PARTS, user(), told).startswith("<s><|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi")
    assert render("{# 'developer' #}{{ messages[0].role }}", told) == "developer"


def test_tokens_of_a_chat_and_of_a_text(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, TOOLS, make="metaspace-first", config=TOKENS)
    tokeniser, plain = Tokeniser(folder / "tokenizer.json"), tokenizer("metaspace-first")
    chat = prompt(user("hello world"), tools=[tool("f")])
    expected = plain.encode(tokeniser.text_of(chat), add_special_tokens=False).ids
    assert tokeniser.tokens(chat) == struct.pack(f"<{len(expected)}I", *expected)
    doubled = prompt(user("hello world"), tools=[tool("f")], add_special_tokens=True)
    assert tokeniser.tokens(doubled) == struct.pack(f"<{len(expected) + 1}I", 3, *expected)
    for special in (True, False):
        text = read(Endpoint.COMPLETIONS, json.dumps({"prompt": "hello", "add_special_tokens": special}).encode())
        expected = plain.encode("hello", add_special_tokens=special).ids
        assert tokeniser.tokens(text) == struct.pack(f"<{len(expected)}I", *expected)  # type: ignore[arg-type]
