"""Laws of prefix chains."""

from collections.abc import Sequence
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.chain import DEFAULT_BLOCK_BYTES, PrefixChain, chain

BLOCKS = st.integers(1, 9)
TEXTS = st.binary(max_size=80)
NARROW = st.lists(st.sampled_from([b"a", b"b"]), max_size=60).map(b"".join)
"""Texts of two letters often share a beginning, and repeat themselves."""


def leading_equals(a: Sequence[int], b: Sequence[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))


@given(NARROW, NARROW, NARROW, BLOCKS)
def test_equal_prefixes_and_equal_leading_hashes_are_the_same_thing(
    shared: bytes, one: bytes, other: bytes, block: int
) -> None:
    a, b = shared + one, shared + other
    links_a, links_b = chain(b"m", a, block), chain(b"m", b, block)
    common_blocks = leading_equals(a, b) // block
    assert leading_equals(links_a.hashes, links_b.hashes) == common_blocks
    assert not set(links_a.hashes[common_blocks:]) & set(links_b.hashes[common_blocks:])


@given(TEXTS, st.binary(max_size=8), st.binary(max_size=8), BLOCKS)
def test_namespaces_share_no_hash(text: bytes, one: bytes, other: bytes, block: int) -> None:
    shared = set(chain(one, text, block).hashes) & set(chain(other, text, block).hashes)
    assert bool(shared) == (one == other and len(text) >= block)


@given(TEXTS, BLOCKS)
def test_only_full_blocks_are_hashed(text: bytes, block: int) -> None:
    links = chain(b"m", text, block)
    assert len(links.hashes) == len(text) // block
    assert links.prompt_bytes == len(text)
    assert links.block_bytes == block
    whole = text[: len(text) // block * block]
    assert chain(b"m", whole, block).hashes == links.hashes


@given(TEXTS, BLOCKS, st.integers(0, 80))
def test_the_chain_of_a_beginning_is_the_beginning_of_the_chain(text: bytes, block: int, blocks: int) -> None:
    assert chain(b"m", text[: blocks * block], block).hashes == chain(b"m", text, block).hashes[:blocks]


@given(TEXTS, TEXTS, BLOCKS)
def test_appended_text_extends_the_chain(text: bytes, more: bytes, block: int) -> None:
    before = chain(b"m", text, block).hashes
    assert chain(b"m", text + more, block).hashes[: len(before)] == before


@given(st.binary(min_size=1, max_size=8), st.integers(2, 20))
def test_a_block_counts_with_all_that_stands_before_it(block: bytes, times: int) -> None:
    hashes = chain(b"m", block * times, len(block)).hashes
    assert len(set(hashes)) == times


@given(TEXTS, BLOCKS)
def test_the_family_is_the_first_block(text: bytes, block: int) -> None:
    family = chain(b"m", text, block).family
    assert (family is None) == (len(text) < block)
    assert family == chain(b"m", text[:block] + b"another end", block).family or len(text) < block


@given(st.binary(min_size=9, max_size=64), st.data())
def test_one_changed_byte_changes_every_hash_from_its_block_on(text: bytes, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text) // 4 * 4 - 1))
    changed = text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :]
    before, after = chain(b"m", text, 4), chain(b"m", changed, 4)
    assert leading_equals(before.hashes, after.hashes) == place // 4
    assert not set(before.hashes[place // 4 :]) & set(after.hashes)


def test_hashes_do_not_change_between_versions_and_machines() -> None:
    """Gateways compare their hashes with each other, and journals outlive a process."""
    hashes = chain(b"m", b"0123456789abcdef" * 32).hashes
    assert hashes == (11070296430531742039, 4840877711679973412)
    assert all(0 <= link < 1 << 64 for link in hashes)


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (255, 0), (256, 1), (257, 1), (512, 2)])
def test_the_default_block_is_256_bytes(size: int, blocks: int) -> None:
    links = chain(b"m", b"x" * size)
    assert links.block_bytes == DEFAULT_BLOCK_BYTES == 256
    assert len(links.hashes) == blocks


def test_the_empty_chain_is_the_default() -> None:
    assert PrefixChain() == chain(b"m", b"")
    assert PrefixChain().family is None
