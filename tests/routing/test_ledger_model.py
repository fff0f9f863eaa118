"""The ledger against a simulated engine: what overlaps say of any prompt is what the engine said that it holds."""

from array import array
from collections import Counter, defaultdict
from hashlib import sha256
from itertools import count, takewhile

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from thoroughness import examples

from engines.cache_events import BlockKey, BlocksCleared, BlocksRemoved, BlocksStored
from gateway.routing.chain import token_chain, token_form
from gateway.routing.index import Depths, PrefixIndex
from gateway.routing.ledger import BlockLedger

PAGES = st.sampled_from([1, 4, 16, 128, 256])
WORDS = st.text("ab", min_size=1, max_size=2) | st.text("ab", max_size=6)
SPACES = st.sampled_from([*[(None, None)] * 5, ("lora", None), (None, "pepper"), ("lora", "pepper")])
"""Adapter and salt."""
RANKS = st.sampled_from([0, 0, 0, 1])

Space = tuple[str | None, str | None]
Copies = Counter[BlockKey]


class LedgerMachine(RuleBasedStateMachine):
    """An engine of two data-parallel ranks, each with copies of pages by key; `said` is what of it is known."""

    def __init__(self) -> None:
        super().__init__()
        self.index = PrefixIndex()
        self.index.add_replica(10)
        self.ledger = BlockLedger(
            lambda links: self.index.state(0, links),
            lambda links: self.index.retract(0, links),
            lambda link: self.index.is_stated(0, link),
            lambda _: None,
        )
        self.engine: defaultdict[int, Copies] = defaultdict(Counter)
        self.said: defaultdict[int, Copies] = defaultdict(Counter)
        self.prefixes: dict[BlockKey, tuple[Space, bytes]] = {}
        self.queries: set[tuple[Space, bytes]] = set()
        self.strangers = count()

    @initialize(page=PAGES, wide=st.booleans(), group=st.sampled_from([None, 1]), announced=st.booleans())
    def start(self, page: int, wide: bool, group: int | None, announced: bool) -> None:
        self.page = page
        self.wide = wide
        self.group = group
        self.form = token_form("letters", page)
        if announced:
            self.ledger.resize(page)

    # ── an engine's pages ────────────────────────────────────────────────────────────────────────

    def tokens(self, word: str, rest: int) -> bytes:
        """A letter is a page, or half a block of ours where pages are small; `rest` pages make the end odd."""
        letter = max(self.page, 8)
        return array("I", [*(ord(one) for one in word for _ in range(letter)), *[9] * rest * self.page]).tobytes()

    def keys(self, space: Space, tokens: bytes) -> list[BlockKey]:
        keys: list[BlockKey] = []
        for end in range(4 * self.page, len(tokens) + 1, 4 * self.page):
            digest = sha256(repr((space, tokens[:end])).encode()).digest()
            key: BlockKey = digest if self.wide else int.from_bytes(digest[:8], "big", signed=True)
            self.prefixes[key] = (space, tokens[:end])
            keys.append(key)
        return keys

    def seen(self, space: Space, tokens: bytes) -> list[BlockKey]:
        self.queries.add((space, tokens))
        return self.keys(space, tokens)

    def say(self, rank: int, space: Space, tokens: bytes, start: int, end: int, medium: str | None = None) -> None:
        """Announce pages `start` to `end` as stored."""
        keys = self.keys(space, tokens)
        if start >= end:
            return
        self.engine[rank].update(keys[start:end])
        self.said[rank].update(keys[start:end])
        self.ledger.read(
            rank,
            BlocksStored(
                hashes=tuple(keys[start:end]),
                parent=keys[start - 1] if start else None,
                tokens=tokens[4 * self.page * start : 4 * self.page * end],
                block_tokens=self.page,
                medium=medium,
                adapter=space[0],
                salt=space[1],
                group=self.group,
                kind=None if self.group is None else "full_attention",
            ),
        )

    def drop(self, rank: int, keys: list[BlockKey], medium: str | None = None) -> None:
        """Announce one copy of each as removed."""
        self.engine[rank] -= Counter(keys)
        self.said[rank] -= Counter(keys)
        self.ledger.read(rank, BlocksRemoved(tuple(keys), medium, self.group))

    @rule(
        rank=RANKS,
        space=SPACES,
        word=WORDS,
        rest=st.integers(0, 3),
        cuts=st.sets(st.integers(0, 60)),
    )
    def serve(self, rank: int, space: Space, word: str, rest: int, cuts: set[int]) -> None:
        """A prompt: what leads it is hit, all that follows is computed and stored, in some steps."""
        tokens = self.tokens(word, rest)
        keys = self.seen(space, tokens)
        hit = len(list(takewhile(lambda key: self.engine[rank][key], keys)))
        ends = [cut for cut in sorted(cuts) if hit < cut < len(keys)]
        for start, end in zip([hit, *ends], [*ends, len(keys)], strict=True):
            self.say(rank, space, tokens, start, end)

    @rule(rank=RANKS, data=st.data(), times=st.integers(1, 2))
    def copy_to_another_tier(self, rank: int, data: st.DataObject, times: int) -> None:
        held = sorted(self.engine[rank], key=str)
        if held:
            space, tokens = self.prefixes[data.draw(st.sampled_from(held), label="key")]
            hit = len(list(takewhile(lambda key: self.engine[rank][key], self.seen(space, tokens))))
            for _ in range(times):
                self.say(rank, space, tokens, 0, hit, "CPU")

    @rule(rank=RANKS, data=st.data())
    def remove(self, rank: int, data: st.DataObject) -> None:
        """Pages smaller than our blocks go with all that follows them, as a radix tree drops leaves; others anyhow."""
        held = sorted(self.engine[rank], key=str)
        if not held:
            return
        key = data.draw(st.sampled_from(held), label="key")
        if self.page < self.form.block:
            space, tokens = self.prefixes[key]
            after = [one for one in held if self.prefixes[one][0] == space and self.prefixes[one][1].startswith(tokens)]
            leaves = sorted(after, key=lambda one: -len(self.prefixes[one][1]))
            self.drop(rank, [one for one in leaves for _ in range(self.engine[rank][one])])
        else:
            others = data.draw(st.lists(st.sampled_from(held), max_size=3, unique=True), label="others")
            for _ in range(data.draw(st.integers(1, 3), label="times")):
                self.drop(rank, list({key, *others}), data.draw(st.sampled_from([None, "CPU"])))

    @rule(rank=RANKS)
    def clear(self, rank: int) -> None:
        self.engine[rank].clear()
        self.said[rank].clear()
        self.ledger.read(rank, BlocksCleared())

    @rule(rank=RANKS)
    def lose(self, rank: int) -> None:
        """The engine holds what it held, but nobody knows any longer."""
        self.said[rank].clear()
        self.ledger.lose(rank)

    @precondition(lambda self: any(self.said.values()))
    @rule()
    def lose_all(self) -> None:
        self.said.clear()
        self.ledger.lose_all()

    # ── what does not matter ─────────────────────────────────────────────────────────────────────

    @rule(rank=RANKS, word=WORDS, kind=st.sampled_from(["image", "sliding_window", "other size", "unknown"]))
    def noise(self, rank: int, word: str, kind: str) -> None:
        """Images, other attention groups, blocks of another size, and blocks that follow nothing known."""
        tokens = self.tokens(word, 0)
        keys = tuple(self.seen((None, None), tokens))
        if not keys:
            return
        if kind == "image":
            self.ledger.read(rank, BlocksStored((next(self.strangers),), None, tokens, self.page, opaque=True))
        elif kind == "sliding_window":
            self.ledger.read(rank, BlocksStored(keys, None, tokens, self.page, group=0, kind="sliding_window"))
            if self.group is not None:
                self.ledger.read(rank, BlocksRemoved(keys, group=0))
        elif kind == "other size" and self.ledger.block_tokens is not None:
            self.ledger.read(rank, BlocksStored(keys, None, tokens * 3, self.page * 3))
        elif kind == "unknown":
            self.ledger.read(rank, BlocksRemoved((b"nobody", 7), group=self.group))

    # ── laws ─────────────────────────────────────────────────────────────────────────────────────

    def held(self, key: BlockKey) -> bool:
        return any(copies[key] for copies in self.said.values())

    @invariant()
    def overlaps_are_what_the_engine_said(self) -> None:
        each = self.form.block // self.page
        for space, tokens in self.queries:
            ends = self.keys(space, tokens)[each - 1 :: each]
            held = list(map(self.held, ends))
            depth = len(list(takewhile(bool, held)))
            if depth and any(held[depth:]):
                continue  # no engine removes a block before those that follow it
            chain = token_chain(self.form, tokens, adapter=space[0], salt=space[1])
            (depths,) = self.index.depths(chain)
            if self.ledger.orphans:
                assert max(depths) <= depth
            else:
                assert depths == Depths(depth, depth, depth)

    @invariant()
    def stated_blocks_are_counted(self) -> None:
        size = 4 * self.form.block if hasattr(self, "form") else 1
        held = {key for copies in self.said.values() for key in +copies}
        whole = [key for key in held if len(self.prefixes[key][1]) % size == 0]
        stated = self.index.stated_blocks(0)
        assert 0 <= stated <= len(whole)
        assert self.index.blocks(0) == len(self.index._holders) == stated
        assert self.ledger.orphans or stated == len(whole)

    def teardown(self) -> None:
        self.ledger.lose_all()
        assert self.index._holders == {}
        assert self.index.stated_blocks(0) == 0
        assert self.ledger._shared == {}


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=examples(50, 300), stateful_step_count=40, deadline=None)
TestLedgerMachine = pytest.mark.law(pytest.mark.no_cover(TestLedgerMachine))  # coverage would triple its time
