"""A stream that broke off, made a request that goes on with it at another replica; does I/O.

What is not certain from the request and from what was said is asked of the replica itself: whether its chat template
lets an answer be gone on with (some take the flags and ignore them), and how many tokens have been said.
"""

from array import array
from typing import Final

from engines.dialect import Continued
from gateway.routing.chain import TOKEN_BYTES
from gateway.serving.attempting import Prepared, Sending
from gateway.serving.failure import unusable
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.template_probe import TemplateProbe
from gateway.wire.continuation import Continuation, answer_in, as_text, begun_text, continuation, obstacle_in, stops_of
from gateway.wire.request import Endpoint, InferenceRequest, parse
from gateway.wire.sampling import Obstacle
from gateway.wire.splicing import SplicedWatcher, Splicer
from gateway.wire.transcript import Said, Transcript, read_said

_ID_TYPE: Final = "I" if array("I").itemsize == TOKEN_BYTES else "L"
_MARK_TOKENS: Final = 1
"""What parts thoughts from the answer is mostly a token of its own, which nobody is shown."""


class Onward(Sending):
    """Sends the request with what was said, and gets the rest of the stream."""

    def __init__(self, gateway: Gateway, before: Sending, said: Said) -> None:
        super().__init__(
            before.endpoint, before.headers, before.body, before.request, before.engine_id, before.visit, kept=True
        )
        self.said = said
        self._gateway = gateway
        self._begun = before.body
        self._text = begun_text(self.endpoint, said)

    def as_asked(self) -> InferenceRequest | Obstacle:
        """The request as routing should see it: its prompt now has the beginning of the answer."""
        made = continuation(self.endpoint, self.body, self.said, 0, _any_chat)
        if isinstance(made, Obstacle):
            return made
        self._begun = made.body
        return parse(self.endpoint, made.body)

    async def prepare(self, backend: Backend) -> Prepared:
        """The body for this replica, and the watcher that makes its stream the rest of the one before."""
        probe = TemplateProbe(self._gateway.engines, backend, self._begun)
        tokens = await self._tokens(probe)
        made = continuation(self.endpoint, self.body, self.said, tokens, backend.dialect.continue_chat)
        if self._text and self.endpoint is Endpoint.CHAT and backend.dialect.tells_continuation:
            made = await self._as_it_heeds(made, probe)
        if isinstance(made, Obstacle):
            raise unusable(f"the stream cannot go on there: {made}", made)
        splicer = Splicer(self.endpoint, self.said, made, wants_usage=self.request.usage_requested)
        endpoint = Endpoint.COMPLETIONS if made.as_text else self.endpoint
        return Prepared(endpoint, made.body, SplicedWatcher(self.endpoint, splicer))

    async def _as_it_heeds(self, made: Continuation | Obstacle, probe: TemplateProbe) -> Continuation | Obstacle:
        """As a chat where its flags are heeded; else, if there are no tools, as text after the chat's own tokens."""
        way = await probe.way(thoughts=bool(self.said.reasoning))
        if isinstance(made, Obstacle) or way is None:
            return made if isinstance(made, Obstacle) else Obstacle.TEMPLATE
        if way.flags:
            return made
        tokens = b"" if probe.has_tools else await probe.prompt(way.ending)
        if not tokens:
            return Obstacle.TEMPLATE
        ids = array(_ID_TYPE, tokens)
        context = self._gateway.router.context_tokens(self.request.model or "")
        return as_text(made, ids.tolist(), None if context is None else context - len(ids))

    async def _tokens(self, probe: TemplateProbe) -> int:
        """How many tokens of the answer are in the body: by the first engine's running count, the replica, or frames.

        A frame is a token, but engines put several into one when they are in a hurry; a tokenizer may add one of its
        own, or make fewer of the whole text than the model had made of its parts.
        """
        said, text = self.said, self._text
        if said.usage is not None and isinstance(said.usage.get("completion_tokens"), int) and text == said.text:
            return int(said.usage["completion_tokens"])
        answer = answer_in(self.endpoint, self.body, text)
        tokens = _surer(await probe.count(answer), said.tokens_of(text)) if text else 0
        if said.reasoning:
            tokens += _surer(await probe.count(said.reasoning), said.thoughts) + _MARK_TOKENS
        return tokens


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


def _surer(counted: int, frames: int) -> int:
    """The tokenizer's count where engines clearly put several tokens into a frame."""
    return counted if counted > frames + 1 else frames
