"""The demo's fleet in virtual time: the same requests through the same Router, and a live run retold to it; pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

import msgspec

from engines.reports import LoadReport, Usage
from engines.simulated.cache import hash_blocks
from engines.simulated.rendering import render_chat
from engines.simulated.tokens import count
from gateway.demo.fleet import CHUNK_TOKENS, KV_TOKENS, POLL_S, POOLS, REPLICAS_PER_POOL
from gateway.demo.workload import Arrival
from gateway.journal.lines import JournalLine
from gateway.routing.decision import Decision
from gateway.routing.facts import Finished, FirstToken, Outcome
from gateway.simulation.fleet import BLOCK_TOKENS, SimulatedReplica, parse_fleet
from gateway.simulation.routed import RoutedChooser
from gateway.simulation.run import Run, Served
from gateway.simulation.trace import Trace, TraceRequest

POLICY: Final = "ttft"
SHAKEN_S: Final = 0.005
_ID_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Played:
    """What became of a trace in virtual time, in its order; `decisions` are the latest ones, by number."""

    replicas: tuple[str, ...]
    served: tuple[Served, ...]
    decisions: dict[int, Decision]


def virtual_fleet(speed: float, delay_ms: float = 0.0) -> tuple[SimulatedReplica, ...]:
    """The demo's replicas, by the names that the gateway gives them.

    Each request takes `delay_ms` longer, as real sockets and processes add to the engine's time.
    """
    text = ",".join(f"{pool.profile}:{REPLICAS_PER_POOL}@{speed:g}" for pool in POOLS)
    return tuple(
        replace(one, profile=replace(one.profile, floor_ms=one.profile.floor_ms + delay_ms))
        for one in parse_fleet(text, KV_TOKENS, CHUNK_TOKENS)
    )


def trace_of(arrivals: Sequence[Arrival], speed: float) -> Trace:
    """The requests as their engines would have them, at the wall's times: an id is a block of rendered tokens."""
    return Trace("demo", tuple(_request(arrival, speed) for arrival in arrivals))


def _request(arrival: Arrival, speed: float) -> TraceRequest:
    prompt = render_chat(arrival.messages, (), "chat")
    ids = tuple(int.from_bytes(block[:_ID_BYTES], "little") for block in hash_blocks(prompt, BLOCK_TOKENS, b""))
    at = arrival.at_s / speed
    return TraceRequest(at, count(prompt), arrival.answer_tokens, ids, float(BLOCK_TOKENS), arrival.session)


def play(trace: Trace, fleet: Sequence[SimulatedReplica]) -> Played:
    """The trace through the Router, which guesses what is cached, as the demo's gateway does."""
    chooser = RoutedChooser(fleet, POLICY, 0, events=False)
    chooser.poll_s = POLL_S
    served = sorted(Run(trace, fleet, chooser).run().served)
    records = {one.number: chooser.router.record(str(one.number)) for one in served}
    return Played(
        tuple(fleet[one.slot].name for one in served),
        tuple(served),
        {number: record.decision for number, record in records.items() if record is not None},
    )


def shaken(trace: Trace, fleet: Sequence[SimulatedReplica], seed: int) -> list[str]:
    """Where requests go, in the trace's order, when each comes up to `SHAKEN_S` later: what chance alone does."""
    rng = Random(seed)
    late = [request.at + rng.uniform(0, SHAKEN_S) for request in trace.requests]
    order = sorted(range(len(late)), key=late.__getitem__)
    requests = tuple(replace(trace.requests[number], at=late[number]) for number in order)
    went = play(Trace(trace.name, requests), fleet).replicas
    return [replica for _, replica in sorted(zip(order, went, strict=True))]


def retell(trace: Trace, lines: Sequence[JournalLine], fleet: Sequence[SimulatedReplica]) -> list[Decision]:
    """What a Router decides on each line's request when its past is the one that the journal tells.

    `trace` is of the same lines. Each request then goes where it went, not where this Router would have sent it.
    """
    chooser = RoutedChooser(fleet, POLICY, 0, events=False, hold_ms=0.0)
    router = chooser.router
    decisions: dict[int, Decision] = {}
    tickets: dict[int, int] = {}
    polled_at = lines[0].timestamp / 1000
    for at, number, what in sorted(_happenings(lines)):
        while polled_at <= at:
            for slot, one in enumerate(fleet):  # a journal does not tell what their load was
                chooser.reported(slot, LoadReport(block_tokens=one.limits.block_tokens), polled_at)
            polled_at += POLL_S
        line = lines[number]
        if what == _FIRST_TOKEN:
            router.observe(FirstToken(tickets[number], at))
        elif what == _END:
            usage = Usage(line.input_length, line.output_length, line.cached)
            router.observe(Finished(tickets[number], at, Outcome.COMPLETED, usage, line.output_length))
        else:
            asked = trace.requests[number]
            request = chooser.request(number, asked.prompt(number), line.session, line.timestamp / 1000)
            decisions[number] = _decided(router.preview(request, at))
            taken = router.route(msgspec.structs.replace(request, pinned_replica=line.replica), at)
            tickets[number] = _decided(taken).ticket
    return [decisions[number] for number in range(len(lines))]


_ROUTED, _FIRST_TOKEN, _END = range(3)


def _happenings(lines: Sequence[JournalLine]) -> Iterator[tuple[float, int, int]]:
    """When (seconds), to which line's request, and what."""
    for number, line in enumerate(lines):
        for after_ms, what in ((line.routed_ms, _ROUTED), (line.ttft_ms, _FIRST_TOKEN), (line.e2e_ms, _END)):
            if after_ms is None or line.outcome != Outcome.COMPLETED:
                raise ValueError(f"the journal's request {number} is not a stream that was answered whole")
            yield (line.timestamp + after_ms) / 1000, number, what


def _decided(answer: object) -> Decision:
    if not isinstance(answer, Decision):
        raise TypeError(f"nothing is held or rejected here: {answer}")
    return answer
