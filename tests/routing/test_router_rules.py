"""Engines whose hits follow rules of their own, while their events say all that is stored."""

from random import Random

import pytest

from engines.cache_events import BlocksStored
from engines.reports import Usage

BLOCK = 64


class Engine:
    """Keeps everything, in blocks of 64 tokens; `rule` makes hits of what it holds."""

    def __init__(self, driver, rule):
        self.driver = driver
        self.rule = rule
        self.held = set()

    def serve(self, ids):
        """Predicted and delivered tokens."""
        decision = self.driver.route(" ".join(map(str, ids)), tokens=ids)
        names = [hash(tuple(ids[:end])) for end in range(BLOCK, len(ids) + 1, BLOCK)]
        known = sum(name in self.held for name in names)  # nothing is ever dropped: the first so many
        if known < len(names):
            tokens = b"".join(one.to_bytes(4, "little") for one in ids[known * BLOCK : len(names) * BLOCK])
            parent = names[known - 1] if known else None
            self.driver.said("r1", BlocksStored(tuple(names[known:]), parent, tokens, BLOCK))
            self.held.update(names)
        delivered = self.rule(min(known, (len(ids) - 1) // BLOCK) * BLOCK)
        self.driver.first_token(decision, 50)
        self.driver.finish(decision, usage=Usage(len(ids), 1, delivered))
        return decision.chosen.cached_tokens, delivered


@pytest.fixture
def engine_with(drive, pool_of):
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"), up=[])
    driver.up("r1", reports_cached_tokens=True, block_tokens=BLOCK)
    driver.synced("r1")
    return lambda rule: Engine(driver, rule)


def talk(engine, turns, seed=1):
    """Conversations that grow; predicted and delivered tokens of each turn."""
    rng = Random(seed)
    systems = [[rng.randrange(50_000) for _ in range(rng.randrange(100, 1200))] for _ in range(3)]
    talks = [list(rng.choice(systems)) for _ in range(12)]
    rows = []
    for _ in range(turns):
        number = rng.randrange(12)
        talks[number] += [rng.randrange(50_000) for _ in range(rng.randrange(20, 400))]
        if len(talks[number]) > 8000:
            talks[number] = list(rng.choice(systems))
        rows.append(engine.serve(talks[number]))
    return rows


def test_an_engine_that_drafts_tokens_is_predicted_exactly_after_some_requests(engine_with):
    """It drops the last block of each hit."""
    engine = engine_with(lambda tokens: max(tokens - BLOCK, 0))
    rows = talk(engine, 300)
    assert all(predicted == delivered for predicted, delivered in rows[50:])
    assert engine.driver.replica("r1").cache.stated_blocks == len(engine.held)


@pytest.mark.parametrize("quantum", [256, 1024])
def test_what_is_hit_in_large_multiples_only_is_no_less_there(engine_with, quantum):
    engine = engine_with(lambda tokens: tokens - tokens % quantum)
    rows = talk(engine, 300)
    assert engine.driver.replica("r1").cache.stated_blocks == len(engine.held)
    assert sum(predicted == delivered for predicted, delivered in rows[200:]) > 95


def test_prompts_below_the_smallest_hit_do_not_convict_a_cache_that_works(engine_with):
    engine = engine_with(lambda tokens: tokens - tokens % 2048)
    rng = Random(1)
    for _ in range(20):
        long = [rng.randrange(50_000) for _ in range(9000)]
        for length in (9000, 5000, 3000, 7000, 8500):
            engine.serve(long[:length])
    assert engine.driver.replica("r1").cache.quantum_tokens == 2048
    for _ in range(20):
        short = [rng.randrange(50_000) for _ in range(1500)]
        engine.serve(short)
        assert engine.serve(short) == (0, 0)
    assert engine.driver.replica("r1").cache.broken is None


def test_what_was_guessed_before_events_came_goes_with_the_first_miss(drive, pool_of):
    """What the engine computed for that prompt it would have said by now."""
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"), up=[])
    driver.up("r1", reports_cached_tokens=True, block_tokens=BLOCK)
    ids = list(range(1000))
    driver.serve("prompt", tokens=ids, usage=Usage(1000, 1, 0))
    driver.synced("r1")
    decision = driver.route("prompt", tokens=ids)
    assert decision.chosen.overlap == (0, 960, 0)
    driver.finish(decision, usage=Usage(1000, 1, 128))
    assert driver.route("prompt", tokens=ids).chosen.overlap == (128, 0, 0)


def test_a_cache_that_says_what_it_holds_is_not_thought_smaller(engine_with):
    """What it drops it says."""
    engine = engine_with(lambda tokens: tokens // 2)
    engine.driver.load("r1", block_tokens=BLOCK, kv_capacity_tokens=10_000)
    talk(engine, 100)
    view = engine.driver.replica("r1")
    assert (view.index_fill, view.cache.capacity_share) == (1.0, 1.0)
