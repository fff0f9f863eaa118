"""The HTTP endpoints that both dialects share; what differs between them is left to the subclasses; does I/O."""

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from engines.simulated import tokens
from engines.simulated.answers import json_response, read_body, said
from engines.simulated.anthropic_frames import AnthropicFrames
from engines.simulated.asks import (
    Api,
    Ask,
    Body,
    ReadingRules,
    read_anthropic,
    read_chat,
    read_completion,
    read_responses,
    render_body,
)
from engines.simulated.breakage import Instead
from engines.simulated.cache import root_of
from engines.simulated.exchange import Exchange, Manners
from engines.simulated.faults import BEFORE_AN_ANSWER, Faults
from engines.simulated.frames import Choice, FrameWriter, Terms
from engines.simulated.lies import told
from engines.simulated.refusals import Refusal, invalid_field
from engines.simulated.rendering import Message
from engines.simulated.replies import Reply, Wish, plan_reply
from engines.simulated.responses_frames import ResponsesFrames
from engines.simulated.sequences import Job
from engines.simulated.service import EngineService
from engines.simulated.settings import SimulatorSettings

_KEPT_RESPONSES = 1000

Answer = Response | Exchange | Instead
Reader = Callable[[Body, ReadingRules], Ask]


class Face:
    """One dialect's server over one engine."""

    manners: Manners
    rules: ReadingRules

    def __init__(self, settings: SimulatorSettings, service: EngineService) -> None:
        self.settings = settings
        self.service = service
        self.faults = Faults()
        self.in_flight = 0
        """Generating requests whose answer is on its way."""
        self._next_job = 0
        self._responses: OrderedDict[str, tuple[dict[str, Any], tuple[Message, ...]]] = OrderedDict()

    # -- what a dialect says in its own way ------------------------------------------------------------------------

    def answer_id(self, ask: Ask, request: Request) -> str:
        """The id of the answer."""
        raise NotImplementedError

    def openai_frames(self, api: Api, terms: Terms) -> FrameWriter:
        """The writer of chat or text completions."""
        raise NotImplementedError

    def error_body(self, refusal: Refusal, api: Api | None) -> dict[str, Any]:
        """The body of an error response."""
        raise NotImplementedError

    def check(self, ask: Ask, answer_id: str) -> None:
        """Raise Refusal for what this engine does not take."""
        raise NotImplementedError

    def max_tokens(self, prompt_tokens: int, wish: Wish) -> int:
        """The room for output beside a prompt. Raises Refusal when there is none, or less than was asked for."""
        raise NotImplementedError

    async def metrics(self, request: Request) -> Response:
        """GET /metrics."""
        raise NotImplementedError

    def routes(self) -> list[Route]:
        """All paths that this dialect serves."""
        return [
            route("POST", "/v1/chat/completions", self.chat),
            route("POST", "/v1/completions", self.completions),
            route("POST", "/v1/responses", self.responses),
            route("GET", "/v1/responses/{response_id}", self.stored_response),
            route("DELETE", "/v1/responses/{response_id}", self.forget_response),
            route("POST", "/v1/responses/{response_id}/cancel", self.cancel_response),
            route("POST", "/v1/messages", self.messages),
            route("POST", "/v1/messages/count_tokens", self.count_tokens),
            route("POST", "/tokenize", self.tokenize),
            route("POST", "/detokenize", self.detokenize),
            route("GET", "/metrics", self.telling(self.metrics)),
            route("POST", "/sim/fault", self.order_fault),
        ]

    # -- generating ------------------------------------------------------------------------------------------------

    async def chat(self, request: Request) -> Answer:
        """POST /v1/chat/completions."""
        return await self._generate(request, "chat", read_chat)

    async def completions(self, request: Request) -> Answer:
        """POST /v1/completions."""
        return await self._generate(request, "completions", read_completion)

    async def messages(self, request: Request) -> Answer:
        """POST /v1/messages."""
        return await self._generate(request, "messages", read_anthropic)

    async def responses(self, request: Request) -> Answer:
        """POST /v1/responses; `background` is refused."""
        return await self._generate(request, "responses", self._read_responses)

    def _read_responses(self, body: Body, rules: ReadingRules) -> Ask:
        if body.get("background"):
            raise Refusal(400, "invalid", "This engine does not run responses in the background.", "background")
        previous = body.get("previous_response_id")
        if previous is None:
            return read_responses(body, rules)
        kept = self._responses.get(str(previous))
        if kept is None:
            raise Refusal(404, "not_found", f"Response with id '{previous}' not found.", "previous_response_id")
        return read_responses(body, rules, kept[1])

    async def _generate(self, request: Request, api: Api, read: Reader) -> Answer:
        try:
            fault = self.faults.take()
            if fault is not None and fault.kind == "refuse":
                raise Refusal(fault.status, "fault", "A fault was ordered.")
            body = await read_body(request)
            ask = read(body, self.rules)
            answer_id = self.answer_id(ask, request)
            self.check(ask, answer_id)
            replies = self._plan(ask)
        except Refusal as refusal:
            return self.refuse(refusal, api)
        if fault is not None and fault.kind in BEFORE_AN_ANSWER:
            return self.refuse_overload(ask) if fault.kind == "overload" else Instead(fault)
        adapter = ask.model if ask.model in self.settings.adapters else None
        root = root_of(ask.cache_salt, adapter)
        jobs = [
            Job(f"{answer_id}-{index}" if index else answer_id, prompt, reply.tokens, root, ask.cache_salt, adapter,
                reply.finish)
            for index, (prompt, _, reply) in enumerate(replies)
        ]  # fmt: skip
        ticket = self.service.submit(jobs)
        if ticket is None:
            return self.refuse_overload(ask)
        choices = tuple(
            Choice(index, sample, reply, sequence)
            for index, ((_, sample, reply), sequence) in enumerate(zip(replies, ticket.sequences, strict=True))
        )
        writer = self._writer(ask, body, answer_id)
        self.in_flight += 1
        return Exchange(
            service=self.service,
            ticket=ticket,
            choices=choices,
            writer=writer,
            stream=ask.stream,
            manners=self.manners,
            fault=fault,
            when_done=self._keeper(ask, writer),
            when_left=self._note_left,
        )

    def _plan(self, ask: Ask) -> list[tuple[bytes, int, Reply]]:
        """(prompt, sample, reply) of each choice, in the order of their indices."""
        rows = []
        for prompt in ask.prompts:
            room = self.max_tokens(tokens.count(prompt), ask.wish)
            for sample in range(ask.samples):
                seed = f"{self.settings.seed}#{sample}" if sample else self.settings.seed
                reply = plan_reply(prompt, ask.wish, self.settings.default_output_tokens, room, seed)
                rows.append((prompt, sample, reply))
        return rows

    def _writer(self, ask: Ask, body: Body, answer_id: str) -> FrameWriter:
        settings = self.settings
        terms = Terms(
            id=answer_id,
            model=ask.model or settings.model,
            created=int(time.time()),
            version=settings.engine_version,
            include_usage=ask.include_usage,
            continuous_usage=ask.continuous_usage,
            report_cached_tokens=settings.report_cached_tokens,
            per_request_metrics=settings.per_request_metrics,
            block_tokens=settings.block_tokens,
        )
        if ask.api == "messages":
            return AnthropicFrames(terms)
        if ask.api == "responses":
            return ResponsesFrames(terms, body.get("previous_response_id"), body.get("instructions"))
        return self.openai_frames(ask.api, terms)

    def _keeper(self, ask: Ask, writer: FrameWriter) -> Callable[[tuple[Choice, ...]], None] | None:
        """What stores a finished response and its conversation."""
        if not isinstance(writer, ResponsesFrames) or not ask.store:
            return None

        def keep(choices: tuple[Choice, ...]) -> None:
            record = writer.record(choices)
            self._responses[record["id"]] = (record, (*ask.messages, *said(choices[0])))
            while len(self._responses) > _KEPT_RESPONSES:
                self._responses.popitem(last=False)

        return keep

    def _note_left(self) -> None:
        self.in_flight -= 1

    def new_number(self) -> int:
        """A number that no other request of this server has."""
        self._next_job += 1
        return self._next_job

    def refuse(self, refusal: Refusal, api: Api | None) -> Response:
        """The error response in this dialect's words."""
        return json_response(self.error_body(refusal, api), refusal.status)

    def refuse_overload(self, ask: Ask) -> Answer:
        """The answer when the queue is full."""
        raise NotImplementedError

    # -- the rest --------------------------------------------------------------------------------------------------

    async def stored_response(self, request: Request) -> Response:
        """GET /v1/responses/{id}."""
        kept = self._responses.get(request.path_params["response_id"])
        return self._no_response(request) if kept is None else json_response(kept[0])

    async def forget_response(self, request: Request) -> Response:
        """DELETE /v1/responses/{id}."""
        response_id = request.path_params["response_id"]
        if self._responses.pop(response_id, None) is None:
            return self._no_response(request)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    async def cancel_response(self, request: Request) -> Response:
        """POST /v1/responses/{id}/cancel: only background responses could be cancelled."""
        if request.path_params["response_id"] not in self._responses:
            return self._no_response(request)
        return self.refuse(Refusal(400, "invalid", "Cannot cancel a synchronous response."), "responses")

    def _no_response(self, request: Request) -> Response:
        message = f"Response with id '{request.path_params['response_id']}' not found."
        return self.refuse(Refusal(404, "not_found", message, "response_id"), "responses")

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens."""
        try:
            ask = read_anthropic(await read_body(request), self.rules)
        except Refusal as refusal:
            return self.refuse(refusal, "messages")
        return json_response({"input_tokens": tokens.count(ask.prompts[0])})

    async def tokenize(self, request: Request) -> Response:
        """POST /tokenize, of a text or a conversation."""
        try:
            rendered = render_body(await read_body(request), self.rules)
        except Refusal as refusal:
            return self.refuse(refusal, None)
        ids = tokens.to_ids(rendered)
        limit = self.settings.max_model_tokens
        return json_response({"count": len(ids), "max_model_len": limit, "tokens": ids, "token_strs": None})

    async def detokenize(self, request: Request) -> Response:
        """POST /detokenize."""
        try:
            body = await read_body(request)
            ids = tokens.from_ids(body["tokens"])
        except Refusal as refusal:
            return self.refuse(refusal, None)
        except (KeyError, ValueError) as error:
            return self.refuse(invalid_field("tokens", "list_type", str(error)), None)
        return json_response({"prompt": tokens.detokenise(ids)})

    def telling(self, page: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        """A page about load, which may be ordered to lie."""

        async def answer(request: Request) -> Response:
            truth = await page(request)
            return Response(told(bytes(truth.body), self.faults.metrics), media_type=truth.media_type)

        return answer

    async def order_fault(self, request: Request) -> Response:
        """POST /sim/fault: see `Faults.read`; `stall_s` also stops the engine that long.

        `lose_event_batches`: so many of the next batches of KV events reach no subscriber.
        """
        body = await read_body(request)
        try:
            self.faults = Faults.read(body)
        except ValueError as error:
            return self.refuse(invalid_field("", "fault", str(error)), None)
        self.service.slow_down(self.faults.slow)
        self.service.stall(float(body.get("stall_s", 0)))
        self.service.lose_event_batches(int(body.get("lose_event_batches", 0)))
        return json_response({"status": "ok"})


def route(method: str, path: str, endpoint: Callable[[Request], Awaitable[Answer]]) -> Route:
    """One path that answers one method (and HEAD, where that is GET)."""
    return Route(path, endpoint, methods=[method])
