"""Which requests have a copy, and what waits: within bounds, and the same for all of a prefix family."""

from dataclasses import dataclass
from random import Random
from typing import Any

import pytest

from gateway.config import ConfigError, build
from gateway.config.shadows import ShadowConfig
from gateway.routing.candidates import Candidate
from gateway.routing.chain import chain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, Outcome
from gateway.serving.shadowing.mirror import Copied, Mirror
from gateway.serving.shadowing.shadows import MOST_BODY_BYTES, MOST_BYTES, MOST_WAITING, Line, Shadows
from gateway.serving.shadowing.tally import Fate
from gateway.wire.request import Endpoint, InferenceRequest


class Sender:
    """Sends nothing, and notes what it could."""

    def __init__(self) -> None:
        self.asked: list[Line] = []
        self.settled: list[Mirror] = []

    def send(self, line: Line) -> None:
        self.asked.append(line)

    def settle(self, line: Line, mirror: Mirror) -> None:
        self.settled.append(mirror)


@dataclass
class World:
    shadows: Shadows
    sender: Sender

    def offer(self, family: int = 0, *, pool: str = "p", model: str = "m", **more: Any) -> int:
        """How many copies the request may have."""
        made = copied(family, **more)
        return len(self.shadows.offer(made, decision(pool, model)))


def copied(
    family: int = 0, body: bytes = b"{}", endpoint: Endpoint = Endpoint.CHAT, name: str = "r", **more: Any
) -> Copied:
    fields = {"names_request": more.pop("names_request", False), "previous_response_id": more.pop("previous", None)}
    request = InferenceRequest(endpoint, "m", True, None, **fields)
    prefix = chain(b"m", family.to_bytes(4, "big") * 300, 512) if family >= 0 else chain(b"m", b"short", 512)
    return Copied(endpoint, [], body, request, None, RouteRequest(name, "m", prefix, True, 0.0, **more))


def decision(pool: str, model: str) -> Decision:
    fields = dict.fromkeys(Candidate.__struct_fields__, 0)
    chosen = Candidate(**(fields | {"replica": f"{pool}-0", "pool": pool}))
    return Decision(1, "r", "ttft", model, (chosen,), chosen, 0)


def world(*configs: ShadowConfig) -> World:
    shadows, sender = Shadows(lambda: 0.0, Random(1)), Sender()
    shadows.configure(configs or [ShadowConfig("s", "q", 1.0)])
    shadows.sender = sender
    return World(shadows, sender)


def test_a_request_has_a_copy() -> None:
    it = world()
    assert it.offer() == 1
    [line] = it.shadows.lines
    assert it.sender.asked == [line]
    assert len(line.waiting) == 1
    mirror = line.next()
    assert mirror is not None
    assert (len(line.waiting), line.bytes) == (0, 0)


def test_a_family_is_copied_as_a_whole_and_the_share_is_kept() -> None:
    it = world(ShadowConfig("s", "q", 0.25, max_inflight=1))
    [line] = it.shadows.lines
    made = {family: line.wants(copied(family, name="a"), decision("p", "m")) for family in range(2000)}
    assert 0.21 < sum(made.values()) / len(made) < 0.29
    assert all(line.wants(copied(family, name=f"b{family}"), decision("p", "m")) is made[family] for family in made)
    short = [line.wants(copied(-1, name=str(number)), decision("p", "m")) for number in range(2000)]
    assert 0.21 < sum(short) / len(short) < 0.29


def test_prompts_that_all_begin_alike_are_no_single_family() -> None:
    """A system prompt that everybody has, and a conversation of one's own after it."""
    line = Line(ShadowConfig("s", "q", 0.25), None)  # type: ignore[arg-type]
    system = b"You are a helpful assistant. " * 100

    def wanted(user: int, turn: int) -> bool:
        text = system + b"%08d" % user * 800 + b"and then " * turn * 200
        request = InferenceRequest(Endpoint.CHAT, "m", True, None)
        asked = RouteRequest(f"{user}-{turn}", "m", chain(b"m", text, 512), True, 0.0)
        return line.wants(Copied(Endpoint.CHAT, [], b"{}", request, None, asked), decision("p", "m"))

    first = [wanted(user, 1) for user in range(1000)]
    assert 0.2 < sum(first) / len(first) < 0.3
    assert [wanted(user, 2) for user in range(1000)] == first


def test_two_shadows_draw_for_themselves() -> None:
    one, other = (Line(ShadowConfig(name, "q", 0.5), None) for name in "ab")  # type: ignore[arg-type]
    pairs = [tuple(line.wants(copied(family), decision("p", "m")) for line in (one, other)) for family in range(400)]
    assert min(pairs.count(pair) for pair in ((True, True), (True, False), (False, True), (False, False))) > 60


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_none_and_all(share: float) -> None:
    it = world(ShadowConfig("s", "q", share))
    assert sum(it.offer(family) for family in range(MOST_WAITING)) == share * MOST_WAITING


def test_who_has_none() -> None:
    it = world()
    assert it.offer(pool="q") == 0, "it is there already"
    assert it.offer(endpoint=Endpoint.RESPONSES) == it.offer(endpoint=Endpoint.EMBEDDINGS) == 0
    assert it.offer(names_request=True) == it.offer(previous="x") == 0
    assert it.offer(pinned_pool="p") == it.offer(pinned_replica="p-0") == 0
    assert it.offer(body=bytes(MOST_BODY_BYTES + 1)) == 0
    it.shadows.sender = None
    assert it.offer() == 0
    assert not it.shadows.lines[0].waiting


def test_from_models_and_tenants() -> None:
    it = world(ShadowConfig("s", "q", 1.0, from_pools=["p"], models=["m"], tenants=["t"]))
    assert it.offer(tenant="t") == 1
    assert it.offer(tenant="t", pool="o") == it.offer(tenant="t", model="n") == it.offer(tenant="u") == 0


def test_so_many_wait_and_no_more() -> None:
    it = world()
    assert sum(it.offer(family) for family in range(MOST_WAITING + 5)) == MOST_WAITING
    [figures] = it.shadows.figures()
    assert figures.counts["dropped_full"] == 5
    large = world()
    body = bytes(MOST_BODY_BYTES)
    assert sum(large.offer(family, body=body) for family in range(50)) == MOST_BYTES // MOST_BODY_BYTES
    [line] = large.shadows.lines
    assert line.bytes == MOST_BYTES


def test_so_many_are_in_flight_and_no_more() -> None:
    it = world(ShadowConfig("s", "q", 1.0, max_inflight=2))
    for family in range(5):
        it.offer(family)
    [line] = it.shadows.lines
    begun = []
    while (mirror := line.next()) is not None:
        line.inflight.add(mirror)
        begun.append(mirror)
    assert len(begun) == 2
    line.inflight.discard(begun[0])
    assert line.next() is not None


def test_whose_client_has_left_is_not_sent() -> None:
    it = world()
    [gone] = it.shadows.offer(copied(1), decision("p", "m"))
    [stays] = it.shadows.offer(copied(2), decision("p", "m"))
    gone.learn(Finished(1, 1.0, Outcome.CLIENT_GONE))
    [line] = it.shadows.lines
    assert line.next() is stays
    assert line.tally.counts[Fate.ABANDONED] == 1
    assert it.sender.settled == []


def test_a_reload_keeps_counts_and_forgets_who_waits() -> None:
    it = world()
    for family in range(MOST_WAITING + 1):
        it.offer(family)
    it.shadows.configure([ShadowConfig("s", "q", 0.5, max_inflight=1), ShadowConfig("t", "q", 1.0)])
    first, second = it.shadows.figures()
    assert (first.counts["dropped_full"], first.waiting, first.share) == (1, 0, 0.5)
    assert second.counts["dropped_full"] == 0
    it.shadows.configure([ShadowConfig("s", "o", 0.5)])
    [moved] = it.shadows.figures()
    assert moved.counts["dropped_full"] == 0, "another pool's figures are others"
    it.shadows.configure([])
    assert it.shadows.lines == ()


POOLS = [{"name": name, "engine": "vllm", "replicas": [f"http://{name}"]} for name in "pq"]
GOOD = {"name": "s", "to": "q", "share": 0.1}


def test_the_configuration() -> None:
    config = build({"pools": POOLS, "shadows": [GOOD | {"from": ["p"], "compare": "text", "max_inflight": 3}]})
    assert config.shadows == [ShadowConfig("s", "q", 0.1, "text", 3, ["p"])]
    assert [notice for notice in config.notices() if "shadow" in notice] == [
        "shadow `s`: its pool `q` gets clients' requests too, unless it is pinned_only"
    ]
    apart = build({"pools": [POOLS[0], POOLS[1] | {"pinned_only": True}], "shadows": [GOOD]})
    assert not any("shadow" in notice for notice in apart.notices())
    noted = build({"pools": POOLS, "shadows": [GOOD | {"compare": "text"}], "retry": {"continue_streams": False}})
    assert any("shadow `s`: streams are not compared" in notice for notice in noted.notices())


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"to": "z"}, "shadow `s`: to `z` is not known"),
        ({"share": 1.5}, "shadow `s`: share must be between 0 and 1"),
        ({"compare": "texts"}, "did you mean `text`?"),
        ({"max_inflight": 0}, "shadow `s`: max_inflight must be between 1 and 1000"),
        ({"from": ["x"]}, "shadow `s`: from `x` is not known"),
        ({"from": ["q"]}, "from must not name the pool that the copies go to"),
        ({"from_pools": ["p"]}, "unknown key `from_pools` in [shadows]"),
        ({"fro": ["p"]}, "did you mean `from`?"),
        ({"tenants": ["x"]}, "shadow `s`: tenants `x` is not known"),
        ({"name": "a b"}, "shadow `a b`: a name is letters"),
    ],
)
def test_what_is_wrong_with_it(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError) as said:
        build({"pools": POOLS, "shadows": [GOOD | change]})
    assert complaint in str(said.value)


def test_two_of_one_name() -> None:
    with pytest.raises(ConfigError, match="there are two of that name"):
        build({"pools": POOLS, "shadows": [GOOD, GOOD]})
