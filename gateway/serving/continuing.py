"""A stream that broke off, made a request that goes on with it at another replica; does I/O.

What is not certain from the request and from what was said is asked of the replica itself: whether its chat template
lets an answer be gone on with (some take the flags and ignore them), and how many tokens have been said.
"""

import asyncio
from typing import Any, Final

import msgspec
from msgspec import Raw

from engines.dialect import Continued
from gateway.routing.chain import TOKEN_BYTES
from gateway.serving.attempting import Prepared, Sending
from gateway.serving.failure import unusable
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.tokenise import calls
from gateway.wire.continuation import answer_in, begun_text, continuation, obstacle_in, stops_of
from gateway.wire.request import Endpoint, InferenceRequest, parse
from gateway.wire.sampling import Obstacle
from gateway.wire.splicing import SplicedWatcher, Splicer
from gateway.wire.transcript import Said, Transcript, read_said

ASK_S: Final = 2.0
_TEMPLATE_FIELDS: Final = ("model", "chat_template", "chat_template_kwargs")
_MARK_TOKENS: Final = 1
"""What parts thoughts from the answer is mostly a token of its own, which nobody is shown."""
_QUESTION: Final = {"role": "user", "content": "a"}


class Onward(Sending):
    """Sends the request with what was said, and gets the rest of the stream."""

    def __init__(self, gateway: Gateway, before: Sending, said: Said) -> None:
        self.endpoint = before.endpoint
        self.headers = before.headers
        self.body = before.body
        self.request = before.request
        self.engine_id = before.engine_id
        self.visit = before.visit
        self.kept = True
        self.said = said
        self._gateway = gateway
        self._text = begun_text(self.endpoint, said)

    def as_asked(self) -> InferenceRequest | Obstacle:
        """The request as routing should see it: its prompt now has the beginning of the answer."""
        made = continuation(self.endpoint, self.body, self.said, 0, _any_chat)
        return made if isinstance(made, Obstacle) else parse(self.endpoint, made.body)

    async def prepare(self, backend: Backend) -> Prepared:
        """The body for this replica, and the watcher that makes its stream the rest of the one before."""
        said, dialect = self.said, backend.dialect
        asks = self._text and self.endpoint is Endpoint.CHAT and dialect.tells_continuation
        if asks and not await self._heeds(backend):
            raise unusable("its chat template does not go on with an answer", Obstacle.TEMPLATE)
        tokens = await self._tokens(backend)
        made = continuation(self.endpoint, self.body, said, tokens, dialect.continue_chat)
        if isinstance(made, Obstacle):
            raise unusable(f"the stream cannot go on there: {made}", made)
        wants_usage = self.request.usage_requested
        return Prepared(
            made.body, SplicedWatcher(self.endpoint, Splicer(self.endpoint, said, made, wants_usage=wants_usage))
        )

    async def _heeds(self, backend: Backend) -> bool:
        """Whether the replica renders a begun answer as the beginning of the one that it would give itself.

        It does if the prompt of a begun answer begins as that of an answer still to be begun, and is not the same as
        that of an answer which is over; and if thoughts were shown, they must be in there.
        """
        begun = backend.dialect.continue_chat("b", "c" if self.said.reasoning else "")
        plain = backend.dialect.continue_chat("b", "")
        if begun is None or plain is None:
            return False
        message, flags = begun
        over = {"continue_final_message": False, "add_generation_prompt": False}
        asked, going_on, ended, thoughtless = await asyncio.gather(
            self._rendered(backend, [_QUESTION], {}),
            self._rendered(backend, [_QUESTION, message], flags),
            self._rendered(backend, [_QUESTION, message], over),
            self._rendered(backend, [_QUESTION, plain[0]], flags),
        )
        if not asked or not going_on.startswith(asked) or going_on == ended:
            return False
        return not self.said.reasoning or going_on != thoughtless

    async def _rendered(self, backend: Backend, messages: list[Any], fields: Any) -> bytes:
        """A conversation's tokens by the replica's own template, b"" where it does not tell."""
        given = msgspec.json.decode(self.body, type=dict[str, Raw])
        own: dict[str, Any] = {name: given[name] for name in _TEMPLATE_FIELDS if name in given}
        return await self._tokenised(backend, {**own, **fields, "messages": messages})

    async def _tokens(self, backend: Backend) -> int:
        """How many tokens of the answer are in the body: by the first engine's running count, the replica, or frames.

        A frame is a token, but engines put several into one when they are in a hurry; a tokenizer may add one of its
        own, or make fewer of the whole text than the model had made of its parts.
        """
        said, text = self.said, self._text
        if said.usage is not None and isinstance(said.usage.get("completion_tokens"), int) and text == said.text:
            return int(said.usage["completion_tokens"])
        answer = answer_in(self.endpoint, self.body, text)
        tokens = await self._count(backend, answer, said.tokens_of(text)) if text else 0
        if said.reasoning:
            tokens += await self._count(backend, said.reasoning, said.thoughts) + _MARK_TOKENS
        return tokens

    async def _count(self, backend: Backend, text: str, frames: int) -> int:
        body: dict[str, Any] = {"prompt": text, "add_special_tokens": False}
        model = msgspec.json.decode(self.body, type=dict[str, Raw]).get("model")
        if model is not None:
            body["model"] = model
        tokens = len(await self._tokenised(backend, body)) // TOKEN_BYTES
        return tokens if tokens > frames + 1 else frames

    async def _tokenised(self, backend: Backend, body: dict[str, Any]) -> bytes:
        site = calls.Site(backend.url, backend.credentials)
        answer = await calls.ask(self._gateway.engines, site, msgspec.json.encode(body), ASK_S)
        return answer.tokens


def said_so_far(sending: Sending, transcript: Transcript | None) -> Said | Obstacle:
    """What a stream has said, or why it cannot go on elsewhere."""
    if transcript is None:
        return sending.request.obstacle or Obstacle.NOT_KEPT
    if not transcript.whole:
        return Obstacle.TOO_LONG
    said = read_said(sending.endpoint, transcript.pieces)
    return obstacle_in(said, stops_of(sending.body)) or said


def _any_chat(content: str, reasoning: str) -> Continued:
    """Any engine's way to go on; which one it will be is not known before it is routed."""
    return {"role": "assistant", "content": content, "reasoning": reasoning or None}, {"continue_final_message": True}
