"""What one gateway has learned is what another one begins with, and no bytes can do harm."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.reports import EngineDescription, LoadReport, ModelCard, Usage
from gateway.routing import knowledge
from gateway.routing.batch import FORMAT
from gateway.routing.calibration import Learned
from gateway.routing.chain import DEFAULT_BLOCK_BYTES, chain
from gateway.routing.decision import Decision, RouteRequest
from gateway.routing.facts import Finished, FirstToken, LoadReported, Outcome, ReplicaUp, ResponseStored
from gateway.routing.knowledge import Curve, Knowledge, KnownPool, KnownReplica, UnreadableError, decoded, encoded
from gateway.routing.replica import PoolSpec, ReplicaSpec
from gateway.routing.router import Router

TEXTS = [bytes([letter]) * (4 + number) * 256 for number, letter in enumerate(b"abcdefghij")]


def router(*urls: str, started_at: float | None = 7.0, kv_tokens: int = 20_000) -> Router:
    specs = tuple(ReplicaSpec(f"r{number}", url) for number, url in enumerate(urls))
    made = Router([PoolSpec("p", "m", specs)])
    for spec in specs:
        made.observe(ReplicaUp(spec.name, 0.0, (ModelCard("m"),), EngineDescription(reports_cached_tokens=True)))
        report = LoadReport(kv_capacity_tokens=kv_tokens, block_tokens=16, started_at=started_at)
        made.observe(LoadReported(spec.name, 0.0, report))
    return made


def ask(made: Router, text: bytes, now: float, replica: str | None = None) -> RouteRequest:
    return RouteRequest("id", "m", chain(b"m", text), True, now, pinned_replica=replica)


def serve(made: Router, text: bytes, now: float, replica: str, quantum: int = 1) -> None:
    answer = made.route(ask(made, text, now, replica), now)
    assert isinstance(answer, Decision)
    made.observe(FirstToken(answer.ticket, now + 0.02 + answer.chosen.prompt_tokens / 50_000))
    cached = answer.chosen.overlap.total
    usage = Usage(len(text) // 5, 3, cached - cached % quantum)
    made.observe(Finished(answer.ticket, now + 0.1, Outcome.COMPLETED, usage))


def experienced(*urls: str) -> Router:
    made = router(*urls)
    for turn in range(60):
        for number in range(len(urls)):
            serve(made, TEXTS[(turn + 3 * number) % 7], turn + number / 10, f"r{number}", quantum=64)
    made.observe(ResponseStored("r0", 60.0, "resp_1"))
    return made


def rows(made: Router, text: bytes) -> list[tuple[int, int, float]]:
    answer = made.preview(ask(made, text, 100.0), 100.0)
    assert isinstance(answer, Decision)
    return [(row.prompt_tokens, row.cached_tokens, row.prefill_ms) for row in answer.candidates]


def test_a_newcomer_predicts_what_the_experienced_does() -> None:
    old, new = experienced("http://a", "http://b"), router("http://a", "http://b")
    new.begin_with(decoded(encoded(old.knowledge()), DEFAULT_BLOCK_BYTES))
    for text in TEXTS:
        for mine, theirs in zip(rows(old, text), rows(new, text), strict=True):
            assert theirs[0] == mine[0]
            assert theirs[1] == pytest.approx(mine[1], abs=64)
            assert theirs[2] == pytest.approx(mine[2], rel=0.1)
    for mine, theirs in zip(old.snapshot(100.0).replicas, new.snapshot(100.0).replicas, strict=True):
        assert theirs.cache.quantum_tokens == mine.cache.quantum_tokens > 1
        assert theirs.cache.confirmed_curve == mine.cache.confirmed_curve
        assert theirs.index_blocks == mine.index_blocks > 0
        assert theirs.curve_observations == mine.curve_observations > 0
    assert new.holder("resp_1") == "r0"
    assert new.snapshot(100.0).series == ()


def test_replicas_are_found_by_their_url_and_others_left_out() -> None:
    old, new = experienced("http://a", "http://b"), router("http://c", "http://b")
    new.begin_with(old.knowledge())
    blocks = [view.index_blocks for view in new.snapshot(0.0).replicas]
    assert blocks == [0, old.snapshot(0.0).replicas[1].index_blocks]
    assert new.holder("resp_1") is None


def test_what_was_learned_already_stays() -> None:
    old, new = experienced("http://a"), router("http://a")
    serve(new, b"z" * 2048, 0.0, "r0")
    before = new.snapshot(1.0).replicas[0]
    new.begin_with(old.knowledge())
    after = new.snapshot(1.0).replicas[0]
    assert after.index_blocks == before.index_blocks + old.snapshot(1.0).replicas[0].index_blocks
    assert after.cache.calibrated_on == before.cache.calibrated_on
    new.begin_with(old.knowledge())
    assert new.snapshot(1.0).replicas[0].index_blocks == after.index_blocks


def test_what_was_used_last_is_forgotten_last() -> None:
    old = router("http://a", kv_tokens=4000)
    for turn, text in enumerate(TEXTS[:5]):
        serve(old, text, float(turn), "r0")
    new = router("http://a", kv_tokens=4000)
    new.begin_with(old.knowledge())
    for text in (TEXTS[0], TEXTS[4]):  # the order in which they are forgotten is the same
        assert [row[1] for row in rows(new, text)] == [row[1] for row in rows(old, text)]
    for made in (old, new):
        for turn in range(5, 10):
            serve(made, TEXTS[turn], float(turn), "r0")
    kept = [[rows(made, text)[0][1] > 0 for text in TEXTS] for made in (old, new)]
    assert kept[0] == kept[1]
    assert False in kept[0]


def test_a_smaller_cache_takes_the_latest_only() -> None:
    old, new = experienced("http://a"), router("http://a", kv_tokens=1000)
    new.begin_with(old.knowledge())
    assert new.snapshot(0.0).replicas[0].index_blocks <= 1000 / 4 + 1


def test_of_another_engine_process_only_its_speed_is_believed() -> None:
    old, new = experienced("http://a"), router("http://a", started_at=8000.0)
    new.begin_with(old.knowledge())
    view = new.snapshot(0.0).replicas[0]
    assert view.index_blocks == view.cache.calibrated_on == 0
    assert view.curve_observations > 0


def test_links_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knowledge, "MOST_LINKS", 20)
    known = experienced("http://a", "http://b").knowledge()
    assert [len(one.links) for one in known.replicas] == [80, 80]


# ── what is of no use ────────────────────────────────────────────────────────────────────────────


def test_another_format_or_block_size_is_refused_in_a_sentence() -> None:
    payload = encoded(experienced("http://a").knowledge())
    with pytest.raises(UnreadableError, match="blocks are of 512 bytes, not 128"):
        decoded(payload, 128)
    fields = msgspec.msgpack.decode(payload)
    for other in ([fields[0] + 1, *fields[1:]], [fields[0] + 1], [99, {"all": "new"}]):
        with pytest.raises(UnreadableError, match="format"):
            decoded(msgspec.msgpack.encode(other), DEFAULT_BLOCK_BYTES)
    for damaged in (b"", b"\x00", payload[:-9], payload[1:], msgspec.msgpack.encode([])):
        with pytest.raises(UnreadableError):
            decoded(damaged, DEFAULT_BLOCK_BYTES)


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(payload: bytes) -> None:
    with pytest.raises(UnreadableError):
        decoded(payload, DEFAULT_BLOCK_BYTES)


COUNTS = st.integers(0, 1 << 40)
WEIGHTS = st.floats(0, 1e15)
SUMS = st.dictionaries(st.integers(0, 60), st.tuples(WEIGHTS, WEIGHTS, WEIGHTS, WEIGHTS), max_size=3)
CURVES = st.builds(Curve, st.floats(1e-3, 1e6), st.floats(1e-6, 1e3), st.floats(0, 1), COUNTS)
LEARNED = st.builds(
    Learned,
    st.tuples(SUMS, SUMS, SUMS),
    st.lists(COUNTS, max_size=70),
    st.lists(COUNTS | st.none(), max_size=70),
    st.lists(st.integers(-(1 << 40), 1 << 40), max_size=70),
    *[COUNTS] * 4,
)
SHARES = st.floats(0.01, 100)
URLS = st.just("http://a") | st.text(max_size=3)
KNOWN = st.builds(
    Knowledge,
    st.just(FORMAT),
    st.just(DEFAULT_BLOCK_BYTES),
    st.lists(
        st.builds(KnownReplica, URLS, st.binary(max_size=50), CURVES, LEARNED, SHARES, st.none() | st.floats()),
        max_size=3,
    ),
    st.lists(
        st.builds(KnownPool, st.sampled_from("pq"), SHARES, st.lists(st.tuples(COUNTS, SHARES), max_size=3), CURVES),
        max_size=3,
    ),
    CURVES,
    st.lists(WEIGHTS, max_size=2) | st.just([1e15] * 64),
    st.lists(WEIGHTS, max_size=2) | st.just([0.0] * 64),
    st.lists(st.tuples(st.text(max_size=3), URLS), max_size=3),
)


@settings(max_examples=200)
@given(KNOWN)
def test_no_figures_do_harm(known: Knowledge) -> None:
    made = router("http://a")
    made.begin_with(decoded(encoded(known), DEFAULT_BLOCK_BYTES))
    made.snapshot(0.0)
    for number in range(3):
        serve(made, TEXTS[number], 1.0, "r0")
    encoded(made.knowledge())


@pytest.mark.parametrize("wrong", [-1.0, 0.0, float("nan"), float("inf")])
def test_figures_beyond_reason_are_refused(wrong: float) -> None:
    known = experienced("http://a").knowledge()
    fleet = msgspec.structs.replace(known.fleet, base_ms=wrong)
    with pytest.raises(UnreadableError):
        decoded(encoded(msgspec.structs.replace(known, fleet=fleet)), DEFAULT_BLOCK_BYTES)
