"""The cache-broken detector: what convicts a replica, what does not, and what acquits it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.detector import LEAST_TOKENS, RECOVERED, REQUESTS, BrokenCache, CacheWatch


def watched(*pairs: tuple[int, int]) -> CacheWatch:
    """A watch that saw so many believed and delivered tokens, a second apart."""
    watch = CacheWatch()
    for second, (believed, delivered) in enumerate(pairs):
        watch.observe(believed, delivered, float(second))
    return watch


def broken() -> CacheWatch:
    return watched(*[(9000, 0)] * REQUESTS)


def test_ten_requests_that_should_have_hit_and_did_not_are_a_broken_cache() -> None:
    assert watched(*[(9000, 0)] * (REQUESTS - 1)).broken is None
    assert broken().broken == BrokenCache(since=9.0, requests=10, believed_tokens=90_000, delivered_tokens=0)


def test_the_evidence_is_said_in_figures() -> None:
    evidence = watched(*[(9000, 0)] * 9, (9000, 4000)).broken
    assert evidence == BrokenCache(since=9.0, requests=10, believed_tokens=90_000, delivered_tokens=4000)
    for figure in ("90,000", "4,000", "10 requests"):
        assert figure in evidence.sentence


def test_short_prompts_prove_nothing() -> None:
    assert watched(*[(LEAST_TOKENS - 1, 0)] * 100).broken is None
    assert watched(*[(LEAST_TOKENS, 0)] * REQUESTS).broken is not None
    mixed = [(9000, 0), (300, 0), (0, 0)] * (REQUESTS - 1)
    assert watched(*mixed).broken is None, "nine that count, whatever stands between"
    assert watched(*mixed, (9000, 0)).broken is not None


@pytest.mark.parametrize(
    "pairs",
    [
        [(9000, 9000)] + [(9000, 0)] * 9,
        [(9000, 500)] * 30,
        [(9000, 0)] * 9 + [(0, 9000)],
        ([(9000, 0)] * 9 + [(9000, 9000)]) * 5,
    ],
    ids=["one hit of ten", "a little each time", "an unexpected hit", "a hit now and then"],
)
def test_an_engine_that_hits_now_and_then_is_not_broken(pairs: list[tuple[int, int]]) -> None:
    """It may be full, or serve others too; that is for calibration."""
    assert watched(*pairs).broken is None


def test_it_is_broken_since_it_was_found_so_and_the_evidence_goes_on() -> None:
    evidence = watched(*[(9000, 0)] * 10, *[(5000, 10)] * 10).broken
    assert evidence == BrokenCache(since=9.0, requests=10, believed_tokens=50_000, delivered_tokens=100)


def test_three_hits_in_a_row_acquit() -> None:
    watch = broken()
    for hit in range(RECOVERED):
        assert watch.broken is not None
        watch.observe(9000, 5000, 20.0 + hit)
    assert watch.broken is None
    for _ in range(REQUESTS - 1):
        watch.observe(9000, 0, 30.0)
    assert watch.broken is None, "old evidence is not used again"


def test_hits_that_nobody_expected_acquit_too() -> None:
    """Beliefs are withdrawn where they came to nothing, so that most hits after a repair are unexpected ones."""
    watch = broken()
    for _ in range(RECOVERED):
        watch.observe(0, 4000, 20.0)
    assert watch.broken is None


@pytest.mark.parametrize("poor", [(9000, 4000), (9000, 0)])
def test_a_poor_one_in_between_does_not_acquit(poor: tuple[int, int]) -> None:
    watch = broken()
    for pair in ((9000, 9000), (9000, 9000), poor, (9000, 9000), (9000, 9000), poor):
        watch.observe(*pair, 20.0)
        assert watch.broken is not None


def test_a_new_process_is_innocent() -> None:
    watch = broken()
    watch.forget()
    assert watch.broken is None
    watch.observe(9000, 0, 20.0)
    assert watch.broken is None


@given(st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 3000)), max_size=60))
def test_the_evidence_is_always_damning(pairs: list[tuple[int, int]]) -> None:
    """Whatever was seen: at most a twentieth of what was due had come when the replica was found broken."""
    watch, before = CacheWatch(), None
    for second, (believed, delivered) in enumerate(pairs):
        watch.observe(believed, delivered, float(second))
        if watch.broken is not None and watch.broken is not before:
            assert watch.broken.delivered_tokens <= 0.05 * watch.broken.believed_tokens
            assert watch.broken.since <= second
        before = watch.broken
