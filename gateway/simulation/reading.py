"""Recorded traffic as a trace: a journal of the gateway's, or a trace in Mooncake's format; pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.journal.lines import FleetPool, JournalLine, JournalText, read_journal
from gateway.routing.facts import Outcome
from gateway.simulation.trace import Trace, TraceRequest, in_order
from gateway.wire.request import Endpoint

_GENERATING: Final = frozenset({"", *(one.value for one in Endpoint if one.generates)})
_REFUSED: Final = frozenset({Outcome.REJECTED.value, Outcome.ENGINE_REJECTED.value})
_BROKEN: Final = frozenset({Outcome.ENGINE_FAILED.value, Outcome.TIMED_OUT.value})


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was measured under one policy when the requests were real. `hit_rate` None: no engine said.

    `ttfts_s` are of streams, from arrival to the first content.
    """

    policy: str
    requests: int
    broken: int
    hit_rate: float | None
    ttfts_s: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Reading:
    """A trace from a file; `notes` are sentences about what was left out, `fleet` is what served it, if it says."""

    trace: Trace
    recorded: tuple[Recorded, ...]
    fleet: tuple[FleetPool, ...]
    notes: tuple[str, ...]


def read_trace(lines: Iterable[bytes], name: str) -> Reading:
    """Read a journal or a Mooncake trace. Raises JournalError, which names the line."""
    text = read_journal(lines)
    notes = list(text.notes)
    asked = _prompts(text, notes)
    models = {line.model for line in asked}
    if len(models) > 1:
        notes.append(f"its requests are for {len(models)} models: all are replayed as if one fleet served them")
    widths = _id_tokens(asked)
    requests = in_order(_request(line, widths) for line in asked)
    return Reading(Trace(name, requests), _recorded(asked), text.fleet, tuple(notes))


def fitting(trace: Trace, most_tokens: int) -> tuple[Trace, tuple[str, ...]]:
    """The requests that every replica can hold, and a note about the others."""
    kept = tuple(one for one in trace.requests if one.tokens + max(one.output_tokens, 1) <= most_tokens)
    left = len(trace.requests) - len(kept)
    note = f"left out for being larger, with the answer, than the {most_tokens:,} tokens of a replica: {left}"
    return Trace(trace.name, kept), (note,) if left else ()


def _prompts(text: JournalText, notes: list[str]) -> list[JournalLine]:
    """Lines of requests whose prompts engines were to prefill."""
    sent = [line for line in text.lines if line.outcome not in _REFUSED]
    asked = [line for line in sent if line.endpoint in _GENERATING and line.input_length]
    for count, why in (
        (len(text.lines) - len(sent), "for having been rejected"),
        (len(sent) - len(asked), "for having no prompt to prefill (embeddings and the like)"),
    ):
        if count:
            notes.append(f"left out {why}: {count}")
    return asked


def _id_tokens(lines: Sequence[JournalLine]) -> dict[int, float]:
    """Tokens of an id, by a prompt's first id: whoever shares a prefix shares that one, and so needs the same width.

    In chains of text it differs from prompt to prompt a little; then it is the mean, by tokens.
    """
    sums: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for line in lines:
        if line.hash_ids:
            both = sums[line.hash_ids[0]]
            both[0] += line.block_tokens * line.input_length
            both[1] += line.input_length
    return {first: round(total / weight, 6) for first, (total, weight) in sums.items()}


def _request(line: JournalLine, widths: dict[int, float]) -> TraceRequest:
    ids = line.hash_ids
    width = widths[ids[0]] if ids else line.block_tokens
    return TraceRequest(line.timestamp / 1000, line.input_length, line.output_length, ids, width, line.session)


def _recorded(lines: Sequence[JournalLine]) -> tuple[Recorded, ...]:
    """All that was measured, then by policy where there were several."""
    tells = {line.replica for line in lines if line.cached is not None}
    measured = [line for line in lines if line.ttft_ms is not None or line.cached is not None]
    if not measured:
        return ()
    policies = sorted({line.policy for line in measured if line.policy})
    parts = [("", list(lines))]
    if len(policies) > 1:
        parts += [(policy, [line for line in lines if line.policy == policy]) for policy in policies]
    return tuple(_measured(policy, part, tells) for policy, part in parts)


def _measured(policy: str, lines: Sequence[JournalLine], tells: set[str]) -> Recorded:
    """An engine that says what is cached at all, and said nothing of a request, had none of it cached."""
    ended = [line for line in lines if line.outcome == Outcome.COMPLETED.value and line.replica in tells]
    prompt = sum(line.input_length for line in ended)
    cached = sum(min(line.cached or 0, line.input_length) for line in ended)
    return Recorded(
        policy=policy,
        requests=len(lines),
        broken=sum(line.outcome in _BROKEN for line in lines),
        hit_rate=cached / prompt if prompt else None,
        ttfts_s=tuple(line.ttft_ms / 1000 for line in lines if line.ttft_ms is not None),
    )
