"""The prefix index against a naive model: for each replica an ordered list of guesses, statements and promises."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from thoroughness import examples

from gateway.routing.chain import PrefixChain, chain
from gateway.routing.index import Depths, PrefixIndex

TEXTS = st.text("ab", max_size=7) | st.builds(
    lambda start, length, end: "a" * start + "b" * length + end,
    st.integers(0, 70),
    st.sampled_from([0, 1, 31, 32, 33, 64]),
    st.text("ab", max_size=2),
)
"""Short ones that share much, and some that are long."""
TICKETS = st.integers(1, 6)
CONFIRMED, SETTLED, PROMISED, MISSING = range(4)
CAPACITIES = st.integers(1, 12) | st.sampled_from([64, 66, 130, 300])


def links(text: str) -> PrefixChain:
    """One block a letter: texts of few letters share many beginnings."""
    return chain(b"m", text.encode(), 1)


class NaiveSlot:
    """One replica's blocks: guesses (hash → how sure, the longest unused first), statements and promises."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.guesses: dict[int, int] = {}
        self.stated: set[int] = set()
        self.promised: set[int] = set()
        self.fenced = False
        self.in_flight: dict[int, tuple[int, ...]] = {}
        self.promises: dict[int, set[int]] = {}

    def claim(self, hashes: tuple[int, ...], ticket: int, settled: int) -> None:
        self.in_flight[ticket] = hashes
        self.promises[ticket] = set(hashes[settled:])
        self.promised |= self.promises[ticket]

    def release(self, ticket: int) -> None:
        self.in_flight.pop(ticket, None)
        broken = self.promises.pop(ticket, set())
        self.promised -= broken - {link for promised in self.promises.values() for link in promised}

    def learn(self, hashes: tuple[int, ...], doubt: int) -> None:
        for link in reversed(hashes):
            if link not in self.stated:
                self.guesses[link] = min(doubt, self.guesses.pop(link, doubt))
        self.shrink()

    def forget(self, hashes: tuple[int, ...]) -> None:
        for link in hashes:
            self.guesses.pop(link, None)
        self.promised -= set(hashes)

    def forget_all(self) -> None:
        self.guesses.clear()
        self.promised -= {link for hashes in self.in_flight.values() for link in hashes}

    def state(self, hashes: tuple[int, ...]) -> None:
        for link in hashes:
            self.guesses.pop(link, None)
        self.stated |= set(hashes)

    def shrink(self) -> None:
        surplus = len(self.guesses) - self.capacity
        if surplus > 0:
            in_use = {link for hashes in self.in_flight.values() for link in hashes}
            free = [link for link in self.guesses if link not in in_use][: surplus + self.capacity // 64]
            for link in free if len(free) >= surplus else list(self.guesses)[:surplus]:
                del self.guesses[link]

    def doubt(self, link: int) -> int:
        if link in self.stated:
            return CONFIRMED
        return self.guesses.get(link, PROMISED if link in self.promised else MISSING)

    def check(self, hashes: tuple[int, ...], depths: Depths) -> None:
        """Each depth is where the chain ceases to be held so surely; for good, if nothing is missing before it."""
        for most, depth in zip((CONFIRMED, SETTLED, PROMISED), (0, 0, 0) if self.fenced else depths, strict=True):
            held = [self.doubt(link) <= most for link in hashes]
            if self.fenced or not held or not held[0]:
                assert depth == 0
            elif sum(held) == len(held) or not any(held[held.index(False) :]):
                assert depth == sum(held)
            else:
                assert held[depth - 1]
                assert depth == len(held) or not held[depth]


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
        if ticket in self.model[slot].in_flight:
            return
        self.seen.add(text)
        held = [self.model[slot].doubt(link) for link in links(text).hashes]
        most = next((depth for depth, doubt in enumerate(held) if doubt > SETTLED), len(held))
        settled = data.draw(st.integers(0, most), label="settled")
        self.index.claim(slot, links(text), ticket, settled)
        self.model[slot].claim(links(text).hashes, ticket, settled)

    @rule(data=st.data(), ticket=TICKETS)
    def release(self, data: st.DataObject, ticket: int) -> None:
        slot = self.slot(data)
        self.index.release(slot, ticket)
        self.model[slot].release(ticket)

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

    @rule(data=st.data(), text=TEXTS)
    def forget(self, data: st.DataObject, text: str) -> None:
        slot, some = self.slot(data), self.some(data, text)
        self.index.forget(slot, some)
        self.model[slot].forget(some)

    @rule(data=st.data())
    def forget_guesses(self, data: st.DataObject) -> None:
        slot = self.slot(data)
        self.index.forget_guesses(slot)
        self.model[slot].forget_all()

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
        before = (dict(self.index._holders), [list(guesses) for guesses in self.index._guessed])
        assert self.index.depths(links(text)) == self.index.depths(links(text))
        assert before == (self.index._holders, [list(guesses) for guesses in self.index._guessed])

    # ── invariants ───────────────────────────────────────────────────────────────────────────────

    @invariant()
    def depths_are_the_naive_leading_runs(self) -> None:
        for text in self.seen:
            probe = links(text)
            for slot, depths in zip(self.model, self.index.depths(probe), strict=True):
                slot.check(probe.hashes, depths)

    @invariant()
    def guesses_and_their_order_are_the_models(self) -> None:
        """The order decides what is forgotten next, which no overlap shows yet."""
        for slot, naive in enumerate(self.model):
            assert list(self.index._guessed[slot]) == list(naive.guesses)

    @invariant()
    def each_replica_is_bounded_and_counted(self) -> None:
        for slot, naive in enumerate(self.model):
            assert len(naive.guesses) <= naive.capacity
            assert self.index.stated_blocks(slot) == len(naive.stated)
            assert self.index.blocks(slot) == len(naive.guesses) + len(naive.stated)
            assert self.index.fill(slot) == min(1.0, self.index.blocks(slot) / naive.capacity)
            assert self.index.fenced(slot) == naive.fenced

    @invariant()
    def the_map_has_an_entry_for_held_blocks_only(self) -> None:
        assert self.index._holders.keys() == set().union(*(slot.guesses.keys() | slot.stated for slot in self.model))
        assert self.index._promises.keys() == set().union(*(slot.promised for slot in self.model))
        assert all(self.index._holders.values())
        assert all(self.index._promises.values())

    @invariant()
    def each_block_alone_is_as_sure_as_in_the_model(self) -> None:
        for link in self.index._holders.keys() | self.index._promises.keys():
            for slot, depths in zip(self.model, self.index.depths(PrefixChain((link,))), strict=True):
                slot.check((link,), depths)

    def teardown(self) -> None:
        for slot, naive in enumerate(self.model):
            for ticket in list(naive.in_flight):
                self.index.release(slot, ticket)
                naive.release(ticket)
            self.index.forget_guesses(slot)
            self.index.retract(slot, naive.stated)
            assert (self.index.blocks(slot), self.index.stated_blocks(slot)) == (0, 0)
        assert self.index._holders == self.index._promises == {}


TestIndexAgainstModel = IndexAgainstModel.TestCase
TestIndexAgainstModel.settings = settings(max_examples=examples(40, 200), stateful_step_count=50, deadline=None)


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
    assert [row.settled for row in index.depths(single)] == [1] * 12


TestIndexAgainstModel = pytest.mark.law(pytest.mark.no_cover(TestIndexAgainstModel))  # coverage would triple its time
