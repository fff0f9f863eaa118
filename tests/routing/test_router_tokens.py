"""Prompts as token ids: used where they are known and the engine counts as we do, else their text."""

import pytest

from engines.reports import Usage
from gateway.routing.chain import ChainForm
from gateway.routing.facts import Outcome
from gateway.routing.token_trust import AGREEMENTS

IDS = list(range(2000, 3000))
TEXT = " ".join(map(str, IDS))


@pytest.fixture
def counting(drive, pool_of):
    """One replica that is followed by tokens in blocks of 128."""
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"))
    driver.load("r1", block_tokens=128)
    return driver


def serve(driver, counted=1000, cached=0, **more):
    return driver.serve(TEXT, tokens=IDS, usage=Usage(counted, 1, cached), **more)


# ── which chain ──────────────────────────────────────────────────────────────────────────────────


def test_tokens_are_used_where_the_block_size_is_known(drive, pool_of):
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"))
    assert driver.router.token_forms() == set()
    assert serve(driver).chosen.counted_in == "text"
    driver.load("r1", block_tokens=128)
    assert driver.router.token_forms() == {ChainForm(128, "tokenizer:x")}
    chosen = serve(driver).chosen
    assert (chosen.counted_in, chosen.prompt_tokens) == ("tokens", 1000)
    assert driver.replica("r1").cache.counted_in == "blocks of 128 tokens"


def test_an_engine_that_reports_other_blocks_is_followed_in_these_at_once(drive, pool_of):
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"))
    driver.load("r1", block_tokens=128, kv_capacity_tokens=100_000)
    driver.load("r1", block_tokens=64, kv_capacity_tokens=100_000)
    assert driver.router.token_forms() == {ChainForm(64, "tokenizer:x")}


def test_a_pool_without_an_encoding_is_followed_by_text(drive):
    driver = drive()
    driver.load("r1", block_tokens=128)
    assert driver.router.token_forms() == set()
    assert serve(driver).chosen.counted_in == "text"
    assert driver.replica("r1").cache.counted_in == "text"


def test_a_request_without_tokens_is_followed_by_text(counting):
    counting.serve(TEXT, usage=Usage(1000, 1, 0))
    chosen = counting.route(TEXT).chosen
    assert chosen.counted_in == "text"
    assert chosen.cached_tokens == 896


@pytest.mark.parametrize(("engine_block", "block"), [(1, 16), (5, 20), (16, 16), (64, 64), (256, 256)])
def test_small_engine_blocks_are_followed_in_multiples(drive, pool_of, engine_block, block):
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"))
    driver.up("r1", block_tokens=engine_block)
    assert driver.router.token_forms() == {ChainForm(block, "tokenizer:x")}


def test_each_replica_is_looked_up_by_its_own_form(drive, pool_of):
    driver = drive(pool_of("p", "a", "b", encoding="x"), pool_of("q", "c", encoding="y"), pool_of("t", "d"))
    for name, block in (("a", 64), ("b", 256), ("c", 256), ("d", 256)):
        driver.load(name, block_tokens=block)
        driver.serve(TEXT, tokens=IDS, pinned_replica=name, usage=Usage(1000, 1, 0))
    assert driver.router.token_forms() == {ChainForm(64, "x"), ChainForm(256, "x"), ChainForm(256, "y")}
    rows = {row.replica: row for row in driver.route(TEXT, tokens=IDS).candidates}
    assert {name: row.overlap.total for name, row in rows.items()} == {"a": 960, "b": 768, "c": 768, "d": 768}
    assert {name: row.counted_in for name, row in rows.items()} == {
        "a": "tokens",
        "b": "tokens",
        "c": "tokens",
        "d": "text",
    }


# ── trust ────────────────────────────────────────────────────────────────────────────────────────


def test_a_wrong_count_makes_that_kind_of_request_text_again(counting):
    assert serve(counting).chosen.counted_in == "tokens"
    serve(counting, counted=1004)
    assert serve(counting, counted=1004).chosen.counted_in == "text"
    assert serve(counting, shape="chat with tools").chosen.counted_in == "tokens"
    (doubt,) = counting.pool("p").token_doubts
    for word in ("chat", "1,000", "1,004"):
        assert word in doubt


def test_a_kind_of_request_is_trusted_after_eight_agreements(counting):
    """Its tokens are counted on the side while its text is followed."""
    serve(counting, counted=1004)
    for _ in range(AGREEMENTS):
        assert serve(counting).chosen.counted_in == "text"
    assert serve(counting).chosen.counted_in == "tokens"
    assert counting.pool("p").token_doubts == ()


def test_what_was_claimed_in_wrong_tokens_is_forgotten(counting):
    serve(counting, counted=1004)
    assert counting.replica("r1").index_blocks == 0
    serve(counting, counted=1004)
    assert counting.predicted(TEXT, "r1", tokens=IDS) == 896, "text is learned from as ever"


def test_a_wrong_count_teaches_nothing_about_the_cache(counting):
    serve(counting, counted=1000, cached=0)
    before = counting.replica("r1").cache.calibrated_on
    serve(counting, counted=1004, cached=0)
    assert counting.replica("r1").cache.calibrated_on == before


@pytest.mark.parametrize("outcome", Outcome)
def test_every_count_is_compared_however_the_request_ended(counting, outcome):
    decision = counting.route(TEXT, tokens=IDS)
    counting.finish(decision, outcome, Usage(1004, 1))
    assert counting.route(TEXT, tokens=IDS).chosen.counted_in == "text"


def test_an_answer_without_a_count_proves_nothing(counting):
    for _ in range(20):
        counting.serve(TEXT, tokens=IDS)
    assert counting.route(TEXT, tokens=IDS).chosen.counted_in == "tokens"
    assert counting.replica("r1").cache.calibrated_on == 0


def test_pools_are_trusted_one_by_one(drive, pool_of):
    """One may run the engine with another chat template."""
    driver = drive(pool_of("p", "r1", encoding="x"), pool_of("q", "s1", encoding="x"))
    for name in ("r1", "s1"):
        driver.load(name, block_tokens=128)
    serve(driver, counted=1004, pinned_pool="p")
    rows = {row.pool: row.counted_in for row in driver.route(TEXT, tokens=IDS).candidates}
    assert rows == {"p": "text", "q": "tokens"}
