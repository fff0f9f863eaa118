"""The price of an eviction: the probability that a full cache's oldest blocks are asked for again, learned from all."""

from dataclasses import dataclass, field
from math import exp, floor, log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.chain import ChainForm, PrefixChain
from gateway.routing.reuse import SAMPLE_TOKENS, Reuse

TOKENS = ChainForm(SAMPLE_TOKENS, "letters")
"""A link is as long as what is sampled: each one counts."""
MANY = 16_384
"""More blocks than this are not remembered."""


def blocks(*links):
    return PrefixChain(tuple(links), len(links) * SAMPLE_TOKENS, TOKENS)


class Cache:
    """Caches of so many sampled blocks, and a clock that is looked at often enough."""

    def __init__(self, *sizes):
        self.reuse = Reuse()
        for size in sizes:
            self.reuse.add_replica(size * SAMPLE_TOKENS)
        self.now = 0.0
        self.fresh = 1_000_000

    def use(self, *links, slot=0):
        self.reuse.used(slot, blocks(*links), self.now)

    def use_new(self, count, slot=0):
        self.fresh += count
        self.use(*range(self.fresh - count, self.fresh), slot=slot)

    def loss(self, slot=0):
        self.now += 5
        self.reuse.refresh(self.now)
        return self.reuse.losses[slot]


# ── what it says ─────────────────────────────────────────────────────────────────────────────────


def test_a_cache_with_room_loses_nothing():
    cache = Cache(100)
    for _ in range(50):
        cache.now += 20
        cache.use(*range(99))
    assert cache.loss() == 0
    cache.use_new(1)
    assert cache.loss() > 0.9


def test_of_a_full_cache_little_is_known_at_first():
    cache = Cache(5)
    cache.use_new(5)
    assert cache.loss() == 0.3


def test_what_is_never_asked_for_again_is_no_loss():
    cache = Cache(10)
    for _ in range(100):
        cache.use_new(1)
        cache.now += 1
    assert cache.loss() == 0


def test_the_more_is_asked_for_again_the_greater_the_loss():
    losses = []
    for again in (0, 1, 2, 4, 8, 16):
        cache = Cache(10)
        for _ in range(60):  # so many of 16 are used again, after 20 s
            cache.now += 20
            cache.use(*range(100, 100 + again))
            cache.use_new(16 - again)
        losses.append(cache.loss())
    assert losses == sorted(set(losses))
    assert losses[0] == 0
    assert losses[-1] > 0.95


def test_it_is_the_oldest_blocks_that_count():
    """A third are asked for again, after 10 s: what a large cache drops is no loss, what a small one does is."""
    cache = Cache(400, 4)
    for number in range(1000):
        cache.now += 1
        cache.use(number, *([number - 10] if number >= 10 else []))
        cache.use_new(1, slot=1)
    cache.reuse.refresh(cache.now)
    assert cache.reuse.losses[0] == 0
    assert cache.reuse.losses[1] == pytest.approx(1 / 3, rel=0.02)


def test_what_is_used_elsewhere_counts_as_asked_for():
    cache = Cache(10, 1000)
    for _ in range(60):
        cache.now += 20
        cache.use(*range(100, 110), slot=1)
    cache.use(*range(200, 210))
    assert cache.loss(0) > 0.9
    assert cache.loss(1) == 0


def test_what_was_learned_fades():
    cache = Cache(10)
    for _ in range(60):
        cache.now += 20
        cache.use(*range(100, 110))
    before = cache.loss()
    losses = []
    for _ in range(12):
        for _ in range(100):
            cache.now += 6
            cache.use_new(5)
        losses.append(cache.loss())
    assert before > 0.9
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.1


def test_an_emptied_cache_has_room():
    cache = Cache(10)
    for _ in range(40):
        cache.now += 20
        cache.use(*range(10))
    assert cache.loss() > 0.9
    cache.reuse.forget(0)
    assert cache.reuse.losses[0] == 0
    assert cache.loss() == 0


def test_a_cache_that_turns_out_larger_has_room():
    cache = Cache(10)
    for _ in range(40):
        cache.now += 20
        cache.use(*range(10))
    assert cache.loss() > 0.9
    cache.reuse.resize(0, 20 * SAMPLE_TOKENS)
    assert cache.loss() == 0
    cache.reuse.resize(0, 3.0)
    assert cache.loss() > 0.9


def test_it_is_reckoned_every_few_seconds_only():
    cache = Cache(10)
    cache.reuse.refresh(0.0)
    cache.use_new(10)
    cache.reuse.refresh(4.9)
    assert cache.reuse.losses[0] == 0
    cache.reuse.refresh(5.0)
    assert cache.reuse.losses[0] == 0.3


# ── the sample ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("form", "links"), [(ChainForm(64, "letters"), 32), (ChainForm(256), 32), (ChainForm(512), 16)]
)
def test_one_link_in_2048_tokens_or_8192_bytes_is_followed(form, links):
    reuse = Reuse()
    reuse.add_replica(10**9)
    reuse.used(0, PrefixChain(tuple(range(links * 10)), 0, form), 1.0)
    assert len(reuse._last) == len(reuse._caches[0]) == 10


def test_of_prompts_that_begin_alike_the_same_links_are_followed():
    reuse = Reuse()
    reuse.add_replica(10**9)
    shared = tuple(range(1000))
    for end in range(5):
        reuse.used(0, PrefixChain((*shared, *range(5000 * (end + 1), 5000 * (end + 1) + 70 * end))), float(end))
    assert len([link for link in reuse._last if link < 1000]) == 62
    assert sum(reuse._again) == 4 * 62


def test_memory_is_bounded():
    cache = Cache(50, 10**6)
    for _ in range(300):
        cache.use_new(MANY // 50)
        cache.use_new(MANY // 50, slot=1)
        cache.now += 1
        cache.reuse.refresh(cache.now)
    assert len(cache.reuse._last) <= MANY + 5 * MANY // 25
    assert len(cache.reuse._caches[0]) == 50
    cache.loss()
    assert len(cache.reuse._last) == MANY
    cache.now += 3600
    cache.loss()
    assert len(cache.reuse._last) == 0


# ── against a naive model ────────────────────────────────────────────────────────────────────────

MEMORY_S, HORIZON_S, EVERY_S = 1800.0, 3600.0, 5.0


@dataclass
class Seen:
    """A block was idle for so long, until it was used (`again`) or forgotten; told between two refreshes."""

    idle_s: float
    again: bool
    since: float | None


@dataclass
class Naive:
    """Keeps every observation, and reckons from scratch."""

    sizes: list[int]
    caches: list[list[int]] = field(default_factory=lambda: [[], []])
    at: dict[tuple[int, int], float] = field(default_factory=dict)
    last: dict[int, float] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    refreshes: list[float] = field(default_factory=list)
    prices: list[float] = field(default_factory=lambda: [0.0, 0.0])

    def use(self, slot: int, links: list[int], now: float) -> None:
        for link in links:
            if link in self.last:
                self.seen.append(Seen(now - self.last[link], True, self.refreshes[-1] if self.refreshes else None))
            self.last[link] = self.at[slot, link] = now
            self.caches[slot] = [one for one in self.caches[slot] if one != link] + [link]
        self.caches[slot] = self.caches[slot][-self.sizes[slot] :]

    def refresh(self, now: float) -> None:
        if self.refreshes and now - self.refreshes[-1] < EVERY_S:
            return
        self.refreshes.append(now)
        for link, at in list(self.last.items()):
            if now - at >= HORIZON_S:
                self.seen.append(Seen(now - at, False, now))
                del self.last[link]
        for slot, size in enumerate(self.sizes):
            cache = self.caches[slot]
            self.prices[slot] = self.price(self.at[slot, cache[0]], now) if len(cache) >= size else 0.0

    def price(self, unused_since: float, now: float) -> float:
        least = step(now - unused_since)
        weights = {True: 0.0, False: 0.0}
        for one in self.seen:
            if step(one.idle_s) >= least:
                since = self.refreshes[0] if one.since is None else one.since
                weights[one.again] += exp(-(now - since) / MEMORY_S)
        everything = weights[True] + weights[False] + sum(at <= unused_since for at in self.last.values())
        return weights[True] / everything if everything >= 20 else 0.3


def step(idle_s: float) -> int:
    """Idle times are told apart in quarters of an octave from 0.1 s."""
    return min(floor(4 * log2(max(idle_s, 0.1) / 0.1)), 63)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("use"), st.integers(0, 1), st.integers(0, 6), st.integers(1, 12)),
        st.tuples(st.just("use"), st.integers(0, 1), st.integers(0, 60), st.integers(1, 12)),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 1.3, 6.1, 47.0, 700.0, 4001.0])),
        st.tuples(st.just("forget"), st.integers(0, 1)),
        st.tuples(st.just("resize"), st.integers(0, 1), st.integers(1, 30)),
    ),
    min_size=30,
    max_size=120,
)


@given(STEPS)
def test_against_a_model_that_keeps_everything(steps):
    naive, cache = Naive([8, 20]), Cache(8, 20)
    now = 0.0
    for what, *figures in steps:
        if what == "wait":
            now += figures[0]
        elif what == "use":
            slot, first, count = figures
            links = list(range(first, first + count))
            naive.use(slot, links, now)
            cache.reuse.used(slot, blocks(*links), now)
        elif what == "forget":
            naive.caches[figures[0]].clear()
            naive.prices[figures[0]] = 0.0
            cache.reuse.forget(figures[0])
        else:
            slot, size = figures
            naive.sizes[slot] = size
            cache.reuse.resize(slot, size * SAMPLE_TOKENS)
        naive.refresh(now)
        cache.reuse.refresh(now)
        assert [cache.reuse.losses[slot] for slot in (0, 1)] == pytest.approx(naive.prices)


# ── in a decision ────────────────────────────────────────────────────────────────────────────────


def test_a_full_cache_of_blocks_that_are_used_again_costs_more(drive):
    """r1's cache is full of what is asked for again and again, r2's has room: a new prompt goes to r2."""
    driver = drive()
    driver.load("r1", kv_capacity_tokens=40_000)
    driver.load("r2", kv_capacity_tokens=400_000)
    prompts = [f"prompt {number} " * 3700 for number in range(5)]  # 8,250 tokens each
    for _ in range(20):
        for text in prompts:
            driver.serve(text, pinned_replica="r1")
            driver.now += 2
    driver.load("r1", kv_capacity_tokens=40_000)
    decision = driver.route("another prompt " * 3000)
    rows = {row.replica: row for row in decision.candidates}
    assert rows["r2"].eviction_ms == 0
    assert rows["r1"].eviction_ms == pytest.approx(rows["r1"].prefill_ms + rows["r1"].others_ms, rel=0.1)
    assert decision.chosen.replica == "r2"
    driver.restarted("r1")
    restarted = driver.route("yet another prompt " * 3000)
    assert {row.eviction_ms for row in restarted.candidates} == {0}
