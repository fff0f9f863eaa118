"""Tiny tokenizers of every make, chat templates, and model folders of them, for tests."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"]

_CORPUS = [
    "hello world wörld two spaces new tab 1234567.89 don't user assistant system tool question answer " * 20,
    "世界 🙂 e\u0301 ﬁ é A\u0130 \r\n def f(x): return 'x' <think> </think> {% if %} {{ x }}" * 20,
]

CHATML = """\
{%- for message in messages %}<|im_start|>{{ message['role'] }}
{{ message['content'] }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

TOOLS = """\
{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>
{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}"""
"""Tools, calls and reasoning, each rendered where it stands: a turn's text only grows."""

FORGETFUL = TOOLS.replace(
    "{% if message.reasoning_content %}",
    "{% if message.reasoning_content and loop.index0 > ns.last %}",
).replace(
    "{%- if tools %}",
    """\
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- if tools %}""",
    1,
)
"""As `TOOLS`, but reasoning from before the last user message is dropped, as most reasoning models have it."""

PARTS = """\
{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}{{ ' ' + message.name if message.name }}
{% if message.content is string %}{{ message.content }}{% else %}
{%- for part in message.content %}{{ part.text }}{% if part.cache_control %}{{ part | tojson }}{% endif %}{% endfor %}
{%- endif %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

STRICT = """\
{{- bos_token }}
{%- for message in messages %}
{%- if message.role == 'critic' %}{% continue %}{% endif %}
{%- if loop.index0 > 8 %}{% break %}{% endif %}
{%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}{% endif %}
{%- generation %}{{ message | tojson(indent=1, sort_keys=true) }}{% endgeneration %}<|im_end|>
{%- endfor %}
{{- '|'.join([reasoning_effort | default('-'), enable_thinking | default('-') | string, style | default('-')]) }}
{{- documents | tojson if documents }}"""
"""Alternating roles, loop controls, the generation block, template arguments."""

TEMPLATES = {"chatml": CHATML, "tools": TOOLS, "forgetful": FORGETFUL, "parts": PARTS, "strict": STRICT}


def _bpe(pre_tokenizer: Any = None, normalizer: Any = None, **options: Any) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(**options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIALS, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


def _byte_level() -> Tokenizer:
    return _bpe(pre_tokenizers.ByteLevel(add_prefix_space=False))


def _digits_and_many_tokens() -> Tokenizer:
    digits = pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated")
    tokenizer = _bpe(
        pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=True)]), normalizers.NFC()
    )
    tokenizer.add_special_tokens([AddedToken(f"<|r{n}|>", special=True, normalized=False) for n in range(300)])
    tokenizer.add_tokens(
        [
            AddedToken("hello", normalized=True),
            AddedToken("wörld", normalized=False),
            AddedToken("<|im_start|>user", normalized=False),
        ]
    )
    return tokenizer


def _metaspace_first() -> Tokenizer:
    tokenizer = _bpe(pre_tokenizers.Metaspace(prepend_scheme="first"), unk_token="<s>", fuse_unk=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 3)]
    )
    return tokenizer


def _prepending() -> Tokenizer:
    marks = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = _bpe(None, marks, unk_token="<s>", fuse_unk=True)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A <|im_end|>", pair="<s> $A $B", special_tokens=[("<s>", 3), ("<|im_end|>", 2)]
    )
    return tokenizer


def _stripping() -> Tokenizer:
    tokenizer = _byte_level()
    tokenizer.add_special_tokens(
        [
            AddedToken("<think>", special=True, rstrip=True, normalized=False),
            AddedToken("</think>", special=True, lstrip=True, normalized=False),
            AddedToken("<|both|>", special=True, lstrip=True, rstrip=True, normalized=True),
        ]
    )
    return tokenizer


def _whole_words() -> Tokenizer:
    tokenizer = _byte_level()
    tokenizer.add_special_tokens([AddedToken("answer", special=True, single_word=True, normalized=False)])
    return tokenizer


def _cased_word_pieces() -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="<s>"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIALS, show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    tokenizer.post_processor = processors.BertProcessing(("<|im_end|>", 2), ("<s>", 3))
    tokenizer.enable_truncation(40)
    tokenizer.enable_padding(length=64)
    return tokenizer


def _unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    trainer = trainers.UnigramTrainer(vocab_size=250, special_tokens=SPECIALS, unk_token="<s>", show_progress=False)
    tokenizer.train_from_iterator(_CORPUS, trainer)
    return tokenizer


MAKES: Mapping[str, Callable[[], Tokenizer]] = {
    "byte-level": _byte_level,
    "many-tokens": _digits_and_many_tokens,
    "metaspace-first": _metaspace_first,
    "prepending": _prepending,
    "stripping": _stripping,
    "whole-words": _whole_words,
    "word-pieces": _cased_word_pieces,
    "unigram": _unigram,
}


@cache
def tokenizer_json(make: str = "byte-level") -> str:
    return MAKES[make]().to_str()


def tokenizer(make: str = "byte-level") -> Tokenizer:
    """A new one each time: encoders configure theirs."""
    return Tokenizer.from_str(tokenizer_json(make))


def model_folder(
    folder: Path,
    template: str | None = CHATML,
    *,
    make: str = "byte-level",
    config: Mapping[str, Any] | None = None,
    **files: str | None,
) -> Path:
    """Write one; `files` are further ones by name with `_` for the dot, None for one that is to be missing."""
    folder.mkdir(parents=True, exist_ok=True)
    texts: dict[str, str | None] = {
        "tokenizer.json": tokenizer_json(make),
        "tokenizer_config.json": json.dumps({"tokenizer_class": "PreTrainedTokenizerFast", **(config or {})}),
        "chat_template.jinja": template,
    }
    texts |= {name[::-1].replace("_", ".", 1)[::-1]: text for name, text in files.items()}
    for name, text in texts.items():
        if text is not None:
            (folder / name).write_text(text, encoding="utf-8")
    return folder
