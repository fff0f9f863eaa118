"""How like the live fleet and the simulated one are: the same requests sent to both, decision by decision; does I/O."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import msgspec

from gateway.demo.fleet import flush, gateway, simulated_engines
from gateway.demo.open_loop import Answered, delay_ms, send_all
from gateway.demo.virtual import POLICY, Played, play, retell, shaken, trace_of, virtual_fleet
from gateway.demo.workload import Arrival, Shape, arrivals
from gateway.journal.lines import read_journal
from gateway.routing.decision import Decision
from gateway.routing.scoreboard import RECENT_REQUESTS
from gateway.serving.explanation import CandidateView, Explanation
from gateway.simulation.reading import read_trace
from gateway.simulation.trace import load_of


@dataclass(frozen=True, slots=True)
class Difference:
    """The first request that went to different replicas: the candidates of both, in the fleet's order."""

    number: int
    live: tuple[CandidateView, ...]
    simulated: Decision


@dataclass(frozen=True, slots=True)
class Side:
    """One side's figures. Times are milliseconds to first token on the engines' clock; `agreed` is the share of
    requests that went where they went live, 1 for the live side.
    """

    name: str
    agreed: float
    hit_rate: float
    ttfts_ms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Likeness:
    """One comparison.

    `retold` is the share of decisions that a Router repeats when the past is the journal's; `unshaken` the share of the
    simulation's own that stay when requests come a few milliseconds later (`shaken`), which no likeness can be expected
    to exceed by much. `delay_ms` is the wall's time that sockets and processes add to a request, measured before;
    `late_ms` the most that one was sent late.
    """

    seed: int
    speed: float
    load: float
    requests: int
    delay_ms: float
    late_ms: float
    sides: tuple[Side, ...]
    """Live first, then simulated from the texts, then from the live run's journal."""
    retold: float
    unshaken: float
    difference: Difference | None
    """Of the texts' side."""


async def compare(shape: Shape, seed: int, speed: float, load: float | None = None) -> Likeness:
    """Send the workload to the live fleet, then play it in virtual time.

    `load` stretches it to so much of the fleet's prefill capacity (see `load_of`); None leaves the demo's own pace.
    Raises StartError when the fleet does not start, ValueError when a request fails.
    """
    asked = arrivals(shape, seed)
    fleet = virtual_fleet(speed)
    own_load = load_of(trace_of(asked, speed), fleet)
    if load is not None:
        asked = [replace(one, at_s=one.at_s * own_load / load) for one in asked]
    live = await _live(asked, speed)
    trace = trace_of(asked, speed)
    _check(live, [request.tokens for request in trace.requests])
    delayed = virtual_fleet(speed, live.delay_ms)
    lines = read_journal(live.journal).lines
    recorded = read_trace(live.journal, "journal").trace
    played, replayed = play(trace, delayed), play(recorded, delayed)
    went = [answer.replica for answer in live.answers]
    retold = [decision.chosen.replica for decision in retell(recorded, lines, delayed)]
    return Likeness(
        seed=seed,
        speed=speed,
        load=own_load if load is None else load,
        requests=len(asked),
        delay_ms=live.delay_ms,
        late_ms=max(answer.late_s for answer in live.answers) * 1000,
        sides=(
            _live_side(live.answers, speed),
            _side("simulated from the texts", went, played, speed),
            _side("simulated from the journal", [line.replica for line in lines], replayed, speed),
        ),
        retold=_agreed([line.replica for line in lines], retold),
        unshaken=_agreed(played.replicas, shaken(trace, delayed, seed)),
        difference=_difference(live, played),
    )


@dataclass(frozen=True, slots=True)
class _Live:
    """A live run: answers and explanations by number, and the journal's text by lines."""

    answers: list[Answered]
    explained: dict[int, Explanation]
    journal: list[bytes]
    delay_ms: float


async def _live(asked: Sequence[Arrival], speed: float) -> _Live:
    profiles = [replica.profile for replica in virtual_fleet(speed)]
    with tempfile.TemporaryDirectory(prefix="prefixgate-likeness-") as folder:
        journal = Path(folder) / "journal.jsonl"
        async with simulated_engines(speed) as engines:
            added_ms = await delay_ms(engines, profiles, asked[0])
            await flush(engines)
            async with gateway(engines, POLICY, 0, journal) as (url, admin_url):
                answers = await send_all(url, asked, speed)
                explained = await _explanations(admin_url)
        return _Live(answers, explained, journal.read_bytes().splitlines(keepends=True), added_ms)


async def _explanations(admin_url: str) -> dict[int, Explanation]:
    """Of the latest requests, by number."""
    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        answer = await client.get(f"{admin_url}/api/requests", params={"limit": RECENT_REQUESTS})
    explanations = msgspec.json.decode(answer.content, type=list[Explanation])
    return {int(one.request_id): one for one in explanations if one.request_id is not None}


def _check(live: _Live, tokens: Sequence[int]) -> None:
    """Raises ValueError where the two sides were not asked the same."""
    counted = [answer.usage.prompt_tokens for answer in live.answers]
    if counted != list(tokens):
        raise ValueError("the engines count other tokens than the simulation has: nothing is comparable")


def _live_side(answers: Sequence[Answered], speed: float) -> Side:
    cached = sum(answer.usage.cached_tokens or 0 for answer in answers)
    prompt = sum(answer.usage.prompt_tokens for answer in answers)
    return Side("live", 1.0, cached / prompt, tuple(answer.ttft_s * 1000 * speed for answer in answers))


def _side(name: str, went: Sequence[str], played: Played, speed: float) -> Side:
    cached = sum(one.cached_tokens for one in played.served)
    prompt = sum(one.tokens for one in played.served)
    times = tuple(one.ttft_s * 1000 * speed for one in played.served)
    return Side(name, _agreed(went, played.replicas), cached / prompt, times)


def _agreed(went: Sequence[str], goes: Sequence[str]) -> float:
    return sum(one == other for one, other in zip(went, goes, strict=True)) / len(went)


def _difference(live: _Live, played: Played) -> Difference | None:
    for answer, replica in zip(live.answers, played.replicas, strict=True):
        if answer.replica != replica:
            explanation, decision = live.explained.get(answer.number), played.decisions.get(answer.number)
            if explanation is None or decision is None:
                return None
            return Difference(answer.number, explanation.candidates, decision)
    return None
