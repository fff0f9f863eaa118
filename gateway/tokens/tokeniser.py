"""A model's tokenizer and chat template in one: prompts in, packed token ids out; reads the files, else pure."""

from pathlib import Path

from gateway.tokens.encoder import Encoder, Encoding
from gateway.tokens.errors import InexactError, Reason
from gateway.tokens.memo import Memo
from gateway.tokens.model_folder import read_folder
from gateway.tokens.prompt import ChatPrompt, TextPrompt, check_vllm_fields


class Tokeniser:
    """Does what vLLM does with a prompt before it prefills it. May be used from any thread."""

    def __init__(self, path: Path, memo: Memo | None = None) -> None:
        """Load a model folder, or the folder of a tokenizer.json. TokeniserError if it cannot be used."""
        self._folder = read_folder(path)
        memo = Memo() if memo is None else memo
        self.encoder = Encoder(self._folder.tokenizer, memo, name=str(path.resolve()))

    def text_of(self, prompt: ChatPrompt | TextPrompt) -> str:
        """The text that the engine encodes. InexactError if that cannot be told."""
        if isinstance(prompt, TextPrompt):
            return prompt.text
        check_vllm_fields(prompt)
        template = self._folder.default_template if prompt.tools is None else self._folder.tools_template
        try:
            return template.render(prompt, self._folder.special_tokens)
        except RecursionError:
            raise InexactError(Reason.MALFORMED) from None

    def begin(self, prompt: ChatPrompt | TextPrompt) -> Encoding:
        """Render the prompt and look its text up; the rest may be done in a thread. InexactError as `text_of`."""
        return self.encoder.begin(self.text_of(prompt), special=prompt.special)

    def tokens(self, prompt: ChatPrompt | TextPrompt) -> bytes:
        """The prompt's ids as 4-byte little endian. InexactError as `text_of`."""
        return self.begin(prompt).finish()
