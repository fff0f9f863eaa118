"""Events that no engine would send: the ledger takes them, stays within its bounds and keeps the index sound."""

from array import array
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from engines.cache_events import BlocksCleared, BlocksRemoved, BlocksStored, CacheEvent
from gateway.routing.chain import ChainForm, token_chain
from gateway.routing.index import PrefixIndex
from gateway.routing.ledger import BlockLedger

MAX_BLOCKS = 20

KEYS = st.integers(-3, 5) | st.sampled_from([b"", b"a", b"b"])
GROUPS = st.none() | st.integers(-1, 3)
STORED = st.builds(
    BlocksStored,
    hashes=st.lists(KEYS, max_size=40).map(tuple),
    parent=st.none() | KEYS,
    tokens=st.sampled_from([b"\1\0\0\0", b"\2\0\0\0", b"odd"]).flatmap(
        lambda one: st.integers(0, 70).map(lambda times: one * times)
    ),
    block_tokens=st.sampled_from([-16, -1, 0, 1, 2, 4, 15, 16, 17, 32]),
    medium=st.none() | st.just("CPU"),
    adapter=st.none() | st.sampled_from(["", "lora"]),
    salt=st.none() | st.sampled_from(["", "pepper", "\ud800"]),
    group=GROUPS,
    kind=st.none() | st.sampled_from(["full_attention", "mla_attention", "sliding_window", "mamba", ""]),
    opaque=st.booleans(),
)
REMOVED = st.builds(
    BlocksRemoved, hashes=st.lists(KEYS, max_size=8).map(tuple), medium=st.none() | st.just("CPU"), group=GROUPS
)
EVENTS = st.one_of(STORED, STORED, STORED, REMOVED, st.just(BlocksCleared()))
STEPS = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 2), EVENTS),
        st.tuples(st.just("resize"), st.sampled_from([1, 4, 16, 64])),
        st.tuples(st.just("lose"), st.integers(0, 2)),
    ),
    max_size=40,
)
Step = tuple[int, CacheEvent] | tuple[str, int]


def followed(adopted: int | None, max_blocks: int) -> tuple[PrefixIndex, BlockLedger]:
    index = PrefixIndex()
    index.add_replica(10)
    return index, BlockLedger(
        lambda links: index.state(0, links),
        lambda links: index.retract(0, links),
        lambda link: index.is_stated(0, link),
        lambda _: adopted,
        max_blocks,
    )


@given(STEPS, st.none() | st.integers(0, 9))
@settings(max_examples=300)
def test_anything_may_come_in_any_order(steps: list[Step], adopted: int | None) -> None:
    index, ledger = followed(adopted, MAX_BLOCKS)
    ranks = set()
    for what, value in steps:
        match what, value:
            case "resize", int(size):
                ledger.resize(size)
            case "lose", int(rank):
                ledger.lose(rank)
                ranks.add(rank)
            case int(rank), event:
                ledger.read(rank, event)  # type: ignore[arg-type]
                ranks.add(rank)
        assert ledger.blocks <= 2 * MAX_BLOCKS * len(ranks)
        assert 0 <= index.stated_blocks(0) == len(index._holders) <= ledger.blocks
        assert all(index._holders.values())
    ledger.lose_all()
    assert index.stated_blocks(0) == len(index._holders) == 0


def packed(ids: Iterable[int]) -> bytes:
    return array("I", ids).tobytes()


def test_memory_is_bounded_and_the_oldest_blocks_go_first() -> None:
    index, ledger = followed(None, 128)
    pages = [packed(range(16 * n, 16 * n + 16)) for n in range(1000)]
    links = [token_chain(ChainForm(16, "x"), page) for page in pages]
    for n, page in enumerate(pages):
        for _ in range(2):
            ledger.read(0, BlocksStored((n,), None, page, 16))
            assert index.stated_blocks(0) == ledger.blocks <= 128
        assert index.depths(links[n])[0].confirmed == 1
        assert index.depths(links[max(0, n - 124)])[0].confirmed == 1
    assert index.depths(links[1000 - 129])[0].confirmed == 0
    ledger.lose(0)
    assert index.blocks(0) == 0
    for n, page in enumerate(pages):
        ledger.read(0, BlocksStored((n,), None, page, 16))
        assert index.stated_blocks(0) <= 128
        assert ledger.blocks <= 2 * 128, "and as many whose whereabouts are not certain"
