"""Workloads of our own making, each from a seed: chats, agents, hot tools, cold bursts, sessions; pure.

Sizes are in tokens and times in seconds before scaling to a load. The shapes are assumptions, chosen to differ in
what they ask of a router; none was fitted to a policy.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import count
from math import exp
from random import Random
from typing import Final

from gateway.simulation.trace import Trace, TraceRequest, in_order

ID_TOKENS: Final = 512


class _Text:
    """Writes content as ids: each call of `fresh` gives ids that nobody else has."""

    def __init__(self, seed: int) -> None:
        self._ids = count(seed * 10_000_000 + 1)

    def fresh(self, tokens: int) -> tuple[int, ...]:
        """Ids of new content, in whole ids, at least one."""
        return tuple(next(self._ids) for _ in range(max(round(tokens / ID_TOKENS), 1)))


def _request(rng: Random, at: float, ids: tuple[int, ...], output: int, session: str | None) -> TraceRequest:
    """The last id is only partly filled, as prompts end anywhere."""
    tokens = len(ids) * ID_TOKENS - rng.randrange(ID_TOKENS)
    return TraceRequest(at, tokens, output, ids, float(ID_TOKENS), session)


def _size(rng: Random, median: float, sigma: float, most: int) -> int:
    """A log-normal size, as lengths of prompts and answers are."""
    return max(1, min(round(median * exp(rng.gauss(0, sigma))), most))


def chat(seed: int, requests: int) -> Trace:
    """Chats over a few system prompts: long-tailed documents, a few turns, pauses of a minute; much is asked once."""
    rng, text = Random(f"chat {seed}"), _Text(seed)
    systems = [text.fresh(size) for size in (512, 1024, 1024, 2048, 4096)]
    made: list[TraceRequest] = []
    start = 0.0
    for number in count():
        if len(made) >= requests:
            break
        start += rng.expovariate(1.6)
        made += _conversation(rng, text, rng.choice(systems), start, f"chat-{number}", most_turns=8)
    return Trace("chat", in_order(made)[:requests])


def _conversation(
    rng: Random, text: _Text, system: tuple[int, ...], start: float, session: str, most_turns: int
) -> Iterator[TraceRequest]:
    at = start
    ids = system + text.fresh(_size(rng, 5000, 1.1, 100_000))
    for _ in range(most_turns):
        output = _size(rng, 250, 0.9, 2000)
        yield _request(rng, at, ids, output, session)
        if rng.random() < 0.6:
            return
        at += output * 0.02 + rng.expovariate(1 / 60)
        ids = ids + text.fresh(output + _size(rng, 700, 1.2, 30_000))
        if len(ids) * ID_TOKENS > 110_000:
            return


def sessions(seed: int, requests: int) -> Trace:
    """Multi-turn sessions: six system prompts, a document each, ten turns at a reader's pace."""
    rng, text = Random(f"sessions {seed}"), _Text(seed)
    systems = [text.fresh(4000) for _ in range(6)]
    made: list[TraceRequest] = []
    start = 0.0
    for number in range(-(-requests // 10)):
        start += rng.expovariate(0.4)
        at, ids = start, rng.choice(systems) + text.fresh(_size(rng, 6000, 0.6, 40_000))
        for _ in range(10):
            output = _size(rng, 300, 0.7, 1500)
            made.append(_request(rng, at, ids, output, f"session-{number}"))
            at += output * 0.02 + rng.expovariate(1 / 30)
            ids = ids + text.fresh(output + _size(rng, 300, 0.8, 4000))
    return Trace("sessions", in_order(made)[:requests])


def agents(seed: int, requests: int) -> Trace:
    """Coding agents: 20 tool sets, prompts that grow past 80,000 tokens, a tool call of seconds between turns."""
    rng, text = Random(f"agents {seed}"), _Text(seed)
    tools = [text.fresh(_size(rng, 12_000, 0.3, 30_000)) for _ in range(20)]
    made: list[TraceRequest] = []
    start = 0.0
    for number in count():
        if len(made) >= requests:
            break
        start += rng.expovariate(0.06)
        at, ids = start, rng.choice(tools) + text.fresh(_size(rng, 30_000, 0.5, 60_000))
        for _ in range(rng.randint(8, 40)):
            output = _size(rng, 250, 0.8, 3000)
            made.append(_request(rng, at, ids, output, f"agent-{number}"))
            at += output * 0.02 + rng.expovariate(1 / 12)
            ids = ids + text.fresh(output + _size(rng, 1200, 1.0, 12_000))
            if len(ids) * ID_TOKENS > 120_000:
                break
    return Trace("agents", in_order(made)[:requests])


def hot_tools(seed: int, requests: int) -> Trace:
    """Two tool prompts of 16,000 tokens carry 45 % of the traffic; the rest are chats."""
    rng, text = Random(f"hot tools {seed}"), _Text(seed)
    tools = [text.fresh(16_000) for _ in range(2)]
    others = chat(seed + 1, round(requests * 0.55)).requests
    span = others[-1].at if others else 1.0
    made = list(others)
    for _ in range(requests - len(others)):
        ids = rng.choice(tools) + text.fresh(_size(rng, 1200, 0.9, 20_000))
        made.append(_request(rng, rng.random() * span, ids, _size(rng, 200, 0.8, 1500), None))
    return Trace("hot-tools", in_order(made))


def cold_bursts(seed: int, requests: int) -> Trace:
    """Documents of about 20,000 tokens that nobody has seen, each asked about by 4 to 24 requests within a second."""
    rng, text = Random(f"cold bursts {seed}"), _Text(seed)
    made: list[TraceRequest] = []
    start = 0.0
    while len(made) < requests:
        start += rng.expovariate(0.15)
        document = text.fresh(_size(rng, 20_000, 0.5, 80_000))
        for _ in range(rng.randint(4, 24)):
            ids = document + text.fresh(_size(rng, 500, 0.8, 4000))
            made.append(_request(rng, start + rng.random(), ids, _size(rng, 150, 0.8, 1000), None))
        for _ in range(rng.randint(0, 10)):
            ids = text.fresh(_size(rng, 4000, 1.0, 60_000))
            made.append(_request(rng, start + rng.random() * 6, ids, _size(rng, 200, 0.8, 1000), None))
    return Trace("cold-bursts", in_order(made)[:requests])


WORKLOADS: Final[Mapping[str, Callable[[int, int], Trace]]] = {
    "chat": chat,
    "sessions": sessions,
    "agents": agents,
    "hot-tools": hot_tools,
    "cold-bursts": cold_bursts,
}
"""By name: makes a trace of so many requests (second argument) from a seed (first)."""
