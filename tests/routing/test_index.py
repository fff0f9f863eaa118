"""The prefix index against a naive model, and its law that tails are forgotten before heads."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.routing.chain import PrefixChain, chain
from gateway.routing.index import CONFIRMED, PrefixIndex

TEXTS = st.text("ab", max_size=7)
TICKETS = st.integers(1, 6)
CAPACITIES = st.integers(1, 12)


def links(text: str) -> PrefixChain:
    """One block a letter: texts of few letters share many beginnings."""
    return chain(b"m", text.encode(), 1)


class NaiveSlot:
    """One replica's blocks: hash → owner, the longest untouched first."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.owners: dict[int, int] = {}

    def touch(self, link: int, owner: int) -> None:
        self.owners.pop(link, None)
        self.owners[link] = owner

    def shrink(self) -> None:
        for link in list(self.owners)[: max(0, len(self.owners) - self.capacity)]:
            del self.owners[link]

    def overlap(self, hashes: tuple[int, ...]) -> int:
        return next((depth for depth, link in enumerate(hashes) if link not in self.owners), len(hashes))


class IndexAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.model: list[NaiveSlot] = []
        self.seen: set[str] = {""}

    @initialize(capacity=CAPACITIES)
    def first_replica(self, capacity: int) -> None:
        self.add_replica(capacity)

    @precondition(lambda self: len(self.model) < 4)
    @rule(capacity=CAPACITIES)
    def add_replica(self, capacity: int) -> None:
        assert self.index.add_replica(capacity) == len(self.model)
        self.model.append(NaiveSlot(capacity))

    def slot(self, data: st.DataObject) -> int:
        return data.draw(st.integers(0, len(self.model) - 1), label="slot")

    @rule(data=st.data(), text=TEXTS, ticket=TICKETS)
    def claim(self, data: st.DataObject, text: str, ticket: int) -> None:
        slot, hashes = self.slot(data), links(text).hashes
        self.seen.add(text)
        self.index.claim(slot, links(text), ticket)
        for link in reversed(hashes):
            confirmed = self.model[slot].owners.get(link) == CONFIRMED
            self.model[slot].touch(link, CONFIRMED if confirmed else ticket)
        self.model[slot].shrink()

    @rule(data=st.data(), text=TEXTS)
    def confirm(self, data: st.DataObject, text: str) -> None:
        slot, hashes = self.slot(data), links(text).hashes
        self.seen.add(text)
        self.index.confirm(slot, links(text))
        for link in reversed(hashes):
            self.model[slot].touch(link, CONFIRMED)
        self.model[slot].shrink()

    @rule(data=st.data(), text=TEXTS, ticket=TICKETS)
    def withdraw(self, data: st.DataObject, text: str, ticket: int) -> None:
        slot, hashes = self.slot(data), links(text).hashes
        self.index.withdraw(slot, links(text), ticket)
        owners = self.model[slot].owners
        self.model[slot].owners = {
            link: owner for link, owner in owners.items() if owner != ticket or link not in hashes
        }

    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        slot = self.slot(data)
        self.index.clear(slot)
        self.model[slot].owners = {}

    @rule(data=st.data(), capacity=CAPACITIES)
    def resize(self, data: st.DataObject, capacity: int) -> None:
        slot = self.slot(data)
        self.index.resize(slot, capacity)
        self.model[slot].capacity = capacity
        self.model[slot].shrink()

    @rule(text=TEXTS)
    def looking_changes_nothing(self, text: str) -> None:
        before = {slot: dict(held) for slot, held in enumerate(self.index._held)}
        assert self.index.overlaps(links(text)) == self.index.overlaps(links(text))
        assert before == {slot: dict(held) for slot, held in enumerate(self.index._held)}

    @invariant()
    def overlaps_are_the_naive_leading_runs(self) -> None:
        for text in self.seen:
            probe = links(text)
            assert self.index.overlaps(probe) == [slot.overlap(probe.hashes) for slot in self.model]

    @invariant()
    def each_replica_is_bounded(self) -> None:
        for slot, naive in enumerate(self.model):
            assert self.index.blocks(slot) == len(naive.owners) <= naive.capacity
            assert self.index.fill(slot) == len(naive.owners) / naive.capacity

    @invariant()
    def the_map_has_an_entry_for_held_blocks_only(self) -> None:
        expected: dict[int, int] = {}
        for slot, naive in enumerate(self.model):
            for link in naive.owners:
                expected[link] = expected.get(link, 0) | 1 << slot
        assert self.index._holders == expected


TestIndexAgainstModel = IndexAgainstModel.TestCase
TestIndexAgainstModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)

OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("claim"), TEXTS, TICKETS),
        st.tuples(st.just("confirm"), TEXTS, TICKETS),
        st.tuples(st.just("resize"), st.just(""), CAPACITIES),
    ),
    max_size=40,
)


@given(OPERATIONS, CAPACITIES)
def test_a_block_is_never_held_without_all_that_stand_before_it(
    operations: list[tuple[str, str, int]], capacity: int
) -> None:
    """Otherwise memory holds blocks that no overlap can ever count."""
    index = PrefixIndex()
    index.add_replica(capacity)
    for verb, text, number in operations:
        match verb:
            case "claim":
                index.claim(0, links(text), number)
            case "confirm":
                index.confirm(0, links(text))
            case _:
                index.resize(0, number)
        for _, seen, _ in operations:
            hashes = links(seen).hashes
            held = [link in index._held[0] for link in hashes]
            assert sum(held) == index.overlaps(links(seen))[0]


def index_of(capacity: int) -> PrefixIndex:
    index = PrefixIndex()
    index.add_replica(capacity)
    return index


def overlap(index: PrefixIndex, text: str) -> int:
    return index.overlaps(links(text))[0]


def test_a_full_replica_forgets_the_longest_unused_chain_from_its_end() -> None:
    index = index_of(5)
    index.claim(0, links("aaa"), 1)
    index.claim(0, links("bbb"), 2)
    assert (overlap(index, "aaa"), overlap(index, "bbb")) == (2, 3)
    index.claim(0, links("aa"), 3)
    index.claim(0, links("c"), 4)
    assert [overlap(index, text) for text in ("aaa", "bbb", "c")] == [2, 2, 1]


def test_a_chain_longer_than_the_cache_keeps_its_beginning() -> None:
    index = index_of(3)
    index.claim(0, links("abababab"), 1)
    assert overlap(index, "abababab") == 3
    assert index.fill(0) == 1.0


def test_a_confirmed_chain_is_whole_even_if_its_end_was_forgotten_since() -> None:
    index = index_of(3)
    index.claim(0, links("aaa"), 1)
    index.claim(0, links("b"), 2)
    assert overlap(index, "aaa") == 2
    index.confirm(0, links("aaa"))
    assert (overlap(index, "aaa"), overlap(index, "b")) == (3, 0)


def test_withdrawing_forgets_promises_and_keeps_what_was_shown() -> None:
    index = index_of(10)
    index.claim(0, links("aa"), 1)
    index.confirm(0, links("aa"))
    index.claim(0, links("aabb"), 2)
    assert overlap(index, "aabb") == 4
    index.withdraw(0, links("aabb"), 2)
    assert overlap(index, "aabb") == 2


def test_what_a_later_attempt_promises_too_outlives_the_earlier_one() -> None:
    index = index_of(10)
    index.claim(0, links("aabb"), 1)
    index.claim(0, links("aa"), 2)
    index.withdraw(0, links("aabb"), 1)
    assert overlap(index, "aabb") == 2


def test_replicas_do_not_touch_each_other() -> None:
    index = index_of(10)
    index.add_replica(10)
    index.claim(0, links("aaa"), 1)
    index.claim(1, links("aab"), 2)
    assert index.overlaps(links("aaa")) == [3, 2]
    index.clear(0)
    assert index.overlaps(links("aaa")) == [0, 2]
    index.withdraw(1, links("aab"), 2)
    assert index.overlaps(links("aaa")) == [0, 0]
    assert index._holders == {}


def test_an_index_without_replicas_answers_with_nothing() -> None:
    empty: list[Any] = PrefixIndex().overlaps(links("aaa"))
    assert empty == []


def test_many_replicas_are_told_apart() -> None:
    """More than 64: the bit mask is a Python integer."""
    index = PrefixIndex()
    for slot in range(100):
        index.add_replica(10)
        index.claim(slot, links("ab" * (slot % 4)), slot + 1)
    assert index.overlaps(links("ababab")) == [2 * (slot % 4) for slot in range(100)]
