"""Request bodies, endpoint by endpoint: the fields that routing needs, all others are skipped; pure."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import Raw

from gateway.errors import bad_request
from gateway.wire import canonical
from gateway.wire.canonical import CanonicalPrompt
from gateway.wire.sampling import Obstacle, Sampling

Content = str | list[str | dict[str, Any]] | None
Prompt = str | list[str | int | list[int] | dict[str, Any]] | None

_BILLING_LINE = "x-anthropic-billing-header"


class Body(Sampling, kw_only=True):
    """What endpoints share. A field of type Any may hold anything: what we cannot read, an engine may."""

    model: str | None = None
    stream: bool | None = None
    stream_options: Any = None
    session_id: Any = None
    prompt_cache_key: Any = None
    user: Any = None
    rid: Any = None
    request_id: Any = None
    max_tokens: Any = None
    lora_path: Any = None
    cache_salt: Any = None
    extra_key: Any = None
    chat_template: Any = None
    chat_template_kwargs: Any = None

    def prompt(self) -> CanonicalPrompt:
        """The prompt in rendered order; GatewayError (400) when there is none."""
        return self._named(b"")

    def output_limit(self) -> object:
        """The most tokens to generate, as the client wrote it."""
        return self.max_tokens

    def salt(self) -> str | None:
        """What gives this prompt a cache of its own by its client's wish; None for a prompt that shares."""
        if self.extra_key is None and isinstance(self.cache_salt, str | None):
            return self.cache_salt
        return msgspec.json.encode([self.cache_salt, self.extra_key], order="sorted").decode()

    def _named(self, text: bytes, *mode: tuple[str, object]) -> CanonicalPrompt:
        """`text` under the namespace of this body's model, adapter, salt, template and `mode`."""
        if self._is_ordinary and all(value is None for _, value in mode):
            return CanonicalPrompt(_namespace_of(self.model), text)
        shared = (
            ("model", self.model),
            ("lora", self.lora_path),
            ("salt", self.cache_salt),
            ("key", self.extra_key),
            ("template", self.chat_template),
            ("kwargs", self.chat_template_kwargs),
        )
        return CanonicalPrompt(canonical.namespace((*shared, *mode)), text)

    @property
    def _is_ordinary(self) -> bool:
        """Whether nothing but the model parts this prompt from others."""
        return (
            self.lora_path is None
            and self.cache_salt is None
            and self.extra_key is None
            and self.chat_template is None
            and self.chat_template_kwargs is None
        )

    def _prompted(self, name: str, prompt: Prompt) -> CanonicalPrompt:
        """The prompt or prompts of the field `name`: texts as UTF-8, ids packed in a namespace of their own."""
        if prompt is None:
            raise bad_request(f"Missing required parameter: '{name}'.", param=name)
        if isinstance(prompt, str):
            return self._named(prompt.encode())
        kinds = set(map(type, prompt))
        if not kinds & {int, list}:
            return self._named(canonical.listed(prompt))
        if len(kinds) > 1:
            raise bad_request(f"'{name}' must hold either texts or token ids, not both.", param=name)
        try:
            packed = canonical.pack_ids(prompt if list in kinds else [prompt])  # type: ignore[arg-type, list-item]
        except OverflowError as error:
            raise bad_request(f"'{name}': {error}.", param=name) from None
        return self._named(packed, ("prompt", "ids"))


class Message(msgspec.Struct):
    """One chat message; calls and tools stay as the client wrote them."""

    role: str
    content: Content = None
    name: Any = None
    tool_call_id: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    tools: Raw = Raw()
    tool_calls: Raw = Raw()
    function_call: Raw = Raw()

    def pieces(self) -> Sequence[bytes]:
        """The message as a turn, in pieces: reasoning before the content, calls after it, as templates have it."""
        if isinstance(self.content, str) and self._is_bare:
            return canonical.TURN, self.role.encode(), canonical.CONTENT, self.content.encode()
        before = (
            canonical.field("name", self.name)
            + canonical.field("tool_call_id", self.tool_call_id)
            + canonical.field("reasoning", self.reasoning)
            + canonical.field("reasoning", self.reasoning_content)
        )
        after = (
            canonical.raw_field("tools", self.tools)
            + canonical.raw_field("tool_calls", self.tool_calls)
            + canonical.raw_field("function_call", self.function_call)
        )
        return (canonical.turn(self.role, self.content, before, after),)

    @property
    def _is_bare(self) -> bool:
        """Whether there is nothing but a role and what was said."""
        return (
            self.name is None
            and self.tool_call_id is None
            and self.reasoning is None
            and self.reasoning_content is None
            and not (self.tools or self.tool_calls or self.function_call)
        )


Messages = Annotated[list[Message], msgspec.Meta(min_length=1)]


def _turns(messages: list[Message]) -> bytes:
    pieces: list[bytes] = []
    for message in messages:
        pieces += message.pieces()
    return b"".join(pieces)


@lru_cache(maxsize=1024)
def _namespace_of(model: str | None) -> bytes:
    """Of prompts that nothing but their model parts from others."""
    return canonical.namespace([("model", model)])


class Chat(Body, kw_only=True):
    """`/v1/chat/completions`."""

    messages: Messages
    tools: Raw = Raw()
    functions: Raw = Raw()
    documents: Raw = Raw()
    reasoning_effort: Any = None
    max_completion_tokens: Any = None

    def prompt(self) -> CanonicalPrompt:
        """Tools and documents, then the turns."""
        text = _turns(self.messages)
        if self.tools or self.functions or self.documents:
            text = (
                canonical.raw_field("tools", self.tools)
                + canonical.raw_field("functions", self.functions)
                + canonical.raw_field("documents", self.documents)
                + text
            )
        return self._named(text, ("effort", self.reasoning_effort))

    def output_limit(self) -> object:
        """`max_completion_tokens`, or the older `max_tokens`."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def obstacle(self) -> Obstacle | None:
        """Two messages of the assistant in a row are more than templates can be relied on to render."""
        last = self.messages[-1]
        if self.echo or (last.role == "assistant" and not self.continue_final_message):
            return Obstacle.PROMPT
        if self.continue_final_message and not isinstance(last.content, str):
            return Obstacle.PROMPT
        return super().obstacle()


class Completion(Body, kw_only=True):
    """`/v1/completions`."""

    # The names of fields are the clients'; a method may not share them.
    prompt_: Prompt = msgspec.field(name="prompt", default=None)
    prompt_embeds: Any = None

    def prompt(self) -> CanonicalPrompt:
        """The texts or ids; embeddings count as a digest."""
        if self.prompt_ is None and self.prompt_embeds is not None:
            return self._named(canonical.digest(self.prompt_embeds), ("prompt", "embeds"))
        return self._prompted("prompt", self.prompt_)

    def obstacle(self) -> Obstacle | None:
        """Only a text can be added to."""
        if not isinstance(self.prompt_, str):
            return Obstacle.PROMPT
        return Obstacle.NO_LIMIT if self.max_tokens is None else super().obstacle()


class Responses(Body, kw_only=True):
    """`/v1/responses`."""

    input: str | list[dict[str, Any]]
    instructions: Any = None
    tools: Raw = Raw()
    reasoning: Any = None
    max_output_tokens: Any = None
    previous_response_id: Any = None

    def prompt(self) -> CanonicalPrompt:
        """Tools, instructions as a system turn, then the items; what the engine remembers is not known here."""
        parts = [canonical.raw_field("tools", self.tools)]
        if self.instructions is not None:
            parts.append(canonical.turn("system", self.instructions))
        if isinstance(self.input, str):
            parts.append(canonical.turn("user", self.input))
        else:
            parts += map(canonical.item_turn, self.input)
        return self._named(b"".join(parts), ("effort", _member(self.reasoning, "effort")))

    def output_limit(self) -> object:
        """`max_output_tokens`."""
        return self.max_output_tokens


class AnthropicMessages(Body, kw_only=True):
    """`/v1/messages`."""

    messages: Messages
    system: Content = None
    tools: Raw = Raw()
    thinking: Any = None
    output_config: Any = None
    metadata: Any = None

    def prompt(self) -> CanonicalPrompt:
        """Tools, the system turn, then the turns.

        Of `thinking` only the type counts: engines do not render the budget. Claude Code's billing block holds
        a hash that is new in every request; vLLM drops it from the prompt, and so do we.
        """
        system = self.system
        if isinstance(system, list):
            system = [block for block in system if not _is_billing(block)]
        head = canonical.raw_field("tools", self.tools) + (canonical.turn("system", system) if system else b"")
        thinking = _member(self.thinking, "type")
        effort = _member(self.output_config, "effort")
        return self._named(head + _turns(self.messages), ("thinking", thinking), ("effort", effort))


class Embeddings(Body, kw_only=True):
    """`/v1/embeddings`: `input`, or `messages` where the engine takes them."""

    input: Prompt = None
    messages: Messages | None = None

    def prompt(self) -> CanonicalPrompt:
        """The input's texts or ids, or the turns."""
        if self.input is None and self.messages:
            return self._named(_turns(self.messages))
        return self._prompted("input", self.input)


class Rerank(Body, kw_only=True):
    """`/v1/rerank`."""

    query: str | list[str | dict[str, Any]] | dict[str, Any]
    documents: str | list[str | dict[str, Any]] | dict[str, Any]

    def prompt(self) -> CanonicalPrompt:
        """The query, then the documents."""
        return self._named(canonical.field("query", self.query) + canonical.field("documents", self.documents))


class Tokenize(Body, kw_only=True):
    """`/tokenize`: `prompt`, or `messages` with tools."""

    prompt_: Prompt = msgspec.field(name="prompt", default=None)
    messages: Messages | None = None
    tools: Raw = Raw()

    def prompt(self) -> CanonicalPrompt:
        """The same text as the prompt or the chat would have."""
        if self.prompt_ is None and self.messages:
            return self._named(canonical.raw_field("tools", self.tools) + _turns(self.messages))
        return self._prompted("prompt", self.prompt_)


def _member(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, dict) else None


def _is_billing(block: object) -> bool:
    text = _member(block, "text")
    return isinstance(text, str) and text.startswith(_BILLING_LINE)
