"""What breaks a prefix is found and named, and nothing of a prompt is kept or shown."""

from collections.abc import Callable, Sequence
from itertools import count
from random import Random

import msgspec
import pytest

from engines.reports import Usage
from gateway.routing.chain import chain
from gateway.routing.decision import RouteRequest
from gateway.serving.prefixes import sampler as of_sampler
from gateway.serving.prefixes.near_miss import Breaker, near_miss
from gateway.serving.prefixes.sampler import BURST, Finding, Sampler, ranked
from gateway.serving.prefixes.sketch import HEAD_BYTES, Place, sketch
from gateway.wire.request import Endpoint, parse

THINGS = ("order", "bill", "parcel", "refund", "price", "shop", "guarantee", "delivery", "return", "gift")
RULES = [f"Rule {thing}: the customer is told about the {thing}, politely and in order." for thing in THINGS * 4]
DESCRIPTION = "Does one thing, and does it well. " * 3
TOOLS = [{"type": "function", "function": {"name": f"tool_{n}", "description": DESCRIPTION}} for n in range(20)]
SECRET = "hunter2-is-my-password"


def head(system: str, tools: Sequence[object] = ()) -> tuple[bytes, bytes]:
    messages = [{"role": "system", "content": system}, {"role": "user", "content": "Hello"}]
    body = msgspec.json.encode({"model": "m", "messages": messages, "tools": list(tools)})
    prompt = parse(Endpoint.CHAT, body).prompt
    assert prompt is not None
    return prompt.text, prompt.namespace


def shop(line: str) -> str:
    return "\n".join((line, *RULES))


@pytest.mark.parametrize(
    ("breaker", "one", "other"),
    [
        (Breaker.TIMESTAMP, "It is 2026-11-29T17:24:01Z.", "It is 2026-11-30T08:00:59Z."),
        (Breaker.TIMESTAMP, "Today is Sunday, 29 November 2026.", "Today is Monday, 30 November 2026."),
        (Breaker.TIMESTAMP, "now=1795974612", "now=1795999999"),
        (
            Breaker.IDENTIFIER,
            "session 6f1c2a34-1111-4222-8333-0123456789ab",
            "session 7a1c2a34-1111-4222-8333-0123456789ab",
        ),
        (Breaker.IDENTIFIER, "request_id=9f86d081884c7d659a2feaa0", "request_id=0c55ad015a3bf4f1b2b0b822"),
        (Breaker.NUMBER, "You have 12 messages.", "You have 7 messages."),
        (Breaker.VALUES, "User 12 at 17:24:01.", "User 7 at 08:00:59."),
        (Breaker.LINE, "You talk with Ada.", "You talk with Grace, from Arlington."),
    ],
)
def test_what_differs_is_named(breaker: Breaker, one: str, other: str) -> None:
    miss = near_miss(sketch(*head(shop(one))), sketch(*head(shop(other))))
    assert miss is not None
    assert (miss.breaker, miss.place) == (breaker, Place("system", 1))
    assert miss.at < 64
    assert miss.shared_bytes > 0.9 * len("\n".join(RULES))


def test_the_order_of_tools_and_of_parts() -> None:
    shuffled = TOOLS[:]
    Random(1).shuffle(shuffled)
    tools = near_miss(sketch(*head("Be kind.", TOOLS)), sketch(*head("Be kind.", shuffled)))
    assert tools is not None
    assert (tools.breaker, tools.place.name) == (Breaker.TOOL_ORDER, "tools")
    rules = [f"Rule {thing}: it is told at length, kindly, politely and in order." * 3 for thing in THINGS]
    one, other = "\n".join(rules), "\n".join(reversed(rules))
    parts = near_miss(sketch(*head(one + "\n")), sketch(*head(other + "\n")))
    assert parts is not None
    assert parts.breaker == Breaker.ORDER


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (shop("Be kind."), shop("Be kind.")),
        (shop("Be kind."), shop("Be kind.") + "\nMore."),
        ("It is 10:00.\nHello.", "It is 11:00.\nHello."),
        ("a" * 5000, "b" * 5000),
    ],
)
def test_no_near_miss(one: str, other: str) -> None:
    """Equal, going on, short, and without anything in common."""
    assert near_miss(sketch(*head(one)), sketch(*head(other))) is None


def test_caches_that_share_nothing_cannot_miss_each_other() -> None:
    text, namespace = head(shop("It is 10:00."))
    other, _ = head(shop("It is 11:00."))
    assert near_miss(sketch(text, namespace), sketch(other, namespace + b"salt")) is None


def told(sampler: Sampler, system: str, at: float, cached: int = 0, tools: Sequence[object] = ()) -> None:
    text, namespace = head(system, tools)
    specimen = sampler.take(
        parse(
            Endpoint.CHAT, msgspec.json.encode({"model": "m", "messages": [{"role": "system", "content": system}]})
        ).prompt,
        at,
    )
    asked = RouteRequest(f"r{at}", "m", chain(namespace, text), True, at)
    sampler.saw(asked)
    if specimen is not None:
        specimen.asked = asked
        sampler.note(specimen, Usage(len(text) // 4, 1, cached), at)


def test_findings_are_ranked_by_what_they_waste_and_hold_no_text() -> None:
    sampler, at = Sampler(), count(step=10)
    for number in range(6):
        told(sampler, shop(f"It is 2026-11-29 10:0{number}:00. {SECRET}"), next(at))
    first = sampler.findings()
    assert [one.breaker for one in first] == [Breaker.TIMESTAMP]
    [finding] = first
    assert (finding.samples, finding.requests, finding.position_tokens) == (5, 5, pytest.approx(2, abs=2))
    assert 5 * 500 < finding.wasted_tokens < 5 * 1000
    assert SECRET not in msgspec.json.encode(first).decode()
    assert not any(SECRET.encode() in bytes(part) for kept in sampler._sketches for part in kept[:6])
    assert ranked([*first, *first])[0].samples == 10


def test_what_was_cached_is_not_wasted() -> None:
    sampler, at = Sampler(), count(step=10)
    for number in range(4):
        told(sampler, shop(f"It is 10:0{number}."), next(at), cached=100_000)
    assert sampler.findings() == ()


def test_few_are_sampled_and_little_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_sampler, "SKETCHES", 8)
    monkeypatch.setattr(of_sampler, "FAMILIES", 20)
    sampler = Sampler()
    for number in range(100):
        told(sampler, shop(f"You talk with customer of kind {number}."), 0.001 * number)
    assert sampler.seen == 100
    assert sampler.sampled <= BURST + 1
    for number in range(40):
        told(sampler, f"{number} " * 600, 1e6 + 10 * number)
    assert len(sampler.latest) == 20
    assert len(sampler._sketches) == 8
    assert set(map(id, sampler._owners.values())) <= set(map(id, sampler._sketches))


def test_hostile_prompts_are_sketched_in_bounds() -> None:
    rng = Random(1)
    for make in (
        lambda: rng.randbytes(HEAD_BYTES),
        lambda: b"1" * HEAD_BYTES,
        lambda: b"a-1_" * (HEAD_BYTES // 4),
        lambda: b"\xff" * HEAD_BYTES,
        bytes,
    ):
        made: Callable[[], bytes] = make
        seen = sketch(made(), b"")
        assert len(seen.raw) == len(seen.ends) == len(seen.values) <= 250
        assert list(seen.ends) == sorted(seen.ends)


def test_a_finding_is_plain_data() -> None:
    assert {field.name for field in msgspec.structs.fields(Finding)} == {
        *("theme", "breaker", "place", "turn", "position_tokens", "samples", "requests", "wasted_tokens", "families"),
        *("last_at", "sentence"),
    }
