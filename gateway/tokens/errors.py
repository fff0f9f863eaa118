"""Why there are no token ids: a tokenizer that cannot be used, or a prompt whose ids would be a guess; pure."""

from enum import StrEnum


class TokeniserError(Exception):
    """A tokenizer or its chat template cannot be used; the message is one sentence that says what to do."""


class Reason(StrEnum):
    """Why one prompt has no exact token ids, in a word that can be a metric's label."""

    ENDPOINT = "endpoint"
    """Its endpoint renders prompts in ways that are the engine's own."""
    MALFORMED = "malformed"
    """Engines will refuse the body."""
    CONTENT = "content"
    """Images, audio, files, embeddings, or parts that are not known."""
    FIELD = "field"
    """A field of the body that changes the prompt in a way that differs from engine to engine."""
    BATCH = "batch"
    """Several prompts in one body."""
    TEMPLATE = "template"
    """The chat template refused the conversation."""
    SLOW = "slow"
    """The time limit passed first."""
    ENGINE = "engine"
    """No engine gave token ids."""


class InexactError(Exception):
    """This prompt's token ids would be a guess."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
