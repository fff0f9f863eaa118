"""One tenant: what it may use, and what it uses now; pure, seconds are passed in."""

from enum import StrEnum
from typing import Final

import msgspec

from gateway.routing.scope import Scope
from gateway.tenancy.bucket import Bucket

RETRY_S: Final = 1.0
"""When a request beyond the concurrency may try again: nobody knows when one of the others ends."""


class Limit(StrEnum):
    """What a tenant may use up."""

    REQUESTS = "requests_per_minute"
    TOKENS = "tokens_per_minute"
    CONCURRENCY = "max_concurrency"


class TenantSpec(msgspec.Struct, frozen=True):
    """What the configuration says of a tenant. Empty `models` or `pools`: all; None: no limit.

    `keys` are hashes. `salt` is the cache salt that its prompts get, None where it has none of its own.
    """

    name: str
    keys: tuple[str, ...] = ()
    models: frozenset[str] = frozenset()
    pools: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_concurrency: int | None = None
    may_pin: bool = False
    weight: float = 1.0
    salt: str | None = None


class Refusal(msgspec.Struct, frozen=True):
    """The tenant has used up what it may; an expected answer, so a value."""

    limit: Limit
    message: str
    retry_after_s: float


class Allowance(msgspec.Struct, frozen=True):
    """What a tenant may use in a minute, and what is left of it now."""

    limit: int
    left: int


class Tenant:
    """The live side of a spec: how much is left, and what is in flight here and elsewhere."""

    def __init__(self, spec: TenantSpec) -> None:
        self.spec = spec
        self.scope = _scope(spec)
        """What routing may see for it; None: everything."""
        self.inflight = 0
        self.elsewhere = 0
        """Requests in flight at other processes."""
        self.admitted = 0
        self.refused = dict.fromkeys(Limit, 0)
        self.tokens = 0
        """What its requests that have ended took."""
        self.unsaid_requests = 0
        self.unsaid_tokens = 0
        """What others have not been told yet."""
        self._requests = _bucket(spec.requests_per_minute)
        self._tokens = _bucket(spec.tokens_per_minute)

    @property
    def name(self) -> str:
        """As configured."""
        return self.spec.name

    def admit(self, prompt_tokens: int, output_tokens: int, now: float) -> "Visit | Refusal":
        """Let a request in that is expected to take so many tokens, or say why not; one that is let in must `end`.

        No request needs more than a full minute's tokens to be let in; what it then takes is owed.
        """
        tokens = prompt_tokens + output_tokens
        refusal = self._refusal(tokens, now)
        if refusal is not None:
            self.refused[refusal.limit] += 1
            return refusal
        self.admitted += 1
        self.inflight += 1
        self.unsaid_requests += 1
        if self._requests is not None:
            self._requests.take(1, now)
        self._charge(tokens, now)
        return Visit(self, prompt_tokens, output_tokens)

    def _refusal(self, tokens: int, now: float) -> Refusal | None:
        spec = self.spec
        if spec.max_concurrency is not None and self.inflight + self.elsewhere >= spec.max_concurrency:
            message = f"at most {spec.max_concurrency} requests at once are allowed"
            return Refusal(Limit.CONCURRENCY, message, RETRY_S)
        if self._requests is not None and (wait_s := self._requests.wait_s(1, now)):
            return Refusal(Limit.REQUESTS, f"at most {self._requests.size} requests a minute are allowed", wait_s)
        if self._tokens is not None and (wait_s := self._tokens.wait_s(tokens, now)):
            message = f"at most {self._tokens.size} tokens a minute are allowed, and this request may take {tokens}"
            return Refusal(Limit.TOKENS, message, wait_s)
        return None

    def _charge(self, tokens: int, now: float) -> None:
        self.unsaid_tokens += tokens
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def settle(self, charged: int, taken: int, now: float) -> None:
        """A request ended that was charged and has really taken so many tokens."""
        self.inflight -= 1
        self.tokens += taken
        self._charge(taken - charged, now)

    def charged_elsewhere(self, requests: int, tokens: int, now: float) -> None:
        """Another process let requests of this tenant in."""
        if self._requests is not None:
            self._requests.take(requests, now)
        if self._tokens is not None:
            self._tokens.take(tokens, now)

    def requests_left(self, now: float) -> Allowance | None:
        """Of this minute's; None where there is no limit."""
        return _allowance(self._requests, now)

    def tokens_left(self, now: float) -> Allowance | None:
        """Of this minute's; None where there is no limit."""
        return _allowance(self._tokens, now)

    def become(self, spec: TenantSpec, now: float) -> None:
        """The configuration says something else now; what is in flight and what was taken stay."""
        self.spec, self.scope = spec, _scope(spec)
        self._requests = _resized(self._requests, spec.requests_per_minute, now)
        self._tokens = _resized(self._tokens, spec.tokens_per_minute, now)


class Visit:
    """One request that was let in, and the tokens that it was expected to take: they were charged."""

    __slots__ = ("_over", "output_tokens", "prompt_tokens", "tenant")

    def __init__(self, tenant: Tenant, prompt_tokens: int, output_tokens: int) -> None:
        self.tenant = tenant
        self.prompt_tokens = prompt_tokens
        self.output_tokens = output_tokens
        self._over = False

    def end(self, tokens: int, now: float) -> None:
        """It took so many; said again, nothing."""
        if not self._over:
            self._over = True
            self.tenant.settle(self.prompt_tokens + self.output_tokens, tokens, now)


def _scope(spec: TenantSpec) -> Scope | None:
    return Scope(spec.models, spec.pools) if spec.models or spec.pools else None


def _bucket(per_minute: int | None) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute)


def _resized(bucket: Bucket | None, per_minute: int | None, now: float) -> Bucket | None:
    if bucket is None or per_minute is None:
        return _bucket(per_minute)
    bucket.resize(per_minute, now)
    return bucket


def _allowance(bucket: Bucket | None, now: float) -> Allowance | None:
    return None if bucket is None else Allowance(bucket.size, max(0, int(bucket.left(now))))
