"""The block pool against what an engine promises: hits, references, room, order of eviction."""

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from engines.simulated.cache import BlockPool, hash_blocks, root_of

TEXT = bytes(range(64))


def test_hashes_chain_and_cover_full_blocks_only() -> None:
    hashes = hash_blocks(TEXT, 4, b"")
    assert len(hashes) == 4
    assert hash_blocks(TEXT[:-1], 4, b"") == hashes[:3]
    assert hash_blocks(TEXT, 4, hashes[1], first_block=2) == hashes[2:]
    changed = hash_blocks(b"x" + TEXT[1:], 4, b"")
    assert not set(changed) & set(hashes)


def test_salts_and_adapters_are_namespaces() -> None:
    roots = {root_of(None, None), root_of("a", None), root_of("b", None), root_of(None, "a"), root_of("a", "a")}
    assert len(roots) == 5
    assert root_of(None, None) == b""


def fill(pool: BlockPool, hashes: list[bytes]) -> None:
    """One request that computes these blocks and ends."""
    hits = pool.count_hits(hashes)
    assert pool.admit(hashes[:hits], len(hashes) - hits)
    pool.take(len(hashes) - hits)
    for block in hashes[hits:]:
        pool.store(block)
    pool.release(hashes, 0, 0)


def test_the_tail_of_the_oldest_request_goes_first() -> None:
    pool = BlockPool(6)
    old, new = hash_blocks(TEXT[:48], 4, b"old"), hash_blocks(TEXT[:48], 4, b"new")
    fill(pool, old)
    fill(pool, new)
    assert pool.admit([], 2)
    assert pool.take(2) == [old[2], old[1]]
    assert pool.count_hits(old) == 1
    assert pool.count_hits(new) == 3


def test_a_hit_makes_a_prefix_young_again() -> None:
    pool = BlockPool(6)
    old, new = hash_blocks(TEXT[:48], 4, b"old"), hash_blocks(TEXT[:48], 4, b"new")
    fill(pool, old)
    fill(pool, new)
    fill(pool, old)
    assert pool.admit([], 3)
    assert pool.take(3) == new[::-1]


def test_blocks_in_use_are_neither_evicted_nor_promised() -> None:
    pool = BlockPool(4)
    hashes = hash_blocks(TEXT, 4, b"")
    fill(pool, hashes[:3])
    assert not pool.admit(hashes[:3], 2)
    assert pool.idle_blocks == 3
    assert pool.admit(hashes[:3], 1)
    assert pool.idle_blocks == 0
    assert not pool.admit([], 1)
    assert not pool.clear()
    pool.release(hashes[:3], 0, 1)
    assert pool.clear()
    assert pool.free_blocks == 4


def test_two_requests_that_compute_the_same_block_share_it() -> None:
    pool = BlockPool(4)
    block = hash_blocks(TEXT[:16], 4, b"")[0]
    for _ in range(2):
        assert pool.admit([], 1)
        pool.take(1)
    assert [pool.store(block), pool.store(block)] == [True, False]
    assert (pool.cached_blocks, pool.used_blocks, pool.free_blocks) == (1, 1, 3)
    pool.release([block], 0, 0)
    assert pool.idle_blocks == 0
    pool.release([block], 0, 0)
    assert pool.idle_blocks == 1


class PoolMachine(RuleBasedStateMachine):
    """Requests over a few shared prefixes come and go; the books must balance at every moment."""

    CAPACITY = 7

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(self.CAPACITY)
        self.held: list[tuple[list[bytes], int]] = []

    @rule(family=st.sampled_from([b"a", b"b", b"c"]), length=st.integers(1, 5))
    def arrive(self, family: bytes, length: int) -> None:
        hashes = hash_blocks(TEXT[:16] * length, 4, family)
        hits = self.pool.count_hits(hashes)
        if self.pool.admit(hashes[:hits], length - hits + 1):
            self.pool.take(length - hits)
            for block in hashes[hits:]:
                self.pool.store(block)
            assert self.pool.count_hits(hashes) == length
            self.held.append((hashes, 1))

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        hashes, promised = self.held.pop(data.draw(st.integers(0, len(self.held) - 1)))
        self.pool.release(hashes, 0, promised)

    @invariant()
    def books_balance(self) -> None:
        pool = self.pool
        distinct = {block for hashes, _ in self.held for block in hashes}
        assert pool.used_blocks == len(distinct)
        assert pool.used_blocks + pool.idle_blocks + pool.free_blocks == self.CAPACITY
        assert pool.promised_blocks == len(self.held)
        assert all(pool.count_hits(hashes) == len(hashes) for hashes, _ in self.held)


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, deadline=None)


@given(st.integers(1, 8), st.binary(max_size=200))
def test_hashing_in_parts_is_hashing_at_once(block_tokens: int, raw: bytes) -> None:
    text = raw[: len(raw) - len(raw) % 4]
    whole = hash_blocks(text, block_tokens, b"")
    for cut in range(len(whole)):
        parent = whole[cut - 1] if cut else b""
        assert hash_blocks(text, block_tokens, parent, first_block=cut) == whole[cut:]
