"""A decision in words and figures, for the admin API and `prefixgate explain`; pure."""

import msgspec

from engines.reports import Usage
from gateway.errors import bad_request
from gateway.routing.candidates import CostTerm
from gateway.routing.decision import ANONYMOUS, Decision, Rejection, RouteRequest
from gateway.routing.scoreboard import RequestRecord
from gateway.serving.admission import salt_request
from gateway.serving.gateway import Gateway
from gateway.serving.rejection import rejection_error
from gateway.wire.request import Endpoint, parse


class CandidateView(msgspec.Struct, frozen=True):
    """One row of the candidate table; terms and cost in milliseconds to the first token.

    `cached_tokens` are expected, of those that are confirmed, inferred or promised; `counted_in` is "tokens" or
    "text".
    """

    replica: str
    pool: str
    cached_tokens: int
    confirmed_tokens: int
    inferred_tokens: int
    promised_tokens: int
    counted_in: str
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
    replicas: tuple[str, ...] | None = None
    outcome: str | None = None
    ttft_s: float | None = None
    usage: Usage | None = None
    accepted_at: float | None = None
    """Seconds since the Unix epoch."""
    arm: str | None = None
    """`experiment=arm`, with `;failover` where it goes outside of it."""


async def explain(
    gateway: Gateway,
    endpoint: str,
    body: bytes,
    tenant: str | None = None,
    headers: tuple[tuple[str, str], ...] = (),
) -> Explanation:
    """What the router would do with this body now, from a tenant where one is named; nothing is booked.

    `headers` are those that experiments look at. Raises GatewayError.
    """
    try:
        request = parse(Endpoint(endpoint), body)
    except ValueError as error:
        raise bad_request(f"`{endpoint}` is not an inference endpoint", "endpoint") from error
    whose = None
    if tenant is not None:
        whose = None if gateway.tenancy is None else gateway.tenancy.named(tenant)
        if whose is None:
            raise bad_request(f"there is no tenant `{tenant}`", "tenant", "tenant_not_found", 404)
        if whose.spec.salt is not None:
            salt_request(request, whose.spec.salt)
    chains = await gateway.chains_of(request, body)
    now = gateway.clock()
    asked = RouteRequest(
        "preview",
        request.model,
        chains.text,
        request.stream,
        now,
        chains.tokens,
        tenant=ANONYMOUS if tenant is None else tenant,
        session=request.session,
        scope=None if whose is None else whose.scope,
        headers=headers,
    )
    answer = gateway.router.preview(asked, now)
    if isinstance(answer, Rejection):
        raise rejection_error(answer)
    return _explanation(answer)


def explain_record(record: RequestRecord, epoch: float) -> Explanation:
    """What was decided for a recent request, and what came of it; `epoch` is when the router's clock was at 0."""
    return msgspec.structs.replace(
        _explanation(record.decision),
        request_id=record.decision.request_id,
        attempts=record.attempts,
        replicas=record.replicas,
        outcome=record.outcome,
        ttft_s=record.ttft_s,
        usage=record.usage,
        accepted_at=epoch + record.accepted_at,
    )


def _explanation(decision: Decision) -> Explanation:
    rows = tuple(
        CandidateView(
            replica=candidate.replica,
            pool=candidate.pool,
            cached_tokens=candidate.cached_tokens,
            confirmed_tokens=candidate.overlap.confirmed,
            inferred_tokens=candidate.overlap.inferred,
            promised_tokens=candidate.overlap.promised,
            counted_in=candidate.counted_in,
            prompt_tokens=candidate.prompt_tokens,
            inflight=candidate.inflight,
            terms=candidate.terms,
            cost_ms=candidate.cost_ms,
            chosen=candidate is decision.chosen,
        )
        for candidate in decision.candidates
    )
    arm = None if decision.exposure is None else decision.exposure.label
    return Explanation(decision.policy, decision.model, decision.available_tokens, rows, decision.why, arm=arm)
