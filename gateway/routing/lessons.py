"""Lessons: from which finished requests all is learned, where they come faster than they teach anything; pure."""

from typing import Protocol

from engines.reports import Usage
from gateway.routing.chain import PrefixChain
from gateway.routing.curves import is_plain_text
from gateway.routing.replica import Replica


class Expected(Protocol):
    """What was expected of a request: a booking, or a peer's word on its own."""

    prompt_tokens: int
    routed_tokens: int
    token_count: tuple[str, int] | None


def surprises(replica: Replica, chain: PrefixChain, expected: Expected, usage: Usage) -> bool:
    """Whether the engine's word is not what was expected, so that there is something to correct."""
    tolerance = max(replica.block_tokens or 0, replica.pool.link_tokens(chain))
    if abs((usage.cached_tokens or 0) - expected.routed_tokens) > tolerance:
        return True
    return expected.token_count is not None and expected.token_count[1] != usage.prompt_tokens


def confirmed_blocks(replica: Replica, chain: PrefixChain, usage: Usage) -> int:
    """Leading blocks that the engine's word confirms."""
    if not usage.cached_tokens:
        return 0
    if not chain.form.counts_tokens and not is_plain_text(chain.length, usage.prompt_tokens):
        return 0
    return min(int(usage.cached_tokens / replica.pool.link_tokens(chain)), len(chain.hashes))
