"""The draw: who takes part in an experiment and in which arm, the same at every worker, gateway and time; pure.

Only hashes decide. Whether a unit takes part and which arm it falls to are independent draws, so that more traffic
moves no unit between arms. Arms are drawn by weighted rendezvous hashing (Thaler and Ravishankar 1998; the weights as
in Schindelhauer and Schomaker 2005): other weights move no more units than they must.
"""

from functools import lru_cache
from math import log
from typing import Final

from xxhash import xxh3_64_intdigest

from gateway.routing.chain import PrefixChain
from gateway.routing.decision import RouteRequest
from gateway.routing.experiments.definition import BYTES_PER_TOKEN, DEFAULT_FAMILY_TOKENS, Arm, Experiment

_SPAN: Final = 2.0**64
_NO_CHAIN: Final = PrefixChain()


def chain_of(request: RouteRequest) -> PrefixChain:
    """The chain that says who a request's family is: of its text, which every gateway makes alike, else of tokens."""
    if request.chain.length or not request.token_chains:
        return request.chain
    return min(request.token_chains, key=lambda chain: (chain.form.block, chain.form.encoding))


def prompt_tokens(chain: PrefixChain) -> int:
    """About how long the prompt is, by a measure that does not depend on what was learned."""
    return chain.length if chain.form.counts_tokens else chain.length // BYTES_PER_TOKEN


def unit_of(experiment: Experiment, request: RouteRequest, chain: PrefixChain) -> int:
    """The hash of the request's unit.

    What has no unit of the kind that is asked for goes by the next: family and session stand in for each other, and
    the request itself for both.
    """
    return xxh3_64_intdigest(_named(experiment, request, chain), _seed(experiment.name))


def family_link(chain: PrefixChain, family_tokens: int = DEFAULT_FAMILY_TOKENS) -> int | None:
    """The link at the depth of a prefix family, or the last one of a shorter prompt; None without a full block."""
    if not chain.hashes:
        return None
    per_token = 1 if chain.form.counts_tokens else BYTES_PER_TOKEN
    depth = max(1, family_tokens * per_token // chain.form.block)
    return chain.hashes[min(depth, len(chain.hashes)) - 1]


def takes_part(experiment: Experiment, unit: int, at: float) -> bool:
    """Whether the unit is among those that do, for a request that was accepted then."""
    return unit < experiment.share(at) * _SPAN


def arm_of(experiment: Experiment, unit: int) -> Arm:
    """The arm that the unit falls to, stopped or not."""
    name = unit.to_bytes(8, "big")
    return min(experiment.arms, key=lambda arm: _distance(name, arm))


def _distance(unit: bytes, arm: Arm) -> float:
    """Exponentially distributed with the arm's weight as its rate, so that the least is its share of the time."""
    if not arm.weight:
        return float("inf")
    return -log((xxh3_64_intdigest(unit, _seed(arm.name)) + 0.5) / _SPAN) / arm.weight


def _named(experiment: Experiment, request: RouteRequest, chain: PrefixChain) -> bytes:
    match experiment.unit:
        case "tenant":
            return b"tenant\0" + request.tenant.encode()
        case "request":
            return b"request\0" + request.request_id.encode()
        case "session":
            named = _session(request) or _family(experiment, chain)
        case _:
            named = _family(experiment, chain) or _session(request)
    return named or b"request\0" + request.request_id.encode()


def _session(request: RouteRequest) -> bytes:
    return b"" if request.session is None else b"session\0" + request.session.encode("utf-8", "surrogatepass")


def _family(experiment: Experiment, chain: PrefixChain) -> bytes:
    link = family_link(chain, experiment.family_tokens)
    return b"" if link is None else b"family\0" + link.to_bytes(8, "big")


@lru_cache(maxsize=1024)
def _seed(name: str) -> int:
    return xxh3_64_intdigest(name.encode())
