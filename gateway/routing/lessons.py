"""Lessons: from which finished requests all is learned, where they come faster than they teach anything; pure."""

from engines.reports import Usage
from gateway.routing.curves import is_plain_text
from gateway.routing.fleet import Booking, Replica


def surprises(replica: Replica, booking: Booking, usage: Usage) -> bool:
    """Whether the engine's word is not what was expected, so that there is something to correct."""
    tolerance = max(replica.block_tokens or 0, replica.pool.link_tokens(booking.chain))
    if abs((usage.cached_tokens or 0) - booking.routed_tokens) > tolerance:
        return True
    return booking.token_count is not None and booking.token_count[1] != usage.prompt_tokens


def confirmed_blocks(replica: Replica, booking: Booking, usage: Usage) -> int:
    """Leading blocks that the engine's word confirms."""
    chain = booking.chain
    if not usage.cached_tokens:
        return 0
    if not chain.form.counts_tokens and not is_plain_text(booking.text.length, usage.prompt_tokens):
        return 0
    return min(int(usage.cached_tokens / replica.pool.link_tokens(chain)), len(chain.hashes))
