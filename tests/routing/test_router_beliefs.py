"""Beliefs in text: corrected by what engines report as cached, and dropped with the caches that they are about."""

import pytest

from engines.cache_events import BlocksCleared
from engines.reports import Usage
from gateway.routing.facts import Outcome

LONG = "a long system prompt. " * 1600  # 35,200 bytes: 8,800 tokens in 137 blocks
TOKENS = 8800
SHORT = "another. " * 300


@pytest.fixture
def alone(drive, pool_of):
    """One replica that reports cached tokens, and has served LONG once."""
    driver = drive(pool_of("p", "r1"), up=[])
    driver.up("r1", reports_cached_tokens=True)
    driver.serve(LONG, usage=Usage(TOKENS, 1, 0))
    assert driver.predicted(LONG, "r1") > 8700
    return driver


# ── what engines report ──────────────────────────────────────────────────────────────────────────


def test_one_disappointment_is_forgiven_as_the_prompt_was_computed_just_now(alone):
    alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    assert alone.predicted(LONG, "r1") > 5000


def test_after_two_disappointments_at_one_block_it_is_not_believed_in(alone):
    for _ in range(2):
        alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    assert alone.predicted(LONG, "r1") == 0
    assert alone.replica("r1").index_blocks == 0


@pytest.mark.parametrize("streams", [True, False])
def test_what_was_disbelieved_stays_so_until_the_engine_reports_it(alone, streams):
    for _ in range(2):
        alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    for _ in range(3):
        decision = alone.route(LONG, streams=streams)
        assert decision.chosen.cached_tokens == 0
        if streams:
            alone.first_token(decision, 50)
        alone.finish(decision, usage=Usage(TOKENS, 1, 0))
    alone.serve(LONG, usage=Usage(TOKENS, 1, 8704))
    assert alone.route(LONG).chosen.overlap.confirmed == 8704


def test_only_what_follows_the_missing_block_is_disbelieved(alone):
    for _ in range(2):
        alone.serve(LONG, usage=Usage(TOKENS, 1, 4096))
    row = alone.route(LONG).chosen
    assert row.overlap.confirmed == row.overlap.total == 4096


def test_disappointments_of_other_prompts_do_not_count(alone):
    alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    alone.serve(SHORT, usage=Usage(675, 1, 0))
    alone.serve(SHORT, usage=Usage(675, 1, 0))
    assert alone.predicted(LONG, "r1") > 0


def test_a_reported_hit_wipes_out_a_disappointment(alone):
    alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    alone.serve(LONG, usage=Usage(TOKENS, 1, 8704))
    alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    assert alone.replica("r1").index_blocks == 137


def test_a_hit_is_believed_whatever_was_struck_before(alone):
    for _ in range(2):
        alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    alone.serve(LONG, usage=Usage(TOKENS, 1, 8704))
    overlap = alone.route(LONG).chosen.overlap
    assert overlap.confirmed == 8704


def test_more_than_was_predicted_extends_what_is_believed(drive, pool_of):
    """The replica also serves others, or had this prompt before we came."""
    driver = drive(pool_of("p", "r1"))
    decision = driver.route(LONG)
    assert decision.chosen.cached_tokens == 0
    driver.finish(decision, Outcome.CLIENT_GONE, Usage(TOKENS, 1, 8000))
    overlap = driver.route(LONG).chosen.overlap
    assert overlap == (8000, 0, 0)


def test_how_a_prefix_is_known_shows_in_the_overlap(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    driver.route(LONG)
    promised = driver.router.preview(driver.request(LONG), driver.now).chosen.overlap
    assert promised.total == promised.promised > 8700
    driver.serve(LONG, usage=Usage(TOKENS, 1, 4096))
    shown = driver.router.preview(driver.request(LONG), driver.now).chosen.overlap
    assert shown.confirmed == 4096
    assert shown.inferred == promised.total - 4096
    assert shown.promised == 0


def test_a_replica_that_delivers_half_is_expected_to_deliver_half(drive, pool_of):
    driver = drive(pool_of("p", "r1", "r2"))
    for n in range(150):
        text = f"prompt {n} " * 1000
        tokens = len(text) // 4
        driver.serve(text, pinned_replica="r1", usage=Usage(tokens, 1, 0))
        decision = driver.route(text, pinned_replica="r1")
        driver.first_token(decision, 50)
        driver.finish(decision, usage=Usage(tokens, 1, decision.chosen.overlap.total // 2))
    driver.serve(LONG, pinned_replica="r1", usage=Usage(TOKENS, 1, 0))
    driver.serve(LONG, pinned_replica="r2", usage=Usage(TOKENS, 1, 0))
    assert driver.predicted(LONG, "r1") == pytest.approx(4400, rel=0.1)
    assert driver.predicted(LONG, "r2") > 8700, "each replica is calibrated by itself"


@pytest.mark.parametrize("prompt_tokens", [80_000, 500])
def test_a_prompt_that_is_more_than_text_teaches_nothing_about_the_cache(alone, prompt_tokens):
    """Of an image, or with a stored response before it, our bytes say nothing of the engine's tokens."""
    before = alone.replica("r1").cache.calibrated_on
    for _ in range(3):
        alone.serve(LONG, usage=Usage(prompt_tokens, 1, 0))
    assert alone.replica("r1").cache.calibrated_on == before
    assert alone.predicted(LONG, "r1") > 8700


def test_what_is_expected_to_be_missing_is_no_disappointment(drive, pool_of):
    """A replica that hits nothing is known for it by then; no single prompt is to blame."""
    driver = drive(pool_of("p", "r1"))
    for n in range(200):
        text = f"prompt {n:04} " * 3000
        for _ in range(2):
            driver.serve(text, usage=Usage(len(text) // 4, 1, 0))
    for _ in range(4):
        driver.serve(LONG, usage=Usage(TOKENS, 1, 0))
    assert driver.route(LONG).chosen.overlap.total > 8700
    assert driver.predicted(LONG, "r1") < 100


# ── caches that are gone ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["restarted", "reset", "lost", "fenced", "cleared"])
def test_a_cache_that_is_gone_is_not_predicted_from_that_moment_on(alone, how):
    match how:
        case "restarted":
            alone.restarted("r1")
        case "reset":
            alone.reset("r1")
        case "lost":
            alone.lost("r1")
        case "fenced":
            alone.fenced("r1")
        case "cleared":
            alone.said("r1", BlocksCleared())
    assert alone.predicted(LONG, "r1") == 0
    blocks = alone.replica("r1").index_blocks
    assert blocks == (137 if how == "fenced" else 0)


def test_after_a_fence_all_is_known_as_before(alone):
    before = alone.predicted(LONG, "r1")
    alone.fenced("r1", reason="message 7 did not come")
    view = alone.replica("r1").cache
    assert (view.source, view.reason) == ("fenced", "message 7 did not come")
    alone.synced("r1")
    assert alone.predicted(LONG, "r1") == before
    assert alone.replica("r1").cache.source == "events"


def test_a_fence_of_one_rank_stands_until_that_rank_is_in_step(alone):
    alone.fenced("r1", rank=0)
    alone.fenced("r1", rank=1)
    alone.synced("r1", rank=1)
    assert alone.predicted(LONG, "r1") == 0
    alone.lost("r1", rank=0)
    assert alone.replica("r1").cache.source == "guess", "not all of its ranks are heard"
    alone.synced("r1", rank=0)
    assert alone.replica("r1").cache.source == "events"


def test_a_lost_feed_ends_a_fence_and_says_why(alone):
    alone.fenced("r1")
    alone.lost("r1", reason="the publisher began anew")
    view = alone.replica("r1").cache
    assert (view.source, view.reason) == ("guess", "the publisher began anew")
    alone.serve(LONG)
    assert alone.predicted(LONG, "r1") > 8700, "we go on by what we see"


def test_a_restart_ends_a_fence_and_forgets_what_was_learned(alone):
    for _ in range(12):
        alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    assert alone.replica("r1").cache.calibrated_on > 0
    alone.fenced("r1")
    alone.restarted("r1")
    view = alone.replica("r1").cache
    assert (view.source, view.calibrated_on, view.broken, view.capacity_share) == ("guess", 0, None, 1.0)


def test_replicas_lose_their_caches_one_by_one(drive):
    driver = drive()
    for name in ("r1", "r2"):
        driver.serve(LONG, pinned_replica=name)
    driver.lost("r1")
    assert driver.predicted(LONG, "r1") == 0
    assert driver.predicted(LONG, "r2") > 8700


# ── broken caches ────────────────────────────────────────────────────────────────────────────────


def disappoint(driver, times):
    """Prompts that are sent twice, and hit neither time."""
    for n in range(times):
        text = f"prompt {n} of those that disappoint. " * 300
        for _ in range(2):
            driver.serve(text, pinned_replica="r1", usage=Usage(len(text) // 4, 1, 0))


def test_a_broken_cache_is_found_shown_and_not_routed_by(drive):
    driver = drive(policy="prefix")
    disappoint(driver, 9)
    assert driver.replica("r1").cache.broken is None
    disappoint(driver, 10)
    evidence = driver.replica("r1").cache.broken
    assert evidence is not None
    assert (evidence.requests, evidence.delivered_tokens) == (10, 0)
    assert evidence.believed_tokens > 10 * 2000
    driver.serve(LONG, pinned_replica="r1")
    assert driver.predicted(LONG, "r1") == 0
    assert driver.replica("r1").index_blocks > 137, "what it should hold is still followed"
    assert driver.replica("r2").cache.broken is None


def test_a_broken_cache_that_hits_again_is_routed_by_again(drive):
    driver = drive(policy="prefix")
    disappoint(driver, 10)
    assert driver.replica("r1").cache.broken is not None
    for n in range(3):
        text = f"prompt {n} of those that hit. " * 300
        driver.serve(text, pinned_replica="r1", usage=Usage(len(text) // 4, 1, len(text) // 4 - 64))
    assert driver.replica("r1").cache.broken is None
    driver.serve(LONG, pinned_replica="r1")
    assert driver.predicted(LONG, "r1") > 0


# ── how much a cache holds ───────────────────────────────────────────────────────────────────────


def fill(driver, delivered):
    """Prompts enough for a small cache, each sent twice; `delivered` is the share that hits the second time."""
    driver.load("r1", kv_capacity_tokens=20_000)
    for n in range(30):
        text = f"prompt {n} " * 1400
        tokens = len(text) // 4
        driver.serve(text, usage=Usage(tokens, 1, 0))
        driver.serve(text, usage=Usage(tokens, 1, int(tokens * delivered)))


def test_a_full_cache_that_misses_is_believed_to_hold_less_than_it_says(drive, pool_of):
    """Others use it too."""
    driver = drive(pool_of("p", "r1"))
    fill(driver, 0.0)
    assert 0.6 < driver.replica("r1").cache.capacity_share < 0.9
    assert driver.replica("r1").index_blocks > 0.8 * 20_000 / 64
    driver.load("r1", kv_capacity_tokens=20_000)
    assert driver.replica("r1").index_blocks < 0.9 * 20_000 / 64


def test_a_full_cache_that_hits_what_was_forgotten_is_believed_to_hold_more(drive, pool_of):
    driver = drive(pool_of("p", "r1"))
    driver.load("r1", kv_capacity_tokens=3200)
    for n in range(30):
        text = f"prompt {n} " * 1400  # more than the cache is thought to hold
        driver.serve(text, usage=Usage(len(text) // 4, 1, 4000))
    assert driver.replica("r1").cache.capacity_share > 2
    driver.load("r1", kv_capacity_tokens=3200)
    driver.serve(LONG)
    assert driver.replica("r1").index_blocks > 2 * 3200 / 64


def test_what_a_cache_holds_is_not_doubted_while_it_is_not_full(alone):
    for _ in range(10):
        alone.serve(LONG, usage=Usage(TOKENS, 1, 0))
    assert alone.replica("r1").cache.capacity_share == 1.0
