"""Replicas with several data-parallel ranks, each with a cache and a feed of its own."""

import pytest

from engines.cache_events import BlocksCleared, BlocksRemoved, BlocksStored
from engines.reports import Usage

BLOCK = 128
PROMPT = list(range(5000, 6000))
KEYS = tuple(range(7))


@pytest.fixture
def covered(drive, pool_of):
    """Two ranks, both in step."""
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"), up=[])
    driver.up("r1", reports_cached_tokens=True, block_tokens=BLOCK)
    for rank in (0, 1):
        driver.synced("r1", rank)
    return driver


def stored(blocks):
    tokens = b"".join(one.to_bytes(4, "little") for one in PROMPT[: blocks * BLOCK])
    return BlocksStored(KEYS[:blocks], None, tokens, BLOCK)


def cached(driver):
    return driver.predicted("prompt", "r1", tokens=PROMPT)


def test_what_any_rank_holds_is_cached(covered):
    covered.said("r1", stored(2), rank=0)
    covered.said("r1", stored(5), rank=1)
    assert cached(covered) == 5 * BLOCK
    covered.said("r1", BlocksRemoved(KEYS[:5]), rank=1)
    assert cached(covered) == 2 * BLOCK
    covered.said("r1", BlocksCleared(), rank=0)
    assert cached(covered) == 0


def test_one_rank_out_of_step_hides_all(covered):
    covered.said("r1", stored(5), rank=0)
    covered.fenced("r1", rank=1, reason="message 7 did not come")
    assert cached(covered) == 0
    assert covered.replica("r1").cache.reason == "message 7 did not come"
    covered.synced("r1", rank=0)
    assert cached(covered) == 0
    covered.synced("r1", rank=1)
    assert cached(covered) == 5 * BLOCK


def test_a_lost_rank_leaves_what_the_other_said(covered):
    covered.said("r1", stored(2), rank=0)
    covered.said("r1", stored(5), rank=1)
    covered.lost("r1", rank=1)
    assert cached(covered) == 2 * BLOCK
    assert covered.replica("r1").cache.source == "guess"


def test_a_reset_is_waited_for_at_every_rank(covered):
    covered.said("r1", stored(5), rank=0)
    covered.now += 10
    covered.reset("r1")
    covered.said("r1", BlocksRemoved((99,)), rank=1)
    assert cached(covered) == 0
    covered.said("r1", BlocksRemoved((99,)), rank=0)
    assert cached(covered) == 5 * BLOCK


def test_what_a_rank_computes_that_is_not_heard_is_guessed(covered):
    """Its feed broke for good; the other rank's goes on."""
    covered.lost("r1", rank=1)
    decision = covered.route("prompt", tokens=PROMPT)
    covered.first_token(decision, 50)
    covered.finish(decision, usage=Usage(1000, 1, 0))
    assert cached(covered) == 7 * BLOCK
