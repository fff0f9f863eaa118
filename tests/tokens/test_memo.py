"""The memo: bounded in bytes, the least recently used goes first."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.tokens.memo import ENTRY_BYTES, Memo


def test_what_was_put_is_got() -> None:
    memo = Memo()
    memo.put(memo.key(b"a"), b"\1\0\0\0")
    assert memo.get(memo.key(b"a")) == b"\1\0\0\0"
    assert memo.get(memo.key(b"b")) is None
    memo.put(memo.key(b"a"), b"")
    assert memo.get(memo.key(b"a")) == b""
    assert (len(memo), memo.size_bytes) == (1, ENTRY_BYTES)


def test_keys_differ_from_process_to_process() -> None:
    assert Memo().key(b"a") != Memo().key(b"a")


def test_the_least_recently_used_goes_first() -> None:
    memo = Memo(limit_bytes=3 * (ENTRY_BYTES + 4))
    for name in (b"a", b"b", b"c"):
        memo.put(name, b"....")
    memo.get(b"a")
    memo.put(b"d", b"....")
    assert [memo.get(name) for name in (b"a", b"b", b"c", b"d")] == [b"....", None, b"....", b"...."]


def test_what_is_larger_than_the_memo_is_not_kept() -> None:
    memo = Memo(limit_bytes=ENTRY_BYTES + 8)
    memo.put(b"a", b"....")
    memo.put(b"b", b"." * 12)
    assert memo.get(b"b") is None
    assert memo.get(b"a") == b"...."


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3000)), max_size=80))
def test_the_bound_holds(entries: list[tuple[int, int]]) -> None:
    memo = Memo(limit_bytes=6000)
    for name, size in entries:
        memo.put(b"%d" % name, b"." * size)
        kept = [memo.get(b"%d" % other) for other in range(10)]
        assert memo.size_bytes == sum(len(ids) + ENTRY_BYTES for ids in kept if ids is not None) <= 6000
    memo.clear()
    assert (len(memo), memo.size_bytes) == (0, 0)
