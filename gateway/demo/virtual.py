"""The demo's fleet in virtual time: the same requests through the same Router, from their text or from a journal; pure."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from engines.reports import LoadReport, ModelCard, Usage
from engines.simulated.cache import hash_blocks
from engines.simulated.rendering import render_chat
from engines.simulated.tokens import TOKEN_BYTES, count
from gateway.demo.fleet import CHUNK_TOKENS, KV_TOKENS, POLL_S, POOLS, REPLICAS_PER_POOL
from gateway.demo.workload import Arrival
from gateway.journal.lines import JournalLine
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, FirstToken, LoadReported, Outcome
from gateway.simulation.fleet import BLOCK_TOKENS, SimulatedReplica, parse_fleet
from gateway.simulation.routed import RoutedChooser
from gateway.simulation.run import Run, RunResult
from gateway.simulation.trace import Trace, TraceRequest, own_tokens

_ID_BYTES: Final = 8


def virtual_fleet(speed: float) -> tuple[SimulatedReplica, ...]:
    """The demo's replicas, by the names that the gateway gives them."""
    text = ",".join(f"{pool.profile}:{REPLICAS_PER_POOL}@{speed:g}" for pool in POOLS)
    return parse_fleet(text, KV_TOKENS, CHUNK_TOKENS)


def trace_of_texts(arrivals: Sequence[Arrival], speed: float) -> Trace:
    """The requests as the engines' tokens, at the wall's times."""
    requests = []
    for arrival in arrivals:
        prompt = render_chat(arrival.messages, (), "chat")
        requests.append(_request(arrival.at_s / speed, prompt, arrival.answer_tokens, arrival.session))
    return Trace("texts", tuple(requests))


def trace_of_journal(lines: Iterable[JournalLine]) -> Trace:
    """The requests as a journal tells of them. Lines are in order of arrival."""
    content = _Content()
    requests = []
    for number, line in enumerate(lines):
        prompt = content.prompt(number, line)
        requests.append(_request(line.timestamp / 1000, prompt, line.output_length, line.session))
    start = requests[0].at if requests else 0.0
    return Trace("journal", tuple(replace(one, at=one.at - start) for one in requests))


class _Content:
    """Gives every id its own tokens: as many as the first line that had it says, the same for all that follow.

    Lines of one text chain differ in how many tokens an id covers; where a shared prefix ends must not.
    """

    def __init__(self) -> None:
        self._ends: dict[int, int] = {}

    def prompt(self, number: int, line: JournalLine) -> bytes:
        parts = []
        done = 0
        for one in line.full_ids:
            end = self._ends.setdefault(one, done + max(round(line.block_tokens), 1))
            parts.append((one.to_bytes(_ID_BYTES, "little") * ((end - done) // 2 + 1))[: (end - done) * TOKEN_BYTES])
            done = end
        said = b"".join(parts)[: line.input_length * TOKEN_BYTES]
        return said + own_tokens(number, line.input_length - count(said))


def _request(at: float, prompt: bytes, output_tokens: int, session: str | None) -> TraceRequest:
    ids = tuple(int.from_bytes(one[:_ID_BYTES], "little") for one in hash_blocks(prompt, BLOCK_TOKENS, b""))
    return TraceRequest(at, count(prompt), output_tokens, ids, float(BLOCK_TOKENS), session)


def play(trace: Trace, speed: float, seed: int) -> tuple[RunResult, RoutedChooser]:
    """The trace through the Router, guessing what is cached as the demo's gateway does; the chooser knows why."""
    fleet = virtual_fleet(speed)
    chooser = RoutedChooser(fleet, "ttft", seed, events=False)
    chooser.poll_s = POLL_S
    return Run(trace, fleet, chooser).run(), chooser
