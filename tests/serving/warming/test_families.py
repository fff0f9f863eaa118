"""Which prompts are kept: those of the families in most use, within bounds."""

from gateway.config import build
from gateway.routing.chain import chain
from gateway.routing.decision import RouteRequest
from gateway.serving.warming.families import (
    CANDIDATES,
    HALF_LIFE_S,
    MOST_BODY_BYTES,
    MOST_BYTES,
    HotFamilies,
    wanted_families,
)
from gateway.wire.request import Endpoint


def asked(family: int, name: str = "r") -> RouteRequest:
    return RouteRequest(name, "m", chain(b"m", bytes([family]) * 1024, 512), True, 0.0)


def note(hot: HotFamilies, family: int, now: float, body: bytes = b"{}") -> None:
    hot.note("p", asked(family), Endpoint.CHAT, body, now)


def hottest(hot: HotFamilies, now: float) -> list[int | None]:
    known = {asked(family).chain.family: family for family in range(100)}
    return [known[one.asked.chain.family] for one in hot.hottest("p", now)]


def test_the_hottest_are_those_used_most_and_latest() -> None:
    hot = HotFamilies({"p": 2})
    for family in (1, 2, 1, 3, 1, 2):
        note(hot, family, 0.0)
    assert hottest(hot, 0.0) == [1, 2]
    for _ in range(2):
        note(hot, 3, 3 * HALF_LIFE_S)
    assert hottest(hot, 3 * HALF_LIFE_S) == [3, 1]
    assert hot.hottest("q", 0.0) == []


def test_the_latest_request_is_kept() -> None:
    hot = HotFamilies({"p": 2})
    note(hot, 1, 0.0, b"first")
    note(hot, 1, 1.0, b"second")
    assert [one.body for one in hot.hottest("p", 1.0)] == [b"second"]


def test_what_is_kept_is_bounded() -> None:
    hot = HotFamilies({"p": 2})
    for family in range(50):
        note(hot, family, float(family))
    assert len(hot._pools["p"]) == CANDIDATES * 2
    assert hot._bytes["p"] == 2 * CANDIDATES * 2
    large = bytes(MOST_BODY_BYTES)
    wide = HotFamilies({"p": 1000})
    for family in range(40):
        note(wide, family, 0.0, large)
        note(wide, family, 0.0, large)
    assert wide._bytes["p"] == sum(len(one.body) for one in wide._pools["p"].values()) == MOST_BYTES
    before = wide._bytes["p"]
    note(wide, 99, 0.0, large + b"x")
    wide.note("other", asked(98), Endpoint.CHAT, b"{}", 0.0)
    wide.note("p", asked(98), Endpoint.EMBEDDINGS, b"{}", 0.0)
    wide.note("p", RouteRequest("r", "m", chain(b"m", b"short", 512), True, 0.0), Endpoint.CHAT, b"{}", 0.0)
    assert wide._bytes["p"] == before


def test_nothing_is_kept_unless_that_is_asked_for() -> None:
    pool = {"name": "p", "engine": "vllm", "replicas": ["http://a"]}
    assert wanted_families(build({"pools": [pool]})) == {}
    assert wanted_families(build({"pools": [{**pool, "warm_families": 3}]})) == {"p": 3}


def test_what_is_kept_stays_when_another_pool_is_wanted_too_and_goes_with_its_own() -> None:
    hot = HotFamilies({"p": 2})
    hot.note("p", asked(1), Endpoint.CHAT, b"{}", 0.0)
    hot.want({"p": 2, "q": 1})
    hot.note("q", asked(2), Endpoint.CHAT, b"{}", 0.0)
    assert (len(hot.hottest("p", 0.0)), len(hot.hottest("q", 0.0))) == (1, 1)
    hot.proven = frozenset({"q"})
    assert hot.hottest("q", 0.0) == []  # it was used once
    hot.note("q", asked(2), Endpoint.CHAT, b"{}", 1.0)
    assert len(hot.hottest("q", 1.0)) == 1
    hot.want({"p": 2})
    assert (len(hot.hottest("p", 1.0)), hot.hottest("q", 1.0)) == (1, [])
