"""A request's journal entry: gathered from its decisions and facts, then made a line without anything secret; pure."""

from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.journal.lines import JournalLine
from gateway.journal.salt import Salt
from gateway.routing.chain import ChainForm, PrefixChain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Fact, Finished, FirstToken, Refused

ID_TOKENS: Final = 256
"""About what one id covers. Which links of a chain become ids depends on its form alone, so that ids of different
requests stay comparable."""
ID_BYTES: Final = 1024
_BYTES_PER_TOKEN: Final = ID_BYTES / ID_TOKENS


@dataclass(slots=True)
class Entry:
    """What is known so far of one request. `accepted_at` and all times are seconds on the facts' clock."""

    endpoint: str
    tenant: str
    accepted_at: float
    request: RouteRequest | None = None
    decision: Decision | None = None
    routed_at: float | None = None
    attempts: int = 0
    first_token_at: float | None = None
    end: Finished | Refused | None = None

    def routed(self, decision: Decision, at: float) -> None:
        """An attempt begins."""
        self.decision = decision
        self.routed_at = at
        self.attempts += 1

    def learn(self, fact: Fact) -> None:
        """Take a fact about the request."""
        match fact:
            case FirstToken():
                self.first_token_at = self.first_token_at or fact.at  # a stream that went on has another
            case Finished() | Refused():
                self.end = fact

    def draft(self, origin: float) -> "Draft":
        """The line of the ended request but for its salt; `origin` is when the journal started.

        It holds on to no more of the prompt than the links that become ids.
        """
        end, request = self.end, self.request
        if end is None:
            raise ValueError("the request has not ended")
        chain = PrefixChain() if request is None else _finest(request)
        every = _every(chain.form)
        usage = end.usage if isinstance(end, Finished) else None
        tokens = self._expected_tokens(chain) if usage is None else usage.prompt_tokens
        line = JournalLine(
            timestamp=_ms(origin, self.accepted_at),
            input_length=tokens,
            output_length=_output_tokens(end),
            hash_ids=(),
            block_tokens=_id_tokens(chain, every, tokens),
            model=end.model if isinstance(end, Refused) else self.decision.model if self.decision else "",
            endpoint=self.endpoint,
            streams=request is not None and request.streams,
            outcome=end.outcome,
            attempts=self.attempts,
            cached=None if usage is None else usage.cached_tokens,
            ttft_ms=None if self.first_token_at is None else _ms(self.accepted_at, self.first_token_at),
            routed_ms=None if self.routed_at is None else _ms(self.accepted_at, self.routed_at),
            e2e_ms=_ms(self.accepted_at, end.at),
        )
        if self.decision is not None:
            line = _with_decision(line, self.decision)
        unit = "tokens" if chain.form.counts_tokens else "text"
        kind = f"{unit} {chain.form.block} {line.model}".encode("utf-8", "surrogatepass")
        session = None if request is None else request.session
        return Draft(line, kind, chain.hashes[every - 1 :: every], self.tenant, session)

    def _expected_tokens(self, chain: PrefixChain) -> int:
        """The prompt's tokens where no engine has counted them."""
        if self.decision is not None:
            return self.decision.chosen.prompt_tokens
        return chain.length if chain.form.counts_tokens else round(chain.length / _BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class Draft:
    """A line whose secrets still stand beside it. `kind` is what parts caches and chains do not say."""

    line: JournalLine
    kind: bytes
    links: tuple[int, ...]
    tenant: str
    session: str | None

    def salted(self, salt: Salt) -> JournalLine:
        """The line as it may be written."""
        return msgspec.structs.replace(
            self.line,
            hash_ids=salt.ids(self.kind, self.links),
            tenant=salt.name("tenant", self.tenant),
            session=None if self.session is None else salt.name("session", self.session),
        )


def _finest(request: RouteRequest) -> PrefixChain:
    """The chain of tokens with the smallest blocks; the text's where no tokens are known."""
    return min(request.token_chains, key=lambda chain: (chain.form.block, chain.form.encoding), default=request.chain)


def _every(form: ChainForm) -> int:
    """How many links make one id: links are chained, so each says all that those before it do."""
    return max(1, ID_TOKENS // form.block if form.counts_tokens else round(ID_BYTES / form.block))


def _id_tokens(chain: PrefixChain, every: int, tokens: int) -> float:
    """Tokens of the prompt that one id covers."""
    if chain.form.counts_tokens:
        return chain.form.block * every
    tokens_per_byte = max(tokens, 1) / chain.length if chain.length else 1 / _BYTES_PER_TOKEN
    return chain.form.block * every * tokens_per_byte


def _output_tokens(end: Finished | Refused) -> int:
    if isinstance(end, Refused):
        return 0
    return end.content_frames if end.usage is None else end.usage.completion_tokens


def _with_decision(line: JournalLine, decision: Decision) -> JournalLine:
    chosen, exposure = decision.chosen, decision.exposure
    if exposure is not None:
        line = msgspec.structs.replace(line, experiment=exposure.experiment, arm=exposure.arm, crossed=exposure.crossed)
    return msgspec.structs.replace(
        line,
        policy=decision.policy,
        pool=chosen.pool,
        replica=chosen.replica,
        predicted_cached=chosen.cached_tokens,
        available_cached=decision.available_tokens,
        predicted_ttft_ms=_rounded(chosen.ttft_ms),
        wait_ms=_rounded(chosen.wait_ms),
    )


def _ms(since: float, at: float) -> float:
    return _rounded((at - since) * 1000)


def _rounded(ms: float) -> float:
    return round(max(ms, 0.0), 3)
