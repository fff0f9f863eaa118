"""A decision in words and figures, for the admin API and `prefixgate explain`; pure."""

import msgspec

from engines.reports import Usage
from gateway.errors import bad_request
from gateway.routing.decision import CostTerm, Decision, Rejection, RouteRequest
from gateway.routing.scoreboard import RequestRecord
from gateway.serving.gateway import Gateway
from gateway.serving.rejection import rejection_error
from gateway.wire.request import Endpoint, parse


class CandidateView(msgspec.Struct, frozen=True):
    """One row of the candidate table; terms and cost in milliseconds to the first token."""

    replica: str
    pool: str
    cached_tokens: int
    prompt_tokens: int
    inflight: int
    terms: tuple[CostTerm, ...]
    cost_ms: float
    chosen: bool


class Explanation(msgspec.Struct, frozen=True):
    """Why a request goes, or went, where it does; the fields after `why` are of requests that were made."""

    policy: str
    model: str
    available_tokens: int
    candidates: tuple[CandidateView, ...]
    why: str
    request_id: str | None = None
    attempts: int | None = None
    outcome: str | None = None
    ttft_s: float | None = None
    usage: Usage | None = None


def explain(gateway: Gateway, endpoint: str, body: bytes) -> Explanation:
    """What the router would do with this body now; nothing is booked. Raises GatewayError."""
    try:
        request = parse(Endpoint(endpoint), body)
    except ValueError as error:
        raise bad_request(f"`{endpoint}` is not an inference endpoint", "endpoint") from error
    now = gateway.clock()
    links = gateway.chain_of(request)
    answer = gateway.router.preview(
        RouteRequest("preview", request.model, links, request.stream, now, session=request.session), now
    )
    if isinstance(answer, Rejection):
        raise rejection_error(answer)
    return _explanation(answer)


def explain_record(record: RequestRecord) -> Explanation:
    """What was decided for a recent request, and what came of it."""
    return msgspec.structs.replace(
        _explanation(record.decision),
        request_id=record.decision.request_id,
        attempts=record.attempts,
        outcome=record.outcome,
        ttft_s=record.ttft_s,
        usage=record.usage,
    )


def _explanation(decision: Decision) -> Explanation:
    rows = tuple(
        CandidateView(
            replica=candidate.replica,
            pool=candidate.pool,
            cached_tokens=candidate.cached_tokens,
            prompt_tokens=candidate.prompt_tokens,
            inflight=candidate.inflight,
            terms=candidate.terms,
            cost_ms=candidate.cost_ms,
            chosen=candidate is decision.chosen,
        )
        for candidate in decision.candidates
    )
    return Explanation(decision.policy, decision.model, decision.available_tokens, rows, decision.why)
