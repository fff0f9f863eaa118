"""How a request wants its answer generated, as far as that decides whether another engine can go on with it; pure."""

from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Raw

_FREE_CHOICES = (None, "auto", "none")


class Obstacle(StrEnum):
    """Why a stream that broke off cannot go on elsewhere as it would have gone on."""

    NOT_KEPT = "not_kept"
    """By the configuration, or as the request is too long."""
    ENDPOINT = "endpoint"
    """Only chat and text completions have a way to begin where others stopped."""
    CHOICES = "several_choices"
    LOGPROBS = "logprobs"
    STRUCTURED = "structured_output"
    """A grammar would begin anew in the middle of what it describes."""
    SEED = "seed"
    """A seeded sampler would begin anew, so that the rest is not what the seed stands for."""
    PENALTY = "penalty"
    """Presence and frequency count the answer alone, which would be prompt by then."""
    PROMPT = "prompt"
    """Ids, several prompts, embeddings, or a conversation that ends with the assistant already."""
    NO_LIMIT = "no_limit"
    """A text completion without `max_tokens` ends at a default that the second engine would count anew."""
    TOOL_CALL = "tool_call"
    REASONING = "reasoning"
    """It broke off among its thoughts, they were not shown, or the engine's prompts leave out those of an answer."""
    STOP = "stop"
    """The text ends with what may be the beginning of a stop string, which nobody would find across the seam."""
    TOO_LONG = "too_long"
    """More was streamed than is kept."""
    UNREADABLE = "unreadable"
    TEMPLATE = "template"
    """The replica's chat template does not let an answer be gone on with."""


class Sampling(msgspec.Struct, kw_only=True):
    """Fields of a body that neither routing nor the prompt depends on. Whatever they hold, the engine judges it."""

    n: Any = None
    best_of: Any = None
    use_beam_search: Any = None
    logprobs: Any = None
    top_logprobs: Any = None
    prompt_logprobs: Any = None
    return_token_ids: Any = None
    temperature: Any = None
    seed: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    tool_choice: Any = None
    echo: Any = None
    include_reasoning: Any = None
    suffix: Any = None
    add_generation_prompt: Any = None
    continue_final_message: Any = None
    response_format: Raw = Raw()
    structured_outputs: Raw = Raw()
    guided_json: Raw = Raw()
    guided_regex: Raw = Raw()
    guided_choice: Raw = Raw()
    guided_grammar: Raw = Raw()
    json_schema: Raw = Raw()
    regex: Raw = Raw()
    ebnf: Raw = Raw()
    structural_tag: Raw = Raw()

    def obstacle(self) -> Obstacle | None:
        """Why a stream of this answer could not go on elsewhere; None where it could, by what was asked for."""
        if self.n not in (None, 1) or self.best_of not in (None, 1) or self.use_beam_search:
            return Obstacle.CHOICES
        probabilities = self.logprobs is not None and self.logprobs is not False
        if probabilities or self.top_logprobs or self.prompt_logprobs is not None or self.return_token_ids:
            return Obstacle.LOGPROBS
        if self.include_reasoning is False:
            return Obstacle.REASONING
        if self.seed is not None and self.temperature != 0:
            return Obstacle.SEED
        if self.presence_penalty or self.frequency_penalty:
            return Obstacle.PENALTY
        if self.suffix or (self.add_generation_prompt is False and not self.continue_final_message):
            return Obstacle.PROMPT
        if (isinstance(self.tool_choice, dict) or self.tool_choice not in _FREE_CHOICES) or self._is_structured:
            return Obstacle.STRUCTURED
        return None

    @property
    def _is_structured(self) -> bool:
        if self.response_format and not _is_text(self.response_format):
            return True
        fields = (
            self.structured_outputs, self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar,
            self.json_schema, self.regex, self.ebnf, self.structural_tag,
        )  # fmt: skip
        return any(field and bytes(field) != b"null" for field in fields)


class _Format(msgspec.Struct):
    type: Any = None


def _is_text(response_format: Raw) -> bool:
    """Whether a response format asks for nothing but text."""
    try:
        read = msgspec.json.decode(response_format, type=_Format | None)
    except msgspec.MsgspecError:
        return False
    return read is None or read.type == "text"
