"""Traces: what was asked and when, as content ids, never text; scaled in time to a wished load; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol

from engines.simulated.tokens import TOKEN_BYTES

_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One request: seconds since the trace's start, sizes in tokens, and the ids of what its prompt says.

    Each id stands for `id_tokens` tokens and all before them; what no id covers is the request's own.
    """

    at: float
    tokens: int
    output_tokens: int
    ids: tuple[int, ...]
    id_tokens: float = 512.0
    session: str | None = None

    def prompt(self, number: int) -> bytes:
        """Token ids (4-byte little endian) that are equal exactly where the ids are; `number` tells the rest apart."""
        width = self.id_tokens * TOKEN_BYTES
        if width % _ID_BYTES == 0:
            repeats = int(width) // _ID_BYTES
            parts = [one.to_bytes(_ID_BYTES, "little") * repeats for one in self.ids]
        else:
            parts = []
            done = 0
            for position, one in enumerate(self.ids, 1):
                size = int(position * self.id_tokens) * TOKEN_BYTES - done
                parts.append((one.to_bytes(_ID_BYTES, "little") * (size // _ID_BYTES + 1))[:size])
                done += size
        said = b"".join(parts)[: self.tokens * TOKEN_BYTES]
        return said + own_tokens(number, self.tokens - len(said) // TOKEN_BYTES)


def own_tokens(number: int, tokens: int) -> bytes:
    """Tokens that no other request has."""
    return (number | 1 << 63).to_bytes(_ID_BYTES, "little") * (tokens // 2) + b"\xff" * (tokens % 2 * TOKEN_BYTES)


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in order of time."""

    name: str
    requests: tuple[TraceRequest, ...]

    @property
    def span_s(self) -> float:
        """From the first request to the last."""
        return self.requests[-1].at - self.requests[0].at if self.requests else 0.0

    def uncached(self) -> list[int]:
        """Tokens of each prompt that an endless cache would not have."""
        seen: set[int] = set()
        uncached = []
        for request in self.requests:
            known = 0
            for one in request.ids:
                if one not in seen:
                    break
                known += 1
            seen.update(request.ids)
            uncached.append(max(request.tokens - int(known * request.id_tokens), 1))
        return uncached

    def stretched(self, factor: float) -> "Trace":
        """The same requests, `factor` times as far apart."""
        return Trace(self.name, tuple(replace(request, at=request.at * factor) for request in self.requests))

    def part(self, most: int | None) -> "Trace":
        """The first `most` requests."""
        return self if most is None else Trace(self.name, self.requests[:most])


class PrefillTime(Protocol):
    """One replica's time to prefill."""

    def prefill_s(self, tokens: int) -> float:
        """Seconds for a prompt of so many uncached tokens on an idle engine."""


def load_of(trace: Trace, replicas: Sequence[PrefillTime]) -> float:
    """Prefill work that is left after ideal (endless cache) hits, over the prefill capacity of the replicas.

    A replica's share of the work is in proportion to its speed; 1.0 keeps all of them busy all of the time.
    """
    uncached = trace.uncached()
    per_replica = {id(one): one for one in replicas}
    work_s = {key: sum(one.prefill_s(tokens) for tokens in uncached) for key, one in per_replica.items()}
    traces_per_s = sum(1 / work_s[id(one)] for one in replicas)
    return 1 / (trace.span_s * traces_per_s) if trace.span_s else float("inf")


def at_load(trace: Trace, load: float, replicas: Sequence[PrefillTime]) -> Trace:
    """The trace, slower or faster, so that it is this load (see `load_of`) for the replicas."""
    return trace.stretched(load_of(trace, replicas) / load)


def in_order(requests: Iterable[TraceRequest]) -> tuple[TraceRequest, ...]:
    """By time, starting at 0; requests of one time stay in the order given."""
    ordered = sorted(requests, key=lambda request: request.at)
    start = ordered[0].at if ordered else 0.0
    return tuple(replace(request, at=request.at - start) for request in ordered)
