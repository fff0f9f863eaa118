"""The prefix index against a naive model: for each replica an ordered list of guesses and a set of statements."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.routing.chain import PrefixChain, chain
from gateway.routing.index import CONFIRMED, SETTLED, Depths, PrefixIndex

TEXTS = st.text("ab", max_size=7) | st.builds(
    lambda start, length, end: "a" * start + "b" * length + end,
    st.integers(0, 70),
    st.sampled_from([0, 1, 31, 32, 33, 64]),
    st.text("ab", max_size=2),
)
"""Short ones that share much, and some beyond the stride in which chains are looked up."""
TICKETS = st.integers(1, 6)
CAPACITIES = st.integers(1, 12) | st.sampled_from([64, 66, 130, 300])


def links(text: str) -> PrefixChain:
    """One block a letter: texts of few letters share many beginnings."""
    return chain(b"m", text.encode(), 1)


class NaiveSlot:
    """One replica's blocks: guesses (hash → owner, the longest unused first) and what its engine stated."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.owners: dict[int, int] = {}
        self.stated: set[int] = set()
        self.fenced = False
        self.overfull = False
        """Whether promises came since there was room made."""
        self.pins: dict[int, tuple[int, ...]] = {}

    def claim(self, hashes: tuple[int, ...], ticket: int) -> None:
        for link in reversed(hashes):
            if link not in self.stated and self.owners.get(link, ticket) > 0:
                self.owners[link] = ticket
        self.overfull = True

    def learn(self, hashes: tuple[int, ...], owner: int) -> None:
        for link in reversed(hashes):
            if link not in self.stated:
                self.owners[link] = min(owner, self.owners.pop(link, owner))
        self.shrink()

    def drop(self, hashes: tuple[int, ...], ticket: int | None = None) -> None:
        """These guesses; of the ticket alone, if one is given."""
        for link in hashes:
            if ticket in (None, self.owners.get(link)):
                self.owners.pop(link, None)

    def state(self, hashes: tuple[int, ...]) -> None:
        self.drop(hashes)
        self.stated |= set(hashes)

    def shrink(self) -> None:
        self.overfull = False
        surplus = len(self.owners) - self.capacity
        if surplus > 0:
            pinned = {link for hashes in self.pins.values() for link in hashes}
            free = [link for link in self.owners if link not in pinned][: surplus + self.capacity // 64]
            for link in free if len(free) >= surplus else list(self.owners)[:surplus]:
                del self.owners[link]

    def doubt(self, link: int) -> int:
        """0: confirmed or stated, 1: settled, 2: promised, 3: not held."""
        if link in self.stated:
            return 0
        owner = self.owners.get(link)
        return 3 if owner is None else {CONFIRMED: 0, SETTLED: 1}.get(owner, 2)

    def depths(self, hashes: tuple[int, ...]) -> Depths:
        def run(most: int) -> int:
            return next((depth for depth, link in enumerate(hashes) if self.doubt(link) > most), len(hashes))

        return Depths() if self.fenced else Depths(run(0), run(1), run(2))


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

    def some(self, data: st.DataObject, text: str) -> tuple[int, ...]:
        """Consecutive links of the text's chain, not always from its beginning."""
        self.seen.add(text)
        hashes = links(text).hashes
        start = data.draw(st.integers(0, len(hashes)), label="start")
        return hashes[start : data.draw(st.integers(start, len(hashes)), label="end")]

    # ── guesses ──────────────────────────────────────────────────────────────────────────────────

    @rule(data=st.data(), text=TEXTS, ticket=TICKETS)
    def claim(self, data: st.DataObject, text: str, ticket: int) -> None:
        slot = self.slot(data)
        self.seen.add(text)
        self.index.claim(slot, links(text), ticket)
        self.model[slot].claim(links(text).hashes, ticket)

    @rule(data=st.data(), text=TEXTS, ticket=st.integers(1000, 1004))
    def pin(self, data: st.DataObject, text: str, ticket: int) -> None:
        slot = self.slot(data)
        if ticket not in self.model[slot].pins:
            self.index.pin(slot, links(text), ticket)
            self.model[slot].pins[ticket] = links(text).hashes

    @rule(data=st.data(), ticket=st.integers(1000, 1004))
    def unpin(self, data: st.DataObject, ticket: int) -> None:
        slot = self.slot(data)
        self.index.unpin(slot, ticket)
        self.model[slot].pins.pop(ticket, None)

    @rule(data=st.data(), text=TEXTS)
    def settle(self, data: st.DataObject, text: str) -> None:
        slot = self.slot(data)
        self.seen.add(text)
        self.index.settle(slot, links(text))
        self.model[slot].learn(links(text).hashes, SETTLED)

    @rule(data=st.data(), text=TEXTS, blocks=st.integers(0, 9))
    def confirm(self, data: st.DataObject, text: str, blocks: int) -> None:
        slot = self.slot(data)
        self.seen.add(text)
        self.index.confirm(slot, links(text), blocks)
        self.model[slot].learn(links(text).hashes[:blocks], CONFIRMED)

    @rule(data=st.data(), text=TEXTS, ticket=TICKETS)
    def withdraw(self, data: st.DataObject, text: str, ticket: int) -> None:
        slot = self.slot(data)
        self.index.withdraw(slot, links(text), ticket)
        self.model[slot].drop(links(text).hashes, ticket)

    @rule(data=st.data(), text=TEXTS)
    def forget(self, data: st.DataObject, text: str) -> None:
        slot, some = self.slot(data), self.some(data, text)
        self.index.forget(slot, some)
        self.model[slot].drop(some)

    @rule(data=st.data())
    def forget_guesses(self, data: st.DataObject) -> None:
        slot = self.slot(data)
        self.index.forget_guesses(slot)
        self.model[slot].owners.clear()

    @rule(data=st.data(), capacity=CAPACITIES)
    def resize(self, data: st.DataObject, capacity: int) -> None:
        slot = self.slot(data)
        self.index.resize(slot, capacity)
        self.model[slot].capacity = capacity
        self.model[slot].shrink()

    # ── statements ───────────────────────────────────────────────────────────────────────────────

    @rule(data=st.data(), text=TEXTS)
    def state(self, data: st.DataObject, text: str) -> None:
        slot, some = self.slot(data), self.some(data, text)
        self.index.state(slot, some + some[:1])  # an engine may say a block twice in one message
        self.model[slot].state(some)

    @rule(data=st.data(), text=TEXTS)
    def retract(self, data: st.DataObject, text: str) -> None:
        slot, some = self.slot(data), self.some(data, text)
        self.index.retract(slot, some + some[:1])
        self.model[slot].stated -= set(some)

    @rule(data=st.data(), fenced=st.booleans())
    def fence(self, data: st.DataObject, fenced: bool) -> None:
        slot = self.slot(data)
        (self.index.fence if fenced else self.index.trust)(slot)
        self.model[slot].fenced = fenced

    @rule(text=TEXTS)
    def looking_changes_nothing(self, text: str) -> None:
        before = (dict(self.index._holders), [list(owners.items()) for owners in self.index._guessed])
        assert self.index.overlaps(links(text)) == self.index.overlaps(links(text))
        assert before == (self.index._holders, [list(owners.items()) for owners in self.index._guessed])

    # ── invariants ───────────────────────────────────────────────────────────────────────────────

    @invariant()
    def overlaps_are_the_naive_leading_runs(self) -> None:
        for text in self.seen:
            probe = links(text)
            assert self.index.overlaps(probe) == [slot.depths(probe.hashes) for slot in self.model]

    @invariant()
    def guesses_and_their_order_are_the_models(self) -> None:
        """The order decides what is forgotten next, which no overlap shows yet."""
        for slot, naive in enumerate(self.model):
            assert list(self.index._guessed[slot].items()) == list(naive.owners.items())

    @invariant()
    def each_replica_is_bounded_and_counted(self) -> None:
        for slot, naive in enumerate(self.model):
            assert len(naive.owners) <= naive.capacity or naive.overfull
            assert self.index.stated_blocks(slot) == len(naive.stated)
            assert self.index.blocks(slot) == len(naive.owners) + len(naive.stated)
            assert self.index.fill(slot) == min(1.0, self.index.blocks(slot) / naive.capacity)
            assert self.index.fenced(slot) == naive.fenced

    @invariant()
    def the_map_has_an_entry_for_held_blocks_only(self) -> None:
        assert self.index._holders.keys() == {link for slot in self.model for link in slot.owners.keys() | slot.stated}
        assert all(self.index._holders.values())

    @invariant()
    def each_block_alone_is_as_sure_as_in_the_model(self) -> None:
        for link in self.index._holders:
            assert self.index.overlaps(PrefixChain((link,))) == [slot.depths((link,)) for slot in self.model]

    def teardown(self) -> None:
        for slot, naive in enumerate(self.model):
            self.index.forget_guesses(slot)
            self.index.retract(slot, naive.stated)
            assert (self.index.blocks(slot), self.index.stated_blocks(slot)) == (0, 0)
        assert self.index._holders == {}


TestIndexAgainstModel = IndexAgainstModel.TestCase
TestIndexAgainstModel.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_masks_that_occurred_once_are_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.routing.index._MOST_MASKS", 100)
    index = PrefixIndex()
    for _ in range(12):
        index.add_replica(10)
    for holders in range(1, 2**12):
        single = PrefixChain((holders,))
        for slot in range(12):
            if holders >> slot & 1:
                index.settle(slot, single)
        assert len(index._masks) <= 120
    assert [row.settled for row in index.overlaps(single)] == [1] * 12
