"""A tenant's request on its way in and out: what it may not ask for, its cache salt, and what it is charged; pure."""

from collections.abc import Collection, Iterable
from typing import Final

from engines.dialect import Dialect
from gateway.errors import GatewayError, Origin, bad_request
from gateway.routing.facts import Finished, Outcome, Refused
from gateway.serving.headers import Fields, HeaderList
from gateway.tenancy.tenant import Allowance, Limit, Refusal, Tenant, Visit
from gateway.wire.request import Endpoint, InferenceRequest

BYTES_PER_TOKEN: Final = 4
OPEN_ENDED_TOKENS: Final = 256
"""What a request is taken to generate that does not say how much at most; what it then does is charged in the end."""
_PINS: Final = (b"x-prefixgate-pool", b"x-prefixgate-replica")
_ABOUT_TOKENS: Final = (Endpoint.TOKENIZE, Endpoint.DETOKENIZE)


def admit(
    tenant: Tenant, request: InferenceRequest, fields: Fields, unsalted: Collection[Endpoint], now: float
) -> Visit:
    """Let a parsed request in, under its tenant's salt. Raises GatewayError, in clients' words.

    `unsalted` are the endpoints at which an engine of ours would not part the caches of tenants.
    """
    if not tenant.spec.may_pin and any(name in fields for name in _PINS):
        message = "this API key may not choose pool or replica: leave out x-prefixgate-pool and x-prefixgate-replica"
        raise GatewayError(message, status=403, origin=Origin.CLIENT, type="permission_error", code="pin_not_allowed")
    if request.endpoint is Endpoint.RESPONSES and request.names_request:
        message = "a request for a response gets its id here for this API key: leave out request_id and rid"
        raise bad_request(message, "request_id", "request_id_not_allowed")
    if tenant.spec.salt is not None and request.endpoint not in _ABOUT_TOKENS:
        _salt(request, tenant.spec.salt, unsalted)
    visit = tenant.admit(*expected_tokens(request), now)
    if isinstance(visit, Refusal):
        raise refusal_error(visit, request.endpoint)
    return visit


def _salt(request: InferenceRequest, salt: str, unsalted: Collection[Endpoint]) -> None:
    if request.salt is not None:
        message = "cache_salt and extra_key are set by the gateway for this API key: leave them out"
        raise bad_request(message, "cache_salt", "cache_salt_not_allowed")
    if request.endpoint in unsalted:
        message = (
            f"{request.endpoint} cannot be served to this API key: engines take no cache salt there, so its prompts "
            "would share a cache with others'. Use /v1/chat/completions, or have its tenant set cache_salt = false"
        )
        raise GatewayError(
            message, status=403, origin=Origin.CLIENT, type="permission_error", code="cache_not_isolated"
        )
    salt_request(request, salt)


def salt(request: InferenceRequest, visit: Visit) -> None:
    """Put what goes on with an admitted request under its tenant's salt too."""
    tenant_salt = visit.tenant.spec.salt
    if tenant_salt is not None and request.endpoint not in _ABOUT_TOKENS:
        salt_request(request, tenant_salt)


def salt_request(request: InferenceRequest, salt: str) -> None:
    """Give its prompt a cache of its own."""
    request.salt = salt
    if request.prompt is not None:
        request.prompt = request.prompt.salted(salt)


def salt_fields(dialect: Dialect, visit: Visit, endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    """What a body is given so that the engine keeps the prompt to its tenant's cache."""
    salt = visit.tenant.spec.salt
    field = None if salt is None else dialect.salt_field(endpoint, salt)
    return () if field is None else (field,)


def unsalted_endpoints(dialects: Iterable[Dialect]) -> frozenset[Endpoint]:
    """Where one of these engines takes no salt although it caches prompts."""
    cached = [endpoint for endpoint in Endpoint if endpoint not in _ABOUT_TOKENS]
    return frozenset(
        endpoint for dialect in dialects for endpoint in cached if dialect.salt_field(endpoint, "salt") is None
    )


def expected_tokens(request: InferenceRequest) -> tuple[int, int]:
    """What a request may take: its prompt, as its length tells, and what it asks for at most. /tokenize takes none."""
    if request.endpoint in _ABOUT_TOKENS or request.prompt is None:
        return 0, 0
    prompt = len(request.prompt.text) // BYTES_PER_TOKEN + 1
    if not request.endpoint.generates:
        return prompt, 0
    return prompt, OPEN_ENDED_TOKENS if request.max_output_tokens is None else request.max_output_tokens


def leave(visit: Visit, end: Finished | Refused) -> None:
    """Settle by what the request has really taken, as far as anybody knows."""
    visit.end(_taken_tokens(visit, end), end.at)


def _taken_tokens(visit: Visit, end: Finished | Refused) -> int:
    if not isinstance(end, Finished):
        return 0
    if end.usage is not None:
        return end.usage.prompt_tokens + end.usage.completion_tokens
    if end.outcome is Outcome.COMPLETED and not end.content_frames:  # nobody counted
        return visit.prompt_tokens + visit.output_tokens
    if end.outcome in (Outcome.COMPLETED, Outcome.CLIENT_GONE):
        return visit.prompt_tokens + end.content_frames  # engines send about a token in each
    return 0


def refusal_error(refusal: Refusal, endpoint: Endpoint) -> GatewayError:
    """A tenant's refusal as OpenAI says it; Anthropic's has a type of its own."""
    kind = "tokens" if refusal.limit is Limit.TOKENS else "requests"
    return GatewayError(
        f"Rate limit reached: {refusal.message}.",
        status=429,
        origin=Origin.CLIENT,
        type="rate_limit_error" if endpoint is Endpoint.MESSAGES else kind,
        code="concurrency_limit_exceeded" if refusal.limit is Limit.CONCURRENCY else "rate_limit_exceeded",
        retry_after_s=refusal.retry_after_s,
    )


def rate_headers(tenant: Tenant, now: float) -> HeaderList:
    """`x-ratelimit-limit-…` and `x-ratelimit-remaining-…` of what is limited."""
    return _headers(b"requests", tenant.requests_left(now)) + _headers(b"tokens", tenant.tokens_left(now))


def _headers(name: bytes, allowance: Allowance | None) -> HeaderList:
    if allowance is None:
        return []
    return [
        (b"x-ratelimit-limit-" + name, b"%d" % allowance.limit),
        (b"x-ratelimit-remaining-" + name, b"%d" % allowance.left),
    ]
