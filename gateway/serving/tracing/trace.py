"""One request as spans: parse, queue, route, and attempts with their connect, first token and stream; pure but for ids.

Times are seconds on the facts' clock. Spans are made of times that were taken anyhow: nothing is measured twice. No
span holds a prompt, an answer or a key.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from gateway.routing.decision import Decision
from gateway.routing.facts import AttemptFailed, Fact, Finished, FirstToken, Outcome, Refused
from gateway.serving.headers import HeaderList
from gateway.wire.request import Endpoint

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

CONTEXT_HEADERS: Final = ("traceparent", "tracestate")
_NAMES: Final = frozenset(name.encode() for name in CONTEXT_HEADERS)
_WELL: Final = frozenset({Outcome.COMPLETED, Outcome.CLIENT_GONE})


class Trace:
    """The spans of one request. `sent` are the context headers that its client sent."""

    def __init__(
        self,
        tracer: "Tracer",
        sent: Mapping[str, str],
        endpoint: Endpoint,
        request_id: str,
        accepted_at: float,
        wall_ns: int,
    ) -> None:
        """`wall_ns` is what the facts' clock lacks to the Unix epoch."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._tracer = tracer
        self._propagator = TraceContextTextMapPropagator()
        self._wall_ns = wall_ns
        parent = self._propagator.extract(dict(sent))
        self._root = tracer.start_span(
            f"POST {endpoint}",
            parent,
            kind=SpanKind.SERVER,
            start_time=self._ns(accepted_at),
            attributes={"http.request.method": "POST", "url.path": endpoint.value, "prefixgate.request_id": request_id},
        )
        self._context = set_span_in_context(self._root, parent)
        self._attempts: dict[int, AttemptTrace] = {}

    def parsed(self, since: float, until: float) -> None:
        """The body was read and understood."""
        self._span("parse", self._context, since, until)

    def attempt(self, decision: Decision, route_at: float, held_s: float, now: float) -> "AttemptTrace":
        """An attempt begins. Before that it was held for so long, and routed."""
        from opentelemetry.trace import SpanKind, set_span_in_context

        if held_s:
            self._span("queue", self._context, route_at, route_at + held_s)
        self._span("route", self._context, route_at + held_s, now)
        chosen = decision.chosen
        span = self._tracer.start_span(
            f"attempt {chosen.replica}",
            self._context,
            kind=SpanKind.CLIENT,
            start_time=self._ns(now),
            attributes={
                "gen_ai.request.model": decision.model,
                "prefixgate.pool": chosen.pool,
                "prefixgate.replica": chosen.replica,
                "prefixgate.policy": decision.policy,
                "prefixgate.predicted_cached_tokens": chosen.cached_tokens,
                "prefixgate.available_cached_tokens": decision.available_tokens,
                "prefixgate.predicted_ttft_ms": chosen.ttft_ms,
            },
        )
        if decision.exposure is not None:
            span.set_attribute("prefixgate.arm", decision.exposure.label)
        context = set_span_in_context(span, self._context)
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier, context)
        headers = [(name.encode(), value.encode()) for name, value in carrier.items()]
        begun = self._attempts[decision.ticket] = AttemptTrace(span, context, headers, now)
        return begun

    def learn(self, fact: Fact) -> None:
        """What happened to the request, or to an attempt of its."""
        match fact:
            case FirstToken():
                attempt = self._attempts.get(fact.ticket)
                if attempt is not None and attempt.first_at is None:
                    attempt.first_at = fact.at
            case AttemptFailed():
                self._end_attempt(fact.ticket, fact.at, failed=str(fact.cause))
            case Finished():
                self._told_usage(fact)
                self._end_attempt(fact.ticket, fact.at, failed="" if fact.outcome in _WELL else str(fact.outcome))
                self._end(fact.outcome, fact.at)
            case Refused():
                self._end(fact.outcome, fact.at)

    def _told_usage(self, fact: Finished) -> None:
        usage = fact.usage
        if usage is not None:
            self._root.set_attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
            self._root.set_attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
            if usage.cached_tokens is not None:
                self._root.set_attribute("prefixgate.cached_tokens", usage.cached_tokens)

    def _end_attempt(self, ticket: int, at: float, *, failed: str) -> None:
        attempt = self._attempts.pop(ticket, None)
        if attempt is None:
            return
        first_at, sent_at = attempt.first_at, attempt.sent_at
        if sent_at is not None:
            self._span("connect", attempt.context, attempt.began_at, sent_at)
        if first_at is not None:
            self._span("first token", attempt.context, attempt.began_at if sent_at is None else sent_at, first_at)
            self._span("stream", attempt.context, first_at, at)
        _close(attempt.span, failed, self._ns(at))

    def _end(self, outcome: Outcome, at: float) -> None:
        for ticket in list(self._attempts):  # of a race that another one won
            self._end_attempt(ticket, at, failed="")
        self._root.set_attribute("prefixgate.outcome", str(outcome))
        _close(self._root, "" if outcome in _WELL else str(outcome), self._ns(at))

    def _span(self, name: str, context: "Context", since: float, until: float) -> None:
        """A span that is over already."""
        self._tracer.start_span(name, context, start_time=self._ns(since)).end(self._ns(max(until, since)))

    def _ns(self, at: float) -> int:
        return round(at * 1e9) + self._wall_ns


class AttemptTrace:
    """An attempt on its way. `headers` tell its engine of it."""

    def __init__(self, span: "Span", context: "Context", headers: HeaderList, began_at: float) -> None:
        self.span = span
        self.context = context
        self.headers = headers
        self.began_at = began_at
        self.sent_at: float | None = None
        """When it had a connection; None if its engine never answered."""
        self.first_at: float | None = None

    def sent_to_engine(self, headers: HeaderList) -> HeaderList:
        """The client's headers with this attempt's context in place of the client's own."""
        return [*(pair for pair in headers if pair[0] not in _NAMES), *self.headers]


def _close(span: "Span", failed: str, at_ns: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    if failed:
        span.set_status(Status(StatusCode.ERROR, failed))
    span.end(at_ns)
