"""Beliefs by events: a replica that says what its cache stores and drops is predicted to the token."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

import pytest

from engines.cache_events import BlocksCleared, BlocksRemoved, BlocksStored, CacheEvent
from engines.reports import ModelCard, Usage
from gateway.routing.facts import Outcome, ReplicaUp

BLOCK = 128

Prefix = tuple[int, ...]


def said(ids: Sequence[int]) -> bytes:
    return b"".join(one.to_bytes(4, "little") for one in ids)


@dataclass
class Cache:
    """A prefix cache by vLLM's rules: whole blocks, never a prompt's last token, tails dropped before heads."""

    block: int = BLOCK
    capacity: int = 1_000_000
    held: OrderedDict[Prefix, None] = field(default_factory=OrderedDict)

    def serve(self, ids: Sequence[int], adapter: str | None = None) -> tuple[int, list[CacheEvent]]:
        """How many tokens are hit, and what is stored and dropped for the rest."""
        ends = range(self.block, len(ids) + 1, self.block)
        keys = [(hash(adapter), *ids[:end]) for end in ends]
        hit = 0
        while hit < len(keys) and keys[hit] in self.held and ends[hit] < len(ids):
            hit += 1
        fresh = [place for place in range(hit, len(keys)) if keys[place] not in self.held]
        for key in reversed(keys):
            self.held[key] = None
            self.held.move_to_end(key)
        dropped = list(self.held)[: max(0, len(self.held) - self.capacity)]
        for key in dropped:
            del self.held[key]
        events: list[CacheEvent] = [BlocksRemoved((hash(key),)) for key in dropped]
        if fresh:
            start = fresh[0]
            names = tuple(map(hash, keys))
            tokens = said(ids[start * self.block : len(keys) * self.block])
            parent = names[start - 1] if start else None
            events.insert(0, BlocksStored(names[start:], parent, tokens, self.block, adapter=adapter))
        return hit * self.block, events


def text(ids: Sequence[int]) -> str:
    return " ".join(map(str, ids))


@pytest.fixture
def covered(drive, pool_of):
    """Two replicas of a pool whose prompts' tokens we know; all that r1's cache does is said in events."""
    driver = drive(pool_of("p", "r1", "r2", encoding="tokenizer:x"), up=[])
    driver.up("r1", "r2", reports_cached_tokens=True)
    for name in ("r1", "r2"):
        driver.load(name, block_tokens=BLOCK)
    driver.synced("r1")
    return driver


def ask(driver, ids, **more):
    return driver.route(text(ids), tokens=ids, pinned_replica="r1", **more)


def serve(driver, cache, ids, **more):
    """One request at r1, whose engine tells what it does; the decision and what was delivered."""
    decision = ask(driver, ids, **more)
    delivered, events = cache.serve(ids, more.get("adapter"))
    driver.said("r1", *events)
    driver.first_token(decision, 50)
    driver.finish(decision, usage=Usage(len(ids), 1, delivered))
    return decision, delivered


PROMPT = list(range(5000, 6000))
"""1,000 tokens: seven blocks and a rest."""


# ── exactly ──────────────────────────────────────────────────────────────────────────────────────


def test_what_events_say_is_predicted_to_the_token(covered):
    cache = Cache()
    assert serve(covered, cache, PROMPT)[0].chosen.cached_tokens == 0
    chosen = ask(covered, [*PROMPT, 1, 2, 3]).chosen
    assert (chosen.prompt_tokens, chosen.cached_tokens, chosen.counted_in) == (1003, 896, "tokens")
    assert chosen.overlap == (896, 0, 0)


@pytest.mark.parametrize(("length", "cached"), [(127, 0), (128, 0), (129, 128), (896, 768), (897, 896), (1000, 896)])
def test_the_last_token_is_always_computed(covered, length, cached):
    serve(covered, Cache(), PROMPT)
    assert ask(covered, PROMPT[:length]).chosen.cached_tokens == cached


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("capacity", [10_000, 150, 60])
def test_conversations_are_predicted_to_the_token_even_if_the_cache_overflows(covered, capacity, seed):
    rng, cache = Random(seed), Cache(capacity=capacity)
    systems = [[rng.randrange(50_000) for _ in range(rng.randrange(100, 1200))] for _ in range(3)]
    talks = [list(rng.choice(systems)) for _ in range(12)]
    hits = 0
    for _ in range(250):
        number = rng.randrange(12)
        talks[number] += [rng.randrange(50_000) for _ in range(rng.randrange(20, 400))]
        if len(talks[number]) > 4000:
            talks[number] = list(rng.choice(systems))
        decision, delivered = serve(covered, cache, talks[number])
        assert decision.chosen.overlap.total == delivered
        assert decision.chosen.cached_tokens == delivered
        hits += delivered > 0
    assert hits > 50
    assert covered.replica("r1").cache.stated_blocks == len(cache.held)
    assert covered.replica("r1").index_blocks == len(cache.held)
    assert covered.series("r1").index_loss_tokens == covered.series("r1").index_gain_tokens == 0


def test_pages_of_one_token_are_predicted_to_a_block_of_ours(drive, pool_of):
    driver = drive(pool_of("p", "r1", encoding="tokenizer:x"))
    driver.load("r1", block_tokens=1)
    driver.synced("r1")
    cache = Cache(block=1)
    rng = Random(1)
    talk: list[int] = []
    for _ in range(40):
        talk += [rng.randrange(50_000) for _ in range(rng.randrange(1, 60))]
        decision, delivered = serve(driver, cache, talk)
        assert 0 <= delivered - decision.chosen.cached_tokens < 16


# ── promises ─────────────────────────────────────────────────────────────────────────────────────


def test_a_prompt_in_flight_is_promised_until_events_say_it(covered):
    first = ask(covered, PROMPT)
    assert ask(covered, PROMPT).chosen.overlap == (0, 0, 896)
    _, events = Cache().serve(PROMPT)
    covered.said("r1", *events)
    assert ask(covered, PROMPT).chosen.overlap == (896, 0, 0)
    covered.finish(first, usage=Usage(1000, 1, 0))
    assert ask(covered, PROMPT).chosen.overlap == (896, 0, 0)


@pytest.mark.parametrize("end", Outcome)
def test_what_no_event_confirmed_is_dropped_when_the_attempt_ends(covered, end):
    """The engine may have had no room to keep it."""
    decision = ask(covered, PROMPT)
    covered.said("r1", *Cache().serve(PROMPT[:300])[1])
    covered.first_token(decision, 50)
    assert ask(covered, PROMPT[:900]).chosen.overlap.total == 896, "still in flight"
    covered.finish(decision, end, Usage(1000, 1, 0))
    assert covered.router.snapshot(covered.now).replicas[0].cache.stated_blocks == 2


def test_promises_end_with_their_attempts(covered):
    decision = ask(covered, PROMPT)
    covered.first_token(decision, 50)
    covered.finish(decision, usage=Usage(1000, 1, 0))
    assert covered.replica("r1").index_blocks == 0
    failed = ask(covered, PROMPT)
    covered.fail(failed)
    assert covered.replica("r1").index_blocks == 0


def test_without_events_a_first_token_shows_what_is_cached(covered):
    ids = PROMPT
    decision = covered.route(text(ids), tokens=ids, pinned_replica="r2")
    covered.first_token(decision, 50)
    covered.finish(decision, usage=Usage(1000, 1, 0))
    assert covered.route(text(ids), tokens=ids, pinned_replica="r2").chosen.overlap == (0, 896, 0)


# ── gaps, resets, restarts ───────────────────────────────────────────────────────────────────────


def cached(driver, ids=PROMPT):
    return driver.predicted(text(ids), "r1", tokens=ids)


def test_a_fence_hides_what_was_stated_and_sync_shows_it_again(covered):
    serve(covered, Cache(), PROMPT)
    covered.fenced("r1")
    assert cached(covered) == 0
    covered.said("r1", BlocksRemoved((b"nothing known",)))
    assert cached(covered) == 0, "a replay is read behind the fence"
    covered.synced("r1")
    assert cached(covered) == 896


def test_what_a_rank_said_before_it_was_lost_is_forgotten(covered):
    cache = Cache()
    serve(covered, cache, PROMPT)
    covered.fenced("r1")
    covered.lost("r1", reason="message 7 is not to be had")
    covered.synced("r1")
    assert cached(covered) == 0
    assert covered.replica("r1").cache.stated_blocks == 0
    assert covered.replica("r1").cache.reason == ""
    decision, delivered = serve(covered, cache, [*PROMPT, *range(400)])
    assert (decision.chosen.cached_tokens, delivered) == (0, 896)
    assert cached(covered, [*PROMPT, *range(500)]) == 1280, "the hit tells of the beginning, events of the rest"


def test_a_reset_without_an_event_is_believed_until_the_next_one(covered):
    """An idle engine says that its cache was dropped only with its next step; a reset may also have failed."""
    serve(covered, Cache(), PROMPT)
    covered.now += 10
    covered.reset("r1")
    assert cached(covered) == 0
    assert covered.replica("r1").cache.source == "fenced"
    covered.said("r1", BlocksRemoved((b"nothing known",)))
    assert cached(covered) == 896, "its cache was not dropped: else it would have said so first"


def test_a_reset_whose_event_comes_later_empties_the_cache(covered):
    serve(covered, Cache(), PROMPT)
    covered.now += 10
    covered.reset("r1")
    covered.said("r1", BlocksCleared(), *Cache().serve(PROMPT[:300])[1])
    assert cached(covered) == 256


def test_a_reset_whose_event_was_seen_before_the_poll_hides_the_cache_until_the_next_event(covered):
    """Whether that event was of this reset or of an earlier one cannot be told."""
    serve(covered, Cache(), PROMPT)
    covered.now += 1
    covered.said("r1", BlocksCleared())
    serve(covered, Cache(), PROMPT)
    covered.now += 1
    covered.reset("r1")
    assert cached(covered) == 0
    covered.said("r1", BlocksRemoved((b"nothing known",)))
    assert cached(covered) == 896
    assert covered.replica("r1").cache.source == "events"


def test_a_hit_after_a_reset_shows_that_there_was_none(covered):
    """Hits of whole prompts store nothing, so no event may come for long."""
    serve(covered, Cache(), PROMPT)
    covered.reset("r1")
    decision = ask(covered, PROMPT)
    assert decision.chosen.cached_tokens == 0
    covered.finish(decision, usage=Usage(1000, 1, 896))
    assert cached(covered) == 896
    assert covered.replica("r1").cache.source == "events"


def test_a_second_reset_is_another_one(covered):
    covered.said("r1", BlocksCleared())
    serve(covered, Cache(), PROMPT)
    covered.now += 10
    covered.reset("r1")
    assert cached(covered) == 0


def test_a_restart_forgets_what_was_stated_until_the_feed_is_in_step_again(covered):
    serve(covered, Cache(), PROMPT)
    covered.restarted("r1")
    assert (cached(covered), covered.replica("r1").index_blocks) == (0, 0)
    assert covered.replica("r1").cache.source == "guess"
    covered.synced("r1")
    serve(covered, Cache(), PROMPT)
    assert cached(covered) == 896


def test_an_engine_that_answers_otherwise_than_it_says_is_expected_to_go_on_so(covered):
    """Hybrid models store all of a prompt and hit only as much as their sliding windows kept."""
    _, events = Cache().serve(PROMPT)
    covered.said("r1", *events)
    for _ in range(20):
        decision = ask(covered, PROMPT)
        assert decision.chosen.overlap.confirmed == 896, "what it says stands"
        covered.finish(decision, usage=Usage(1000, 1, 256))
    assert 256 <= ask(covered, PROMPT).chosen.cached_tokens < 320


# ── whose prompts ────────────────────────────────────────────────────────────────────────────────


def test_a_salted_prompt_is_guessed_as_usual(covered):
    """Not every engine says the salt in its events."""
    decision = ask(covered, PROMPT, salt="pepper")
    covered.first_token(decision, 50)
    covered.finish(decision, usage=Usage(1000, 1, 0))
    assert ask(covered, PROMPT, salt="pepper").chosen.overlap == (0, 896, 0)
    assert ask(covered, PROMPT).chosen.overlap == (0, 0, 0)
    assert ask(covered, PROMPT, salt="salt").chosen.overlap == (0, 0, 0)


def test_an_adapter_shares_nothing_with_its_model(covered):
    covered.router.observe(ReplicaUp("r1", covered.now, (ModelCard("m"), ModelCard("lora", parent="m"))))
    covered.load("r1", block_tokens=BLOCK)
    assert covered.router.adapters() == {"lora"}
    cache = Cache()
    serve(covered, cache, PROMPT, adapter="lora")
    assert ask(covered, PROMPT, adapter="lora").chosen.overlap == (896, 0, 0)
    assert ask(covered, PROMPT).chosen.overlap == (0, 0, 0)
    serve(covered, cache, PROMPT[:300])
    assert ask(covered, PROMPT).chosen.overlap == (256, 0, 640), "and what the one before it promised"
