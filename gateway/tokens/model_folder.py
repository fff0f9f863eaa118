"""The files of a model folder that say how prompts become token ids; reads those files, otherwise pure.

What is made of them is what `transformers` 5 makes, where it loads tokenizer.json as it is.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Tokenizer

from gateway.tokens.errors import TokeniserError
from gateway.tokens.template import ChatTemplate

_NAMED_TOKENS: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)
_GENERIC: Final = (None, "PreTrainedTokenizerFast", "TokenizersBackend")
"""Tokenizer classes without special tokens of their own, which a configuration need not name."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder's tokenizer, its chat templates, and the special tokens that templates may name."""

    tokenizer: Tokenizer
    default_template: ChatTemplate
    tools_template: ChatTemplate
    special_tokens: dict[str, str]


def read_folder(path: Path) -> ModelFolder:
    """Read a model folder, or the folder of a tokenizer.json. TokeniserError says what is missing or wrong."""
    folder = path.parent if path.name == "tokenizer.json" else path
    if not folder.is_dir():
        raise TokeniserError(f"{folder} is not a folder: give the model's, with tokenizer.json in it")
    config = _json(folder / "tokenizer_config.json")
    if "added_tokens_decoder" not in config and (folder / "special_tokens_map.json").is_file():
        config |= _json(folder / "special_tokens_map.json")
    default, tools = _templates(folder, config)
    special_tokens = _special_tokens(config)
    for template in {default, tools}:
        unnamed = [name for name in _NAMED_TOKENS if name in template.variables and name not in config]
        if unnamed and config.get("tokenizer_class") not in _GENERIC:
            raise TokeniserError(
                f"the chat template of {folder} uses {unnamed[0]}, which its tokenizer_config.json does not name:"
                f" add it there, null if the model has none"
            )
    return ModelFolder(_tokenizer(folder, config), default, tools, special_tokens)


def _tokenizer(folder: Path, config: dict[str, Any]) -> Tokenizer:
    file = folder / "tokenizer.json"
    text = _text(file)
    try:
        tokenizer = Tokenizer.from_str(text)
        tokenizer.encode_special_tokens = bool(config.get("split_special_tokens", False))
        _add_tokens(tokenizer, config)
    except Exception as error:  # the library raises nothing narrower
        raise TokeniserError(f"{file} is not a tokenizer that can be loaded, get it anew: {error}") from error
    return tokenizer


def _add_tokens(tokenizer: Tokenizer, config: Mapping[str, Any]) -> None:
    """Add the tokens that the configuration names and tokenizer.json lacks."""
    present = tokenizer.get_added_tokens_decoder().values()
    seen = {repr(token) for token in present}
    decoder = config.get("added_tokens_decoder") or {}
    listed = [_added(decoder[number]) for number in sorted(decoder, key=int)]
    new = [token for token in listed if repr(token) not in seen]
    contents = {token.content for token in (*present, *new)}
    named = [config[name] for name in config if name.endswith("_token") and config[name] and _is_token(config[name])]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    for value in (*named, *(extra.values() if isinstance(extra, dict) else extra)):
        token = _added(value)
        if token.content not in contents:
            contents.add(token.content)
            new.append(token)
    tokenizer.add_tokens(new)


def _added(value: Any) -> AddedToken:
    if isinstance(value, str):
        return AddedToken(value, special=True)
    flags = {name: value[name] for name in ("single_word", "lstrip", "rstrip", "normalized") if name in value}
    return AddedToken(value["content"], special=value.get("special", True), **flags)


def _special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """The variables for templates: `bos_token` and its like, and a model's own, such as `image_token`."""
    extra = config.get("extra_special_tokens")
    values = dict(config) | (extra if isinstance(extra, dict) else {})
    names = [*_NAMED_TOKENS, *(name for name in values if name.endswith("_token") and name not in _NAMED_TOKENS)]
    return {name: _content(values[name]) for name in names if _is_token(values.get(name))}


def _is_token(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("content"), str))


def _content(value: Any) -> str:
    return value if isinstance(value, str) else str(value["content"])


def _templates(folder: Path, config: Mapping[str, Any]) -> tuple[ChatTemplate, ChatTemplate]:
    """The template for requests without and with tools."""
    named = _template_texts(folder, config.get("chat_template"))
    legacy = folder / "chat_template.json"
    if legacy.is_file():
        text = _json(legacy).get("chat_template")
        if isinstance(text, str) and named.setdefault("default", text) != text:
            raise TokeniserError(
                f"{folder} has two chat templates that differ: remove chat_template.json or make it equal"
            )
    if "default" not in named:
        raise TokeniserError(
            f'{folder} has no chat template: add its chat_template.jinja, or set tokens = "engine" for a model whose'
            f" engine renders prompts by itself"
        )
    default = ChatTemplate(named["default"], str(folder))
    tools = named.get("tool_use", named["default"])
    return default, default if tools == named["default"] else ChatTemplate(tools, str(folder))


def _template_texts(folder: Path, configured: Any) -> dict[str, str]:
    """Templates by name; files win over the configuration."""
    file, more = folder / "chat_template.jinja", folder / "additional_chat_templates"
    files = {"default": file} if file.is_file() else {}
    files |= {extra.stem: extra for extra in sorted(more.glob("*.jinja"))}
    if files:
        return {name: _text(path) for name, path in files.items()}
    if isinstance(configured, str):
        return {"default": configured}
    entries: Iterable[Any] = configured if isinstance(configured, list) else ()
    if isinstance(configured, dict):
        entries = [{"name": name, "template": text} for name, text in configured.items()]
    pairs = {entry.get("name"): entry.get("template") for entry in entries if isinstance(entry, dict)}
    return {name: text for name, text in pairs.items() if isinstance(name, str) and isinstance(text, str)}


def _json(file: Path) -> dict[str, Any]:
    try:
        read = json.loads(_text(file))
    except ValueError as error:
        raise TokeniserError(f"{file} is not valid JSON, get it anew: {error}") from error
    if not isinstance(read, dict):
        raise TokeniserError(f"{file} does not hold a JSON object, get it anew")
    return read


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise TokeniserError(f"{file} is missing: copy it from the model's repository") from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TokeniserError(f"{file} cannot be read, correct that first: {reason}") from error
