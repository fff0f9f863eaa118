"""One inference request from bytes to its one Outcome: parse, route, forward, relay, and all of it again; does I/O.

`Answer` is all that it sees of the client's connection. Whether there is another attempt is `Recourse`'s word.
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from gateway.errors import GatewayError, Origin
from gateway.journal.entry import Entry
from gateway.routing.candidates import Candidate
from gateway.routing.decision import Decision, Rejection, RouteRequest
from gateway.routing.experiments.definition import Exposure
from gateway.routing.facts import Fact, Finished, Outcome, Refused, ResponseStored, StreamBroke
from gateway.serving import headers as header_rules
from gateway.serving.access import engine_id, owned
from gateway.serving.admission import admit, leave, rate_headers, salt
from gateway.serving.attempt import Attempt
from gateway.serving.attempting import Sending, Try
from gateway.serving.chains import Chains
from gateway.serving.continuing import Onward, said_so_far
from gateway.serving.course import Course
from gateway.serving.experiments.observing import Participant
from gateway.serving.failure import AttemptLostError, client_error, last_frame, passable
from gateway.serving.front.answer import Answer
from gateway.serving.front.request import HttpRequest
from gateway.serving.gateway import Gateway
from gateway.serving.hedging import begun_of
from gateway.serving.placing import Placed
from gateway.serving.prefixes.sampler import Specimen
from gateway.serving.rejection import rejection_error
from gateway.serving.relay import StreamRelay
from gateway.serving.request_log import RequestLog, request_line
from gateway.serving.shadowing.mirror import Copied, Mirror
from gateway.serving.stored_responses import unknown_response
from gateway.tenancy.tenant import Tenant, Visit
from gateway.wire.request import Endpoint, InferenceRequest, parse
from gateway.wire.sampling import Obstacle
from gateway.wire.transcript import Transcript

KEPT_BODY_BYTES: Final = 2 * 1024 * 1024
"""Longer requests are not kept while their stream runs, so that it cannot go on elsewhere."""
_DONE: Final = b"data: [DONE]\n\n"


class Broken(NamedTuple):
    """How a stream that has begun broke off, and where."""

    failure: AttemptLostError
    decision: Decision
    told: bool = False


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
        if request.tenant is not None:
            self._engine_id = engine_id(request.tenant, endpoint, self.request_id)
        self._tenant = header_rules.tenant(fields) if request.tenant is None else request.tenant.name
        self._visit: Visit | None = None
        self._over = False
        self._reason = ""  # of a refusal or failure
        self._transcript: Transcript | None = None
        self._broken: Broken | None = None
        self._specimen: Specimen | None = None
        self._participant: Participant | None = None
        self._mirrors: Sequence[Mirror] = ()
        self._entry = None if gateway.journal is None else Entry(endpoint, self._tenant, request.began_at)
        tracing = gateway.tracing
        self._trace = None if tracing is None else tracing.begin(fields, endpoint, self.request_id, request.began_at)

    async def run(self) -> None:
        """Serve the request, whose whole body has been read."""
        received_at = self._gateway.clock()
        try:
            request = parse(self._endpoint, self._request.body)
            if self._request.tenant is not None:
                self._admit(self._request.tenant, request, received_at)
        except GatewayError as error:
            self.refuse(error)
            return
        if self._gateway.router.holds and (refusal := self._too_many(request)) is not None:
            self._rejected(refusal, request)
            return
        chains = await self._gateway.chains_of(request, self._request.body)
        if self._trace is not None:
            self._trace.parsed(received_at, self._gateway.clock())
        if self._endpoint.generates:
            self._specimen = self._gateway.sampler.take(request.prompt, received_at)
        request.prompt = None
        live = self._gateway.live_ids
        if self._engine_id in live:  # SGLang refuses a second live request of one id
            self._engine_id = f"{self._engine_id[:120]}-{id(self):x}"
        live.add(self._engine_id)
        try:
            await self._serve(request, chains, received_at)
        finally:
            live.discard(self._engine_id)

    def _admit(self, tenant: Tenant, request: InferenceRequest, now: float) -> None:
        """Raises GatewayError where the tenant may not."""
        try:
            previous = request.previous_response_id
            if previous is not None and self._gateway.router.holder(owned(tenant, previous)) is None:
                raise unknown_response(previous)
            self._visit = admit(tenant, request, self._fields, self._gateway.unsalted, now)
        finally:
            self._answer.more = rate_headers(tenant, now)

    def _too_many(self, request: InferenceRequest) -> Rejection | None:
        """Whether too many wait for it to be served in time, whatever it is: that is known before all the work."""
        priority, deadline_s = header_rules.priority(self._fields), header_rules.deadline_s(self._fields)
        now = self._gateway.clock()
        return self._gateway.router.refusal(request.model, self._tenant, priority, deadline_s, now)

    def refuse(self, error: GatewayError, model: str = "") -> None:
        """End a request that no replica took."""
        outcome = Outcome.REJECTED if error.origin is not Origin.ENGINE else Outcome.ENGINE_FAILED
        self._reason = str(error.code or error.type)
        self._tell(Refused(self._gateway.clock(), model, outcome))
        self._send_error(error, None)

    def close(self) -> None:
        """The request is over; where nothing has said how, its client left or we failed."""
        if not self._over:
            outcome = Outcome.CLIENT_GONE if self._answer.gone else Outcome.REJECTED
            self._tell(Refused(self._gateway.clock(), "", outcome))

    def _tell(self, fact: Fact) -> None:
        """Tell the router, and of the end tenant, journal and log."""
        gateway, entry = self._gateway, self._entry
        gateway.observe(fact)
        if entry is not None:
            entry.learn(fact)
        participant = self._participant
        if participant is not None:
            participant.learn(fact)
        if self._trace is not None:
            self._trace.learn(fact)
        for mirror in self._mirrors:
            mirror.learn(fact)
        if isinstance(fact, (Finished, Refused)):
            self._over = True
            if participant is not None:
                gateway.experiments.over(participant, fact)
            if self._visit is not None:
                leave(self._visit, fact)
            if entry is not None:
                gateway.ended(entry)
            if gateway.log is not None:
                self._log(gateway.log, fact)
            if self._specimen is not None and isinstance(fact, Finished) and fact.usage is not None:
                gateway.sampler.note(self._specimen, fact.usage, fact.at)

    def _exposed(self, exposure: Exposure, replica: str | None = None) -> None:
        """The request takes part in an experiment, and goes to that replica: by its first decision, or a later one."""
        if self._participant is None:
            self._participant = self._gateway.experiments.let_in(exposure, self._accepted_at)
        self._participant.exposure, self._participant.replica = exposure, replica

    def _log(self, log: RequestLog, end: Finished | Refused) -> None:
        """Tell of the request's end, where that is wished."""
        record = self._gateway.router.record(self.request_id)
        if log.wants(end.outcome, 1 if record is None else record.attempts):
            line = request_line(
                self.request_id, self._endpoint, self._tenant, self._accepted_at, end, record, self._reason
            )
            log.add(line)

    async def _serve(self, request: InferenceRequest, chains: Chains, received_at: float) -> None:
        """Try replicas until one answers to the end, a failure is final, or none is left."""
        gateway = self._gateway
        route_at = gateway.clock()
        asked = self._route_request(request, chains)
        gateway.sampler.saw(asked)
        if self._specimen is not None:
            self._specimen.asked = asked
        if self._entry is not None:
            self._entry.request = asked
        gateway.recourse.accepted(route_at)
        course = Course(gateway, asked)
        first = await course.first()
        if isinstance(first.answer, Rejection):
            self._rejected(first.answer, request)
            return
        keeps = request.obstacle is None and gateway.recourse.continues
        if keeps and len(self._request.body) <= KEPT_BODY_BYTES:
            self._transcript = Transcript()
        kept = self._transcript is not None
        sending = Sending(
            self._endpoint,
            self._headers,
            self._request.body,
            request,
            self._engine_id,
            self._visit,
            kept=kept,
            asked=asked,
        )
        if gateway.shadows.lines and isinstance(first.answer, Decision):
            copied = Copied(self._endpoint, self._headers, self._request.body, request, self._visit, asked)
            self._mirrors = gateway.shadows.offer(copied, first.answer)
        placed: Placed | None = first
        while placed is not None and isinstance(placed.answer, Decision):
            running = self._dispatch(placed.answer, sending, route_at, received_at, placed.held_s)
            try:
                running, failure = await self._begun(course, running)
                if failure is None:
                    failure = await self._relayed(running)
                    if failure is None:
                        return
                    route_at = received_at = gateway.clock()
                    self._broken = Broken(failure, running.attempt.decision)
                    sending, placed = await self._onward(course, running)
                else:
                    route_at = received_at = gateway.clock()
                    placed = await course.following(failure, running.attempt)
                if placed is None:
                    self._give_up(running, failure)
                elif isinstance(placed.answer, Rejection):  # it waited for an engine that would take it, in vain
                    self._rejected(placed.answer, request)
            finally:
                # Reached with the attempt still open only by cancellation or a bug of ours.
                running.attempt.finish(Outcome.CLIENT_GONE if self._answer.gone else Outcome.REJECTED)
                running.close(unwanted=self._answer.gone)

    def _dispatch(self, decision: Decision, sending: Sending, route_at: float, since: float, held_s: float) -> Try:
        """Begin an attempt; `since` is when our own work on it began."""
        if decision.exposure is not None:
            self._exposed(decision.exposure, decision.chosen.replica)
        if self._entry is not None:
            self._entry.routed(decision, route_at + held_s)
        attempt = Attempt(decision, self._tell, self._gateway.clock)
        now = self._gateway.clock()
        attempt.dispatched(now - route_at - held_s, now - since - held_s, held_s)
        trace = None if self._trace is None else self._trace.attempt(decision, route_at, held_s, now)
        return Try(self._gateway, sending, attempt, trace)

    async def _begun(self, course: Course, running: Try) -> tuple[Try, AttemptLostError | None]:
        """Wait for what can be sent to the client, of this try or of one beside it; else how the last one failed."""
        after_s = self._gateway.recourse.hedge_after_s(running.attempt.decision.chosen.ttft_ms)
        if after_s is not None:
            return await begun_of(running, after_s, lambda: self._beside(course, running))
        try:
            await running.begin()
        except AttemptLostError as failure:
            return running, failure
        return running, None

    def _beside(self, course: Course, running: Try) -> Try | None:
        now = self._gateway.clock()
        decision = course.beside(running.attempt)
        return None if decision is None else self._dispatch(decision, running.sending, now, now, 0.0)

    async def _relayed(self, running: Try) -> AttemptLostError | None:
        """Pass the answer on; None once it is over, else what broke the stream."""
        attempt, answer = running.attempt, self._answer
        self._tell_of_broken("continued")
        if not running.sending.kept:
            running.sending.body = b""  # is not sent again, and is long
        headers = header_rules.for_client(
            running.response.headers, self.request_id, attempt.decision.chosen, attempt.decision.exposure
        )
        if running.reply is not None:
            answer.whole(running.response.status, headers, running.first)
            self._stored(running, running.reply.response_id)
            self._answered([running.first])
            attempt.finish(Outcome.COMPLETED, running.reply.usage, timing=running.reply.timing)
            return None
        watcher, dialect = running.watcher, running.backend.dialect
        assert watcher is not None  # noqa: S101 - what is no plain answer is a stream
        relay = StreamRelay(running.response, watcher, dialect, attempt, answer, self._transcript)
        broken = await relay.run(headers, running.first)
        self._stored(running, watcher.response_id)
        if broken is None:
            self._answered(self._transcript.pieces if self._transcript is not None and self._transcript.whole else None)
            attempt.finish(Outcome.COMPLETED, watcher.usage, watcher.content_frames, watcher.timing)
            answer.end()
        return broken

    def _answered(self, pieces: Sequence[bytes] | None) -> None:
        """All that the client was sent, if that was kept: for a comparison with its copies."""
        for mirror in self._mirrors:
            mirror.answered(pieces)

    async def _onward(self, course: Course, running: Try) -> tuple[Sending, Placed | None]:
        """What goes on with the stream that broke off, and where; nowhere where it ends here."""
        sending, broken = running.sending, self._broken
        said = said_so_far(sending, self._transcript)
        if broken is None or isinstance(said, Obstacle):
            self._tell_of_broken(str(said))
            return sending, None
        if said.finish_reason is not None and (said.usage_sent or not sending.request.usage_requested):
            self._tell_of_broken("complete")  # all but the mark of its end was there
            running.attempt.finish(Outcome.COMPLETED)
            self._answer.end(_DONE)
            return sending, None
        if not course.may_go_on(broken.failure):
            self._tell_of_broken("refused")
            return sending, None
        onward = Onward(self._gateway, sending, said)
        request = onward.as_asked()
        if isinstance(request, Obstacle):
            self._tell_of_broken(request)
            return sending, None
        if self._visit is not None:
            salt(request, self._visit)
        asked = self._route_request(request, await self._gateway.chains_of(request, onward.body), begun=True)
        return onward, await course.onward(asked, broken.failure, running.attempt)

    def _tell_of_broken(self, continuation: str) -> None:
        """Tell what became of the stream that broke off, if one did and it is not told yet."""
        if self._broken is not None and not self._broken.told:
            self._broken = self._broken._replace(told=True)
            decision = self._broken.decision
            self._tell(StreamBroke(decision.chosen.replica, self._gateway.clock(), decision.model, continuation))

    def _give_up(self, running: Try, failure: AttemptLostError) -> None:
        """The request ends here: with an error, or as the last frame of its stream."""
        if self._answer.ended:
            return
        self._reason = str(failure.error.code or failure.error.type)
        attempt, watcher = running.attempt, running.watcher
        if self._broken is None:
            self._end(attempt, failure.outcome)
            chosen = attempt.decision.chosen
            self._send_error(client_error(failure, self._endpoint, chosen.pool), chosen, passable(failure))
            return
        self._tell_of_broken(failure.obstacle or "failed")
        failure = self._broken.failure
        outcome = Outcome.TIMED_OUT if failure.timed_out else Outcome.ENGINE_FAILED
        if watcher is not None:
            attempt.finish(outcome, watcher.usage, watcher.content_frames, watcher.timing)
        self._end(attempt, outcome)
        self._answer.end(last_frame(failure, self._endpoint))

    def _end(self, attempt: Attempt, outcome: Outcome) -> None:
        """The request ends so, with its last attempt or after that was given up."""
        if attempt.open:
            attempt.finish(outcome)
        elif not self._over:
            self._tell(Refused(self._gateway.clock(), attempt.decision.model, outcome))

    def _route_request(self, request: InferenceRequest, chains: Chains, *, begun: bool = False) -> RouteRequest:
        previous = request.previous_response_id
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
            response_id=None if previous is None else owned(self._request.tenant, previous),
            pinned_pool=header_rules.text(named(b"x-prefixgate-pool")),
            pinned_replica=header_rules.text(named(b"x-prefixgate-replica")),
            begun=begun,
            scope=None if self._request.tenant is None else self._request.tenant.scope,
            priority=header_rules.priority(self._fields),
            deadline_s=header_rules.deadline_s(self._fields),
            headers=self._gateway.experiments.marks(self._fields),
        )

    def _stored(self, running: Try, response_id: str | None) -> None:
        if response_id is not None:
            name = owned(self._request.tenant, response_id)
            self._gateway.observe(ResponseStored(running.backend.name, self._gateway.clock(), name))

    def _rejected(self, rejection: Rejection, request: InferenceRequest) -> None:
        if rejection.exposure is not None:
            self._exposed(rejection.exposure)
        known = request.model in self._gateway.router.models()  # another name must not become a label
        self.refuse(rejection_error(rejection), (request.model or "") if known else "")

    def _send_error(self, error: GatewayError, chosen: Candidate | None, body: bytes | None = None) -> None:
        """Send an error, in the engine's own words where they are given."""
        exposure = None if self._participant is None else self._participant.exposure
        headers = header_rules.for_client([(b"content-type", b"application/json")], self.request_id, chosen, exposure)
        self._answer.error(error, headers, body)
