"""A pool whose replicas run chunks of two sizes: long uncached prompts go where they take less time."""

import pytest

from engines.reports import PrefillSettings
from gateway.routing.curves import ENOUGH, LONG_TOKENS, PrefillCurve, rechunked
from gateway.routing.decision import Decision
from gateway.routing.recent import WINDOW_S

LONG, SHORT = LONG_TOKENS * 4, 400
RELOAD_MS = 116.0
"""What beginning another chunk costs in this test's engines: 7 % of the prior's 24k TTFT."""


def prefill_ms(tokens: int, chunk: int) -> float:
    return 17.0 + tokens * 0.0526 + RELOAD_MS * ((tokens - 1) // chunk)


@pytest.fixture
def mixed(drive, pool_of):
    """Replicas small and large, of which nothing is known but their chunk."""
    driver = drive(pool_of("p", "small", "large"))
    for name, chunk in (("small", 8192), ("large", 16_384)):
        driver.up(name, prefill=PrefillSettings(chunk_tokens=chunk))
    return driver


def serve(driver, text: str) -> str:
    """One streamed request, served as its replica's chunk has it; where it went."""
    decision = driver.route(text)
    assert isinstance(decision, Decision)
    replica = decision.chosen.replica
    chunk = 8192 if replica == "small" else 16_384
    driver.first_token(decision, prefill_ms(decision.chosen.prompt_tokens - decision.chosen.cached_tokens, chunk))
    driver.finish(decision)
    return replica


def text(number: int, size: int) -> str:
    return f"{number:06d} " + "x" * (size - 7)


def test_at_first_the_chunk_decides(mixed):
    rows = {row.replica: row for row in mixed.route(text(1, LONG)).candidates}
    assert rows["large"].prefill_ms == pytest.approx(0.93 * rows["small"].prefill_ms, rel=0.01)


def test_long_prompts_go_to_the_large_chunk(mixed):
    """Alternating sizes, one at a time: after both are known, each long prompt finds the large one better."""
    went = []
    for number in range(200):
        went.append(serve(mixed, text(2 * number, LONG)))
        serve(mixed, text(2 * number + 1, SHORT))
    assert went[-100:].count("large") >= 90
    small = mixed.router._fleet.replica("small")
    large = mixed.router._fleet.replica("large")
    assert large.curve.predict_ms(LONG_TOKENS) < small.curve.predict_ms(LONG_TOKENS)


def test_a_smaller_chunk_is_not_believed_to_be_slow_before_it_was_measured():
    known = PrefillCurve()
    known.observations = ENOUGH
    assert rechunked(known, 8192, 2048).predict_ms(20_000) == known.predict_ms(20_000)
    assert rechunked(known, 8192, 16_384).predict_ms(LONG_TOKENS) == pytest.approx(0.93 * known.predict_ms(LONG_TOKENS))


def test_another_chunk_is_another_curve_and_the_old_ones_is_there_when_it_comes_back(drive, pool_of):
    driver = drive(pool_of("p", "r", "s"))
    driver.up("r", "s", prefill=PrefillSettings(chunk_tokens=8192))
    replica = driver.router._fleet.replica("r")
    for number in range(3 * ENOUGH):
        decision = driver.route(text(number, 40_000), pinned_replica="r")
        driver.first_token(decision, 3000)
        driver.finish(decision)
    slow = replica.curve.predict_ms(10_000)
    driver.up("r", prefill=PrefillSettings(chunk_tokens=16_384))
    assert replica.curves[0].observations == 0
    assert driver.router.prefills("r") == ()
    assert replica.curve.predict_ms(10_000) < slow  # as a larger chunk should be, by what is known of the smaller
    assert driver.router._fleet.replica("s").curve.predict_ms(10_000) == pytest.approx(slow, rel=0.05)
    driver.up("r", prefill=PrefillSettings(chunk_tokens=8192))
    assert replica.curve.predict_ms(10_000) == pytest.approx(slow, rel=0.05)
    view = driver.router.snapshot(driver.now).pools[0]
    assert [one.chunk_tokens for one in view.curves] == [8192, 16_384]


def test_the_same_chunk_again_changes_nothing(mixed):
    small = mixed.router._fleet.replica("small")
    for number in range(ENOUGH):
        decision = mixed.route(text(number, 4000), pinned_replica="small")
        mixed.first_token(decision, 100)
        mixed.finish(decision)
    before = small.curve.predict_ms(5000)
    mixed.up("small", prefill=PrefillSettings(chunk_tokens=8192))
    mixed.up("small")  # it does not say now
    assert small.curve.predict_ms(5000) == before
    assert len(mixed.router.prefills("small")) == ENOUGH


def test_peaks_and_preemptions_are_of_the_last_hour(mixed):
    mixed.load("small", kv_usage=0.9, preemptions_total=10)
    mixed.now += 60
    mixed.load("small", kv_usage=0.2, preemptions_total=12)

    def seen():
        recent = next(one.recent for one in mixed.router.snapshot(mixed.now).replicas if one.name == "small")
        return recent.kv_peak, recent.preemptions

    assert seen() == (0.9, 2)
    mixed.now += WINDOW_S - 60
    mixed.load("small", kv_usage=0.3, preemptions_total=0)  # another process
    assert seen() == (0.3, 2)
    mixed.now += 120
    mixed.load("small", kv_usage=0.1, preemptions_total=1)
    assert seen() == (0.3, 1)
