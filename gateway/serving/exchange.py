"""One inference request from bytes to its one Outcome: parse, route, forward, retry, relay; does I/O.

`Answer` is all that it sees of the client's connection. Retrying is decided here and nowhere else.
"""

from engines.reports import EngineError
from gateway.errors import GatewayError, Origin
from gateway.journal.entry import Entry
from gateway.routing.candidates import Candidate
from gateway.routing.decision import Decision, Rejection, RouteRequest
from gateway.routing.facts import Fact, Finished, Outcome, Refused, ResponseStored
from gateway.serving import headers as header_rules
from gateway.serving.attempt import Attempt
from gateway.serving.chains import Chains
from gateway.serving.engine_client import EngineGoneError, EngineResponse, EngineUnreachableError
from gateway.serving.front.answer import Answer
from gateway.serving.front.request import HttpRequest
from gateway.serving.gateway import Backend, Gateway
from gateway.serving.rejection import rejection_error
from gateway.serving.relay import (
    AttemptLostError,
    StreamRelay,
    client_error,
    lost,
    passable,
    read_error,
    relay_body,
)
from gateway.wire.additions import add
from gateway.wire.request import Endpoint, InferenceRequest, parse
from gateway.wire.stream import StreamWatcher


class Exchange:
    """The life of one request. `run` never raises for what a client or an engine does; `close` must follow."""

    def __init__(self, gateway: Gateway, endpoint: Endpoint, request: HttpRequest, answer: Answer) -> None:
        fields = request.fields
        self._gateway = gateway
        self._endpoint = endpoint
        self._headers = request.headers
        self._fields = fields
        self._request = request
        self._answer = answer
        self._accepted_at = request.began_at
        self.request_id = header_rules.request_id(fields)
        self._engine_id = self.request_id
        self._tenant = header_rules.tenant(fields)
        self._asked: RouteRequest | None = None
        self._over = False
        self._entry = None if gateway.journal is None else Entry(endpoint, self._tenant, request.began_at)

    async def run(self) -> None:
        """Serve the request, whose whole body has been read."""
        received_at = self._gateway.clock()
        try:
            request = parse(self._endpoint, self._request.body)
        except GatewayError as error:
            self.refuse(error)
            return
        chains = await self._gateway.chains_of(request, self._request.body)
        request.prompt = None
        live = self._gateway.live_ids
        if self._engine_id in live:  # SGLang refuses a second live request of one id
            self._engine_id = f"{self.request_id[:100]}-{id(self):x}"
        live.add(self._engine_id)
        try:
            await self._serve(request, chains, received_at)
        finally:
            live.discard(self._engine_id)

    def refuse(self, error: GatewayError, model: str = "") -> None:
        """End a request that no replica took."""
        outcome = Outcome.REJECTED if error.origin is not Origin.ENGINE else Outcome.ENGINE_FAILED
        self._tell(Refused(self._gateway.clock(), model, outcome))
        self._send_error(error, None)

    def close(self) -> None:
        """The request is over; where nothing has said how, its client left or we failed."""
        if not self._over:
            outcome = Outcome.CLIENT_GONE if self._answer.gone else Outcome.REJECTED
            self._tell(Refused(self._gateway.clock(), "", outcome))

    def _tell(self, fact: Fact) -> None:
        """Tell the router and the journal."""
        self._gateway.observe(fact)
        ends = type(fact) is Finished or type(fact) is Refused
        self._over = self._over or ends
        if self._entry is not None:
            self._entry.learn(fact)
            if ends:
                self._gateway.ended(self._entry)

    async def _serve(self, request: InferenceRequest, chains: Chains, received_at: float) -> None:
        """Try replicas until one answers, a refusal is final, or none is left."""
        tried: list[str] = []
        route_at = self._gateway.clock()
        asked = self._asked = self._route_request(request, chains, tried)
        if self._entry is not None:
            self._entry.request = asked
        routed, held_s = await self._gateway.placer.place(asked)
        if isinstance(routed, Rejection):
            self._rejected(routed, request)
            return
        while True:
            if self._entry is not None:
                self._entry.routed(routed, route_at + held_s)
            attempt = Attempt(routed, self._tell, self._gateway.clock)
            now = self._gateway.clock()
            attempt.dispatched(now - route_at - held_s, now - (route_at if tried else received_at) - held_s, held_s)
            tried.append(routed.chosen.replica)
            try:
                await self._attempt(attempt, request)
                return
            except AttemptLostError as failure:
                route_at = self._gateway.clock()
                held_s = 0.0
                following = self._reroute(failure, self._route_request(request, chains, tried), route_at)
                if following is None:
                    attempt.finish(_outcome(failure))
                    self._send_failure(failure, routed.chosen)
                    return
                attempt.lose()
                routed = following
            finally:
                # Reached with the attempt still open only by cancellation or a bug of ours.
                attempt.finish(Outcome.CLIENT_GONE if self._answer.gone else Outcome.REJECTED)

    def _reroute(self, failure: AttemptLostError, request: RouteRequest, now: float) -> Decision | None:
        """Where a failed request goes next; None when its failure is final or nobody is left."""
        if not failure.error.retryable or len(request.tried) >= self._gateway.config.routing.max_attempts:
            return None
        routed = self._gateway.router.route(request, now)
        return routed if isinstance(routed, Decision) else None

    def _route_request(self, request: InferenceRequest, chains: Chains, tried: list[str]) -> RouteRequest:
        named = self._fields.get  # of those headers, a request rarely has one
        return RouteRequest(
            request_id=self.request_id,
            model=request.model,
            chain=chains.text,
            token_chains=chains.tokens,
            streams=request.stream,
            accepted_at=self._accepted_at,
            tenant=self._tenant,
            session=header_rules.text(named(b"x-session-id")) or request.session,
            response_id=request.previous_response_id,
            pinned_pool=header_rules.text(named(b"x-prefixgate-pool")),
            pinned_replica=header_rules.text(named(b"x-prefixgate-replica")),
            tried=frozenset(tried),
        )

    async def _attempt(self, attempt: Attempt, request: InferenceRequest) -> None:
        """One replica's try. Raises AttemptLostError while the client has not been sent a byte."""
        backend = self._gateway.backends[attempt.decision.chosen.replica]
        response: EngineResponse | None = None
        try:
            response = await self._send(backend, request)
            if response.status >= 400:
                raise await read_error(response, backend.dialect)
            await self._relay(attempt, request, backend, response)
        except EngineUnreachableError as error:
            self._gateway.unreachable(backend, str(error))
            raise lost(error) from error
        except EngineGoneError as error:
            raise lost(error) from error
        finally:
            if response is not None:
                response.close()
            if self._answer.gone and self._endpoint.generates:
                self._gateway.abort(backend, self._engine_id)

    async def _send(self, backend: Backend, request: InferenceRequest) -> EngineResponse:
        headers = header_rules.for_engine(self._headers, backend.credentials)
        header = backend.dialect.request_id_header(self._engine_id)
        if header is not None:
            headers.append((header[0].encode(), header[1].encode()))
        field = backend.dialect.request_id_field(self._engine_id)
        if request.names_request or not self._endpoint.generates:
            field = None
        sent = self._request.body
        if field is not None or not request.usage_requested:
            sent = add(sent, include_usage=not request.usage_requested, fields=() if field is None else (field,))
        if self._gateway.hot is not None and self._asked is not None:
            self._gateway.hot.note(backend.pool, self._asked, self._endpoint, sent, self._gateway.clock())
        return await self._gateway.engines.send(backend.url, "POST", self._endpoint, headers, sent)

    async def _relay(
        self, attempt: Attempt, request: InferenceRequest, backend: Backend, response: EngineResponse
    ) -> None:
        headers = header_rules.for_client(response.headers, self.request_id, attempt.decision.chosen)
        if not response.header(b"content-type").startswith(b"text/event-stream"):
            reply = await relay_body(response, self._endpoint, self._answer, headers)
            self._stored(backend, reply.response_id)
            attempt.finish(Outcome.COMPLETED, reply.usage, timing=reply.timing)
            return
        watcher = StreamWatcher(self._endpoint, strip_usage=not request.usage_requested)
        broken = await StreamRelay(response, watcher, backend.dialect, attempt, self._answer).run(headers)
        self._stored(backend, watcher.response_id)
        if broken is None:
            attempt.finish(Outcome.COMPLETED, watcher.usage, watcher.content_frames, watcher.timing)
        else:
            outcome = Outcome.TIMED_OUT if broken.timed_out else Outcome.ENGINE_FAILED
            attempt.finish(outcome, watcher.usage, watcher.content_frames, watcher.timing)
            if watcher.error is None:  # else the engine's own error frame has been passed on
                self._answer.write(self._error_frame(broken.error))
        self._answer.end()

    def _stored(self, backend: Backend, response_id: str | None) -> None:
        if response_id is not None:
            self._gateway.observe(ResponseStored(backend.name, self._gateway.clock(), response_id))

    def _error_frame(self, error: EngineError) -> bytes:
        frame = GatewayError(error.message, status=error.status, origin=Origin.ENGINE, type=error.type).sse_frame()
        return b"event: error\n" + frame if self._endpoint is Endpoint.MESSAGES else frame

    def _rejected(self, rejection: Rejection, request: InferenceRequest) -> None:
        known = request.model in self._gateway.router.models()  # another name must not become a label
        self.refuse(rejection_error(rejection), (request.model or "") if known else "")

    def _send_failure(self, failure: AttemptLostError, chosen: Candidate) -> None:
        self._send_error(client_error(failure, self._endpoint, chosen.pool), chosen, passable(failure))

    def _send_error(self, error: GatewayError, chosen: Candidate | None, body: bytes | None = None) -> None:
        """Send an error, in the engine's own words where they are given."""
        headers = header_rules.for_client([(b"content-type", b"application/json")], self.request_id, chosen)
        self._answer.error(error, headers, body)


def _outcome(failure: AttemptLostError) -> Outcome:
    if failure.timed_out:
        return Outcome.TIMED_OUT
    if failure.error.overloaded or 400 <= failure.error.status < 500:
        return Outcome.ENGINE_REJECTED
    return Outcome.ENGINE_FAILED
