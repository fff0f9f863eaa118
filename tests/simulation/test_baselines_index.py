"""What the baselines share: prefix sets against a naive model, LRU bounds, ledgers, windows and families."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulation.baselines.preble_families import Families, Family, HalfWindows
from gateway.simulation.baselines.prefill_ledger import PrefillLedger
from gateway.simulation.baselines.prefill_time import prefill_s
from gateway.simulation.baselines.prefix_sets import PrefixSets
from gateway.simulation.baselines.recent_blocks import RecentBlocks

SLOTS = 4
slots = st.integers(0, SLOTS - 1)
some_blocks = st.lists(st.integers(0, 12), max_size=8)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), slots, some_blocks),
        st.tuples(st.just("remove"), slots, some_blocks),
        st.tuples(st.just("forget"), slots, st.just([])),
        st.tuples(st.just("drop"), st.just(0), st.lists(st.integers(0, 12), min_size=1, max_size=1)),
    ),
    max_size=30,
)


def leading(held: set[int], blocks: list[int]) -> int:
    return next((depth for depth, block in enumerate(blocks) if block not in held), len(blocks))


@given(steps, some_blocks)
def test_prefix_sets_are_a_set_per_worker(taken: list[tuple[str, int, list[int]]], asked: list[int]) -> None:
    sets, model = PrefixSets(SLOTS), [set[int]() for _ in range(SLOTS)]
    for verb, slot, blocks in taken:
        if verb == "add":
            sets.add(slot, blocks)
            model[slot].update(blocks)
        elif verb == "remove":
            sets.remove(slot, blocks)
            model[slot].difference_update(blocks)
        elif verb == "forget":
            sets.forget(slot)
            model[slot].clear()
        else:
            sets.drop(blocks[0])
            for held in model:
                held.discard(blocks[0])
        assert sets.sizes == [len(held) for held in model]
        assert len(sets) == len(set().union(*model))
    assert sets.depths(asked) == [leading(held, asked) for held in model]
    assert [sets.depth(slot, asked) for slot in range(SLOTS)] == sets.depths(asked)
    assert all(sets.holds(slot, block) == (block in model[slot]) for slot in range(SLOTS) for block in range(13))


@given(st.lists(st.tuples(slots, some_blocks), max_size=20), st.integers(1, 6))
def test_recent_blocks_are_the_last_distinct_ones_touched(touched: list[tuple[int, list[int]]], capacity: int) -> None:
    recent = RecentBlocks(PrefixSets(SLOTS), [capacity] * SLOTS)
    history: list[list[int]] = [[] for _ in range(SLOTS)]
    for slot, blocks in touched:
        recent.touch(slot, blocks)
        for block in blocks:
            if block in history[slot]:
                history[slot].remove(block)
            history[slot].append(block)
        history[slot] = history[slot][-capacity:]
    for slot in range(SLOTS):
        assert {block for block in range(13) if recent.held.holds(slot, block)} == set(history[slot])


def test_leaves_leave_first_when_touched_last_to_first() -> None:
    recent = RecentBlocks(PrefixSets(1), [5])
    recent.touch(0, reversed([1, 2, 3]))
    recent.touch(0, reversed([7, 8, 9]))
    assert recent.held.depth(0, [1, 2, 3]) == 2
    recent.forget(0)
    assert recent.held.sizes == [0]


def test_a_ledger_settles_once() -> None:
    ledger = PrefillLedger(2)
    ledger.book(7, 1, 300)
    ledger.book(8, 1, 50)
    assert (ledger.tokens, ledger.prompts) == ([0, 350], [0, 2])
    assert ledger.settle(7) == 300
    assert ledger.settle(7) is None
    assert (ledger.tokens, ledger.prompts) == ([0, 50], [0, 1])


def test_a_chunk_takes_its_time() -> None:
    assert prefill_s(8192) == pytest.approx(0.547 + 0.017)
    assert prefill_s(8192, 3) == pytest.approx(0.547 + 3 * 0.017)


def test_half_windows_compare_their_averages() -> None:
    halves = HalfWindows()
    halves.add(0.0, 1.0)
    assert not halves.doubled(0.0)  # nothing in the older half
    halves.add(100.0, 1.9)
    assert not halves.doubled(100.0)
    halves.add(100.0, 2.1)
    assert halves.doubled(100.0)  # 2.0 against 1.0
    assert not halves.doubled(181.0)  # the first is out of the window
    halves.clear()
    assert not halves.doubled(181.0)


def families_of(capacity: int = 100) -> Families:
    return Families([capacity, capacity])


def a_family(families: Families, blocks: list[int], slot: int, now: float = 0.0) -> Family:
    depth, _ = families.match(blocks)
    family = Family((len(blocks) - depth) * 256, [0, 0])
    families.record(blocks, depth, family, slot)
    families.count(family, depth * 256, len(blocks) * 256, now)
    return family


def test_a_familys_load_is_misses_times_prefill_over_its_workers() -> None:
    families = families_of()
    family = a_family(families, [1, 2, 3, 4], slot=0)
    once_s = prefill_s(1024)
    assert families.loads == pytest.approx([once_s, 0])
    families.record([1, 2, 3, 4, 5], 4, family, 1)
    assert families.loads == pytest.approx([once_s / 2, once_s / 2])
    families.count(family, 1024, 1280, 1.0)
    miss_rate = 1 - 1024 / (1024 + 1280)
    assert families.loads == pytest.approx([miss_rate * 2 * once_s / 2] * 2)
    assert families.match([1, 2, 3, 4, 5, 6]) == (5, family)
    assert families.allocated([1, 2, 3, 4]) == 0b11
    assert families.allocated([1, 2, 3, 4, 5]) == 0b10


def test_a_family_nobody_asked_for_is_allocated_nowhere() -> None:
    families = families_of()
    family = a_family(families, [1, 2], slot=1)
    families.expire(180.0)
    assert families.allocated([1, 2]) == 0b10
    families.expire(180.1)
    assert families.allocated([1, 2]) == 0
    assert families.match([1, 2]) == (2, family)
    assert (family.slots, families.loads) == ([], [0.0, 0.0])


def test_what_is_over_the_capacity_goes_and_costs() -> None:
    families = families_of(capacity=5)
    first = a_family(families, [1, 2, 3], slot=0)
    assert families.eviction_s(0, 2) == 0
    assert families.eviction_s(0, 3) == pytest.approx(first.prefill_load_s())
    assert families.eviction_s(1, 3) == 0
    second = a_family(families, [7, 8, 9], slot=0)
    assert (first.slots, second.slots) == ([], [0])
    assert families.allocated([1, 2, 3]) == 0
    families.forget(0)
    assert families.allocated([7]) == 0
    assert families.loads == pytest.approx([0, 0])
