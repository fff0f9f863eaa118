"""Chat templates: the text that an engine renders a conversation to, or a refusal; reads the clock, else pure.

The environment is that of the `transformers` library, which vLLM and SGLang use: its settings, filters, functions
and its `generation` block, and nothing else.
"""

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from gateway.tokens.content_format import wants_parts
from gateway.tokens.conversation import Messages, conversation, without_developers
from gateway.tokens.errors import InexactError, Reason, TokeniserError
from gateway.tokens.prompt import ChatPrompt

_MARK: Final = "CONTINUE_FINAL_MESSAGE_TAG "
"""Written after a final message that is to be continued, to find its end; `transformers` uses it too, and a
template that trims must see the same text."""

_FAILURES: Final = (
    jinja2.TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What a template that refuses a conversation raises, by its own word or by stumbling over it."""


class ChatTemplate:
    """One compiled template. TokeniserError, naming `origin`, if it is not valid."""

    def __init__(self, source: str, origin: str) -> None:
        environment = _environment()
        try:
            tree = environment.parse(source)
            self._compiled = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TokeniserError(f"the chat template in {origin} is not valid, correct it: {error}") from error
        self.variables = meta.find_undeclared_variables(tree)
        """What it reads and does not set itself."""
        self._wants_parts = wants_parts(tree)
        self._knows_developer = '"developer"' in source or "'developer'" in source
        self._reads_content = "content" in source

    def render(self, prompt: ChatPrompt, special_tokens: dict[str, str]) -> str:
        """The prompt's text. InexactError if the template refuses it, as the engine's will."""
        messages = conversation(prompt.messages, parts=self._wants_parts)
        if not self._knows_developer:
            messages = without_developers(messages)
        arguments = special_tokens | {
            name: value for name, value in prompt.template_arguments().items() if name in self.variables
        }
        ended = self._mark_end(messages) if prompt.continue_final_message else None
        if ended is not None and prompt.add_generation_prompt:
            raise InexactError(Reason.MALFORMED)
        try:
            text = self._compiled.render(
                messages=messages,
                tools=prompt.engine_tools(),
                documents=prompt.documents,
                add_generation_prompt=prompt.add_generation_prompt,
                **arguments,
            )
        except _FAILURES:
            raise InexactError(Reason.TEMPLATE) from None
        return text if ended is None else _up_to_mark(text, ended)

    def _mark_end(self, messages: Messages) -> str:
        """Put the mark after the final message's text, and give that text."""
        content = messages[-1]["content"]
        holder: dict[str, Any] | None = messages[-1]
        name = "content"
        if isinstance(content, list):
            holder, name = next((part for part in reversed(content) if "text" in part), None), "text"
        if holder is None or not self._reads_content:
            raise InexactError(Reason.TEMPLATE)
        ended: str = holder[name]
        holder[name] = ended + _MARK
        return ended


def _up_to_mark(text: str, ended: str) -> str:
    at = text.rfind(_MARK.strip())
    if at < 0 or ended.strip() not in text:
        raise InexactError(Reason.TEMPLATE)
    kept = text.startswith(_MARK, at)  # else the template trimmed the message, and so must we
    return text[:at] if kept else text[:at].rstrip()


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationBlock, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


class _GenerationBlock(Extension):
    """`{% generation %}`: marks what the model wrote, for training; renders its body."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's declaration

    def parse(self, parser: Parser) -> nodes.Node:
        """A call block, as in `transformers`: what the body assigns stays inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)  # the engine's clock is taken to be ours, zone and all
