"""What a replica's chat template makes of an answer that is to be gone on with, by its own /tokenize; does I/O."""

import asyncio
from typing import Any, Final, NamedTuple

from gateway.routing.chain import TOKEN_BYTES
from gateway.serving.engine_client import EngineClient
from gateway.serving.gateway import Backend
from gateway.serving.tokenise import calls
from gateway.tokens.errors import InexactError
from gateway.tokens.prompt import ChatPrompt, read
from gateway.wire.request import Endpoint

ASK_S: Final = 2.0
_QUESTION: Final = {"role": "user", "content": "a"}
_OVER: Final = {"continue_final_message": False, "add_generation_prompt": False}
_TO_BEGIN: Final = {"continue_final_message": False, "add_generation_prompt": True}


class Way(NamedTuple):
    """How an answer can be gone on with: by the `flags` of a chat, or as text after the prompt's own tokens.

    `ending` are the tokens that the template puts after an answer that is over.
    """

    flags: bool
    ending: bytes = b""


class TemplateProbe:
    """Asks one replica about the chat of a body that has the beginning of an answer as its last message."""

    def __init__(self, engines: EngineClient, backend: Backend, body: bytes) -> None:
        self._engines = engines
        self._site = calls.Site(backend.url, backend.credentials)
        self._continue = backend.dialect.continue_chat
        form = calls.FORMS[backend.dialect.tokenise_takes]
        self.has_tools = False
        self._fields: calls.Fields | None = None
        self._messages: list[Any] = []
        try:
            prompt = read(Endpoint.CHAT, body)
            if isinstance(prompt, ChatPrompt):
                self._fields, self._messages = form.chat(prompt), form.messages(prompt.messages)
                self.has_tools = prompt.tools is not None
        except InexactError:
            return  # nobody could tell what its template is given

    async def way(self, *, thoughts: bool) -> Way | None:
        """The way to go on, with `thoughts` before the answer or without; None where there is none.

        The prompt of a begun answer has to begin as that of an answer still to be begun; one that is not to be over
        has to differ from one that is; and if there were thoughts, they have to be in it.
        """
        reasoning = "c" if thoughts else ""
        begun, other = self._continue("b", reasoning), self._continue("d", reasoning)
        thoughtless = self._continue("b", "")
        if begun is None or other is None or thoughtless is None:
            return None
        asked, going_on, over, other_over = await asyncio.gather(
            self._tokens([_QUESTION], _TO_BEGIN),
            self._tokens([_QUESTION, begun[0]], begun[1]),
            self._tokens([_QUESTION, begun[0]], _OVER),
            self._tokens([_QUESTION, other[0]], _OVER),
        )
        heeds = going_on.startswith(asked) and going_on != over
        if not asked or not (heeds or over.startswith(asked)):
            return None
        if thoughts:
            unthought = await self._tokens([_QUESTION, thoughtless[0]], begun[1] if heeds else _OVER)
            if unthought == (going_on if heeds else over):
                return None
        return Way(flags=True) if heeds else Way(flags=False, ending=_common_end(over, other_over))

    async def prompt(self, ending: bytes) -> bytes:
        """The tokens of the chat up to where its begun answer ends, b"" where that cannot be told."""
        tokens = await self._tokens(self._messages, _OVER)
        return tokens.removesuffix(ending) if tokens.endswith(ending) else b""

    async def count(self, text: str) -> int:
        """How many tokens a text is; 0 where that is not told."""
        model = None if self._fields is None else self._fields["model"]
        fields = {"model": model, "prompt": text, "add_special_tokens": False}
        return len((await calls.ask(self._engines, self._site, calls.body_of(fields), ASK_S)).tokens) // TOKEN_BYTES

    async def _tokens(self, messages: list[Any], flags: Any) -> bytes:
        if self._fields is None:
            return b""
        body = calls.body_of({**self._fields, **flags}, messages)
        return (await calls.ask(self._engines, self._site, body, ASK_S)).tokens


def _common_end(one: bytes, other: bytes) -> bytes:
    """The tokens that both end with."""
    length = 0
    while length < min(len(one), len(other)):
        longer = length + TOKEN_BYTES
        if one[-longer:] != other[-longer:]:
            break
        length = longer
    return one[len(one) - length :]
