"""Model folders: what is read, in which order, and what is said of one that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
from model_folders import CHATML, model_folder, tokenizer_json

from gateway.tokens.errors import TokeniserError
from gateway.tokens.model_folder import read_folder
from gateway.tokens.prompt import ChatPrompt, read
from gateway.tokens.tokeniser import Tokeniser
from gateway.wire.request import Endpoint

NAMED = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "with {{ tools | length }} tools"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def text(folder: Path, **fields: Any) -> str:
    prompt = read(Endpoint.CHAT, json.dumps({"messages": [{"role": "user", "content": "hi"}], **fields}).encode())
    assert isinstance(prompt, ChatPrompt)
    return Tokeniser(folder).text_of(prompt)


@pytest.mark.parametrize(
    ("template", "config", "files", "plain", "tools"),
    [
        ("from the file", {"chat_template": "from the configuration"}, {}, "from the file", "from the file"),
        (None, {"chat_template": "from the configuration"}, {}, "from the configuration", "from the configuration"),
        (None, {"chat_template": NAMED}, {}, "plain", "with 1 tools"),
        (None, {"chat_template": {one["name"]: one["template"] for one in NAMED}}, {}, "plain", "with 1 tools"),
        (None, {}, {"chat_template_json": '{"chat_template": "of the processor"}'}, "of the processor", None),
        ("same", {}, {"chat_template_json": '{"chat_template": "same"}'}, "same", "same"),
    ],
)
def test_where_templates_are(
    tmp_path: Path, template: str | None, config: Any, files: Any, plain: str, tools: str | None
) -> None:
    folder = model_folder(tmp_path, template, config=config, **files)
    assert text(folder) == plain
    assert text(folder, tools=[TOOL]) == (tools or plain)


def test_additional_templates(tmp_path: Path) -> None:
    folder = model_folder(tmp_path, "plain", config={"chat_template": "not this"})
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("with tools")
    assert (text(folder), text(folder, tools=[TOOL])) == ("plain", "with tools")


def test_special_tokens_are_variables(tmp_path: Path) -> None:
    template = "{{ bos_token }},{{ eos_token }},{{ pad_token }},{{ image_token }},{{ audio_token }},{{ unk_token }}"
    config = {
        "bos_token": "<s>",
        "eos_token": {"__type": "AddedToken", "content": "<|im_end|>", "special": True},
        "pad_token": None,
        "image_token": "<image>",
        "extra_special_tokens": {"audio_token": "<audio>"},
    }
    assert text(model_folder(tmp_path, template, config=config)) == "<s>,<|im_end|>,,<image>,<audio>,"


def test_the_old_map_of_special_tokens(tmp_path: Path) -> None:
    old = json.dumps({"bos_token": "<s>", "additional_special_tokens": ["<extra>"]})
    folder = model_folder(tmp_path / "a", "{{ bos_token }}", config={"bos_token": "x"}, special_tokens_map_json=old)
    assert text(folder) == "<s>"
    new = {"bos_token": "x", "added_tokens_decoder": {}}
    folder = model_folder(tmp_path / "b", "{{ bos_token }}", config=new, special_tokens_map_json=old)
    assert text(folder) == "x"


def test_tokens_that_only_the_configuration_names(tmp_path: Path) -> None:
    config = {
        "added_tokens_decoder": {
            "3": {"content": "<s>", "special": True, "normalized": False},
            "900": {"content": "<late>", "rstrip": True, "normalized": False, "special": True},
        },
        "eos_token": "<eos>",
        "additional_special_tokens": ["<extra>", "<|im_end|>"],
    }
    made = read_folder(model_folder(tmp_path, config=config)).tokenizer
    added = {token.content: token for token in made.get_added_tokens_decoder().values()}
    assert {"<late>", "<eos>", "<extra>"} <= added.keys()
    assert added["<late>"].rstrip
    assert added["<eos>"].special
    size = json.loads(tokenizer_json())["model"]["vocab"]
    assert made.encode("<late> <extra>x").ids[:2] == [len(size), len(size) + 2]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_json": None}, "tokenizer.json is missing: copy it from the model's repository"),
        ({"tokenizer_json": "{}"}, "tokenizer.json is not a tokenizer that can be loaded, get it anew"),
        ({"tokenizer_config_json": None}, "tokenizer_config.json is missing: copy it"),
        ({"tokenizer_config_json": "{"}, "tokenizer_config.json is not valid JSON, get it anew"),
        ({"tokenizer_config_json": "[]"}, "tokenizer_config.json does not hold a JSON object"),
        ({"chat_template_jinja": None}, 'has no chat template: add its chat_template.jinja, or set tokens = "engine"'),
        ({"chat_template_jinja": "{% if %}"}, "is not valid, correct it: Expected an expression"),
        ({"chat_template_json": '{"chat_template": "x"}'}, "two chat templates that differ: remove chat_template.json"),
    ],
)
def test_folders_that_cannot_be_used(tmp_path: Path, files: dict[str, str | None], message: str) -> None:
    folder = model_folder(tmp_path, **files)
    with pytest.raises(TokeniserError) as refusal:
        Tokeniser(folder)
    assert message in str(refusal.value)
    assert str(tmp_path) in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(TokeniserError, match=r"is not a folder: give the model's, with tokenizer.json in it"):
        Tokeniser(tmp_path / "none")
    binary = model_folder(tmp_path)
    (binary / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(TokeniserError, match=r"chat_template.jinja cannot be read, correct that first"):
        Tokeniser(binary)


def test_a_template_may_not_use_a_token_that_a_class_may_have_by_itself(tmp_path: Path) -> None:
    config = {"tokenizer_class": "LlamaTokenizer"}
    with pytest.raises(TokeniserError, match=r"uses bos_token, which its tokenizer_config.json does not name"):
        Tokeniser(model_folder(tmp_path / "a", "{{ bos_token }}" + CHATML, config=config))
    assert text(model_folder(tmp_path / "b", "{{ bos_token }}", config={**config, "bos_token": None})) == ""
    assert text(model_folder(tmp_path / "c", "{{ bos_token }}")) == ""
