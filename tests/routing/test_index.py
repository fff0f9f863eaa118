"""The prefix index: what is promised, settled, confirmed and stated, and in which order guesses are forgotten."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.chain import PrefixChain, chain
from gateway.routing.index import Depths, PrefixIndex

TEXTS = st.text("ab", max_size=7)
CAPACITIES = st.integers(1, 12)


def links(text: str) -> PrefixChain:
    """One block a letter: texts of few letters share many beginnings."""
    return chain(b"m", text.encode(), 1)


def index_of(capacity: int) -> PrefixIndex:
    index = PrefixIndex()
    index.add_replica(capacity)
    return index


def overlap(index: PrefixIndex, text: str) -> int:
    return index.depths(links(text))[0].likely


def depths(index: PrefixIndex, text: str) -> tuple[int, int, int]:
    """Confirmed, settled, likely."""
    return tuple(index.depths(links(text))[0])  # type: ignore[return-value]


# ── three degrees of certainty ───────────────────────────────────────────────────────────────────


def test_a_block_becomes_surer_by_promise_first_token_and_hit() -> None:
    index = index_of(10)
    index.claim(0, links("aabb"), 1)
    assert depths(index, "aabb") == (0, 0, 4)
    index.settle(0, links("aab"))
    assert depths(index, "aabb") == (0, 3, 4)
    index.confirm(0, links("aabb"), 2)
    assert depths(index, "aabb") == (2, 3, 4)
    assert index.depths(links("aabb")) == [Depths(confirmed=2, settled=3, likely=4)]


def test_what_is_confirmed_stays_so_when_it_is_computed_again() -> None:
    index = index_of(10)
    index.confirm(0, links("aa"), 2)
    index.settle(0, links("aab"))
    assert depths(index, "aab") == (2, 3, 3)


def test_a_degree_needs_the_first_block() -> None:
    index = index_of(10)
    index.claim(0, links("aaaa"), 1)
    index.state(0, links("aaaa").hashes[2:])
    assert depths(index, "aaaa") == (0, 0, 4)


# ── what is forgotten ────────────────────────────────────────────────────────────────────────────

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["serve", "fail", "settle"]), TEXTS, st.integers(1, 6)),
        st.tuples(st.just("confirm"), TEXTS, st.integers(0, 7)),
        st.tuples(st.just("resize"), st.just(""), CAPACITIES),
    ),
    max_size=40,
)


@given(OPERATIONS, CAPACITIES)
def test_with_nothing_in_flight_no_block_is_held_without_all_that_stand_before_it(
    operations: list[tuple[str, str, int]], capacity: int
) -> None:
    """Otherwise memory holds blocks that no overlap can ever count."""
    index = PrefixIndex()
    index.add_replica(capacity)
    for verb, text, number in operations:
        match verb:
            case "serve":
                index.claim(0, links(text), number)
                index.settle(0, links(text))
                index.release(0, number)
            case "fail":
                index.claim(0, links(text), number)
                index.release(0, number)
            case "settle":
                index.settle(0, links(text))
            case "confirm":
                index.confirm(0, links(text), number)
            case _:
                index.resize(0, number)
        for _, seen, _ in operations:
            held = [link in index._guessed[0] for link in links(seen).hashes]
            assert sum(held) == overlap(index, seen)


def test_a_full_replica_forgets_the_longest_unused_chain_from_its_end() -> None:
    index = index_of(5)
    index.settle(0, links("aaa"))
    index.settle(0, links("bbb"))
    assert (overlap(index, "aaa"), overlap(index, "bbb")) == (2, 3)
    index.settle(0, links("aa"))
    index.settle(0, links("c"))
    assert [overlap(index, text) for text in ("aaa", "bbb", "c")] == [2, 2, 1]


def test_a_promise_is_no_use_of_what_is_there_and_takes_room_when_it_is_kept() -> None:
    """A request counts as use when its first token shows it; one that dies in the queue used nothing."""
    index = index_of(4)
    index.settle(0, links("aa"))
    index.settle(0, links("bb"))
    index.claim(0, links("aa"), 1)
    index.release(0, 1)
    index.claim(0, links("c"), 2)
    assert [overlap(index, text) for text in ("aa", "bb", "c")] == [2, 2, 1]
    index.settle(0, links("c"))
    assert [overlap(index, text) for text in ("aa", "bb", "c")] == [1, 2, 1]


def test_what_a_running_request_uses_is_not_forgotten() -> None:
    index = index_of(4)
    index.settle(0, links("aa"))
    index.claim(0, links("aa"), 1, 2)
    index.settle(0, links("bb"))
    index.settle(0, links("cc"))
    assert [overlap(index, text) for text in ("aa", "bb", "cc")] == [2, 0, 2]
    index.release(0, 1)
    index.settle(0, links("bb"))
    assert [overlap(index, text) for text in ("aa", "bb", "cc")] == [0, 2, 2]


def test_more_in_use_than_fits_is_still_bounded() -> None:
    index = index_of(3)
    index.claim(0, links("abababab"), 1)
    index.settle(0, links("abababab"), ticket=1)
    assert overlap(index, "abababab") == 3


def test_a_chain_longer_than_the_cache_keeps_its_beginning() -> None:
    index = index_of(3)
    index.settle(0, links("abababab"))
    assert index.fill(0) == 1.0
    assert overlap(index, "abababab") == 3


@pytest.mark.parametrize("verb", ["settle", "confirm"])
def test_a_chain_that_was_computed_or_hit_is_whole_even_if_its_end_was_forgotten_since(verb: str) -> None:
    index = index_of(3)
    index.settle(0, links("aaa"))
    index.settle(0, links("b"))
    assert overlap(index, "aaa") == 2
    if verb == "settle":
        index.settle(0, links("aaa"))
    else:
        index.confirm(0, links("aaa"), 3)
    assert (overlap(index, "aaa"), overlap(index, "b")) == (3, 0)


@pytest.mark.parametrize(("capacity", "batch"), [(63, 0), (64, 1), (640, 10)])
def test_guesses_beyond_the_capacity_are_forgotten_with_a_64th_of_it(capacity: int, batch: int) -> None:
    index = index_of(capacity)
    singles = [PrefixChain((link,)) for link in range(capacity)]
    for single in singles:
        index.settle(0, single)
    assert index.blocks(0) == capacity
    index.settle(0, links("abc"))
    assert index.blocks(0) == capacity - batch
    held = [index.depths(single)[0].settled for single in singles]
    assert held == [0] * (3 + batch) + [1] * (capacity - 3 - batch)
    index.resize(0, 1)
    assert (index.blocks(0), index.fill(0)) == (1, 1.0)


def test_forgetting_takes_guesses_of_any_degree_and_leaves_statements() -> None:
    index = index_of(10)
    index.claim(0, links("aaaa"), 1)
    index.settle(0, links("aaa"))
    index.confirm(0, links("aaaa"), 2)
    index.state(0, links("a").hashes)
    index.forget(0, links("aaaa").hashes)
    assert depths(index, "aaaa") == (1, 1, 1)
    assert (index.blocks(0), index.stated_blocks(0)) == (1, 1)


# ── promises ─────────────────────────────────────────────────────────────────────────────────────


def test_withdrawing_forgets_promises_and_keeps_what_was_shown() -> None:
    index = index_of(10)
    index.claim(0, links("aa"), 1)
    index.settle(0, links("aa"))
    index.claim(0, links("aabb"), 2)
    assert overlap(index, "aabb") == 4
    index.release(0, 2)
    assert overlap(index, "aabb") == 2


def test_what_a_later_attempt_promises_too_outlives_the_earlier_one() -> None:
    index = index_of(10)
    index.claim(0, links("aabb"), 1)
    index.claim(0, links("aa"), 2)
    index.release(0, 1)
    assert overlap(index, "aabb") == 2


def test_what_a_running_attempt_uses_does_not_go_with_another_attempts_promise() -> None:
    index = index_of(3)
    index.claim(0, links("aaa"), 1)
    index.settle(0, links("aaa"))
    index.settle(0, links("b"))
    index.claim(0, links("aaa"), 2)
    index.release(0, 2)
    assert overlap(index, "aaa") == 3
    index.release(0, 1)
    assert overlap(index, "aaa") == 3


# ── statements ───────────────────────────────────────────────────────────────────────────────────


def test_statements_are_not_forgotten_for_want_of_room() -> None:
    index = index_of(2)
    index.state(0, links("aaaa").hashes)
    index.settle(0, links("bbb"))
    index.resize(0, 1)
    assert depths(index, "aaaa") == (4, 4, 4)
    assert overlap(index, "bbb") == 1
    assert index.fill(0) == 1.0


def test_a_stated_block_is_no_guess_whatever_happens_to_requests() -> None:
    index = index_of(10)
    index.claim(0, links("aa"), 1)
    index.state(0, links("aa").hashes)
    for happen in (
        lambda: index.claim(0, links("aa"), 2),
        lambda: index.settle(0, links("aa")),
        lambda: index.confirm(0, links("aa"), 2),
        lambda: index.release(0, 1),
        lambda: index.forget_guesses(0),
    ):
        happen()
        assert depths(index, "aa") == (2, 2, 2)
        assert (index.blocks(0), index.stated_blocks(0)) == (2, 2)
    index.retract(0, links("aa").hashes)
    assert (index.blocks(0), index.stated_blocks(0)) == (0, 0)
    assert index._holders == {}


def test_retracting_what_is_guessed_leaves_the_guess() -> None:
    index = index_of(10)
    index.claim(0, links("aa"), 1)
    index.retract(0, links("aa").hashes)
    assert depths(index, "aa") == (0, 0, 2)
    assert index.stated_blocks(0) == 0


def test_retracting_what_nobody_stated_changes_nothing() -> None:
    index = index_of(10)
    index.add_replica(10)
    index.state(1, links("aa").hashes)
    index.retract(0, links("aa").hashes)
    assert [index.stated_blocks(slot) for slot in (0, 1)] == [0, 2]
    assert index.depths(links("aa")) == [Depths(), Depths(2, 2, 2)]


def test_a_fence_hides_one_replica_and_loses_nothing() -> None:
    index = index_of(10)
    index.add_replica(10)
    for slot in (0, 1):
        index.settle(slot, links("aab"))
        index.state(slot, links("aa").hashes)
    index.fence(0)
    index.fence(0)
    assert (index.fenced(0), index.fenced(1)) == (True, False)
    assert index.depths(links("aab")) == [Depths(), Depths(2, 3, 3)]
    assert index.blocks(0) == 3
    index.state(0, links("b").hashes)
    index.trust(0)
    assert index.depths(links("aab"))[0] == Depths(2, 3, 3)
    assert overlap(index, "b") == 1


# ── several replicas ─────────────────────────────────────────────────────────────────────────────


def test_replicas_do_not_touch_each_other() -> None:
    index = index_of(10)
    index.add_replica(10)
    index.claim(0, links("aaa"), 1)
    index.claim(1, links("aab"), 2)
    assert [row.likely for row in index.depths(links("aaa"))] == [3, 2]
    index.forget_guesses(0)
    assert [row.likely for row in index.depths(links("aaa"))] == [0, 2]
    index.release(1, 2)
    assert index.depths(links("aaa")) == [Depths(), Depths()]
    assert index._holders == {}


def test_an_index_without_replicas_answers_with_nothing() -> None:
    empty: list[Any] = PrefixIndex().depths(links("aaa"))
    assert empty == []


def test_many_replicas_are_told_apart() -> None:
    """More than 64: the bit mask is a Python integer."""
    index = PrefixIndex()
    for slot in range(100):
        index.add_replica(10)
        index.claim(slot, links("ab" * (slot % 4)), slot + 1)
        index.settle(slot, links("ab" * (slot % 3)))
    expected = [Depths(0, 2 * (slot % 3), 2 * max(slot % 3, slot % 4)) for slot in range(100)]
    assert index.depths(links("ababab")) == expected
