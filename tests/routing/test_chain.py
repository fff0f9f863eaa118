"""Laws of prefix chains."""

from collections.abc import Sequence
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.chain import DEFAULT_BLOCK_BYTES, ChainForm, PrefixChain, chain, token_chain, token_form

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
    assert links.length == len(text)
    assert links.form.block == block
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
    hashes = chain(b"m", b"0123456789abcdef" * 32, 256).hashes
    assert hashes == (11070296430531742039, 4840877711679973412)
    assert all(0 <= link < 1 << 64 for link in hashes)


@pytest.mark.parametrize(("size", "blocks"), [(0, 0), (511, 0), (512, 1), (513, 1), (1024, 2)])
def test_the_default_block_is_512_bytes(size: int, blocks: int) -> None:
    links = chain(b"m", b"x" * size)
    assert links.form.block == DEFAULT_BLOCK_BYTES == 512
    assert len(links.hashes) == blocks


def test_the_empty_chain_is_the_default() -> None:
    assert PrefixChain() == chain(b"m", b"")
    assert PrefixChain().family is None


# ── chains of tokens ─────────────────────────────────────────────────────────────────────────────

IDS = st.lists(st.integers(0, 2**32 - 1), max_size=70)
NAMES = st.none() | st.sampled_from(["a", "b", "ab", "\ud800"])


def packed(ids: Sequence[int]) -> bytes:
    return b"".join(one.to_bytes(4, "little") for one in ids)


@given(IDS, st.integers(1, 20))
def test_a_chain_of_tokens_counts_and_keeps_them(ids: list[int], block: int) -> None:
    links = token_chain(ChainForm(block, "x"), packed(ids), shape="chat")
    assert (len(links.hashes), links.length) == (len(ids) // block, len(ids))
    assert links.tokens == packed(ids)
    assert (links.form.counts_tokens, links.shape, links.salted) == (True, "chat", False)


@given(IDS, IDS, IDS, st.integers(1, 20))
def test_equal_tokens_and_equal_links_are_the_same_thing(
    shared: list[int], one: list[int], other: list[int], block: int
) -> None:
    """Whoever encoded them."""
    a = token_chain(ChainForm(block, "x"), packed(shared + one))
    b = token_chain(ChainForm(block, "y"), packed(shared + other))
    assert leading_equals(a.hashes, b.hashes) == leading_equals(shared + one, shared + other) // block


@given(NAMES.filter(lambda name: name != "\ud800"), NAMES, NAMES.filter(lambda name: name != "\ud800"), NAMES)
def test_adapters_and_salts_part_equal_tokens(
    adapter: str | None, salt: str | None, other_adapter: str | None, other_salt: str | None
) -> None:
    ids = packed(range(16))
    one = token_chain(ChainForm(16, "x"), ids, adapter=adapter, salt=salt)
    other = token_chain(ChainForm(16, "x"), ids, adapter=other_adapter, salt=other_salt)
    assert (one.hashes == other.hashes) == ((adapter, salt) == (other_adapter, other_salt))
    assert one.salted == (salt is not None)


def test_token_chains_share_no_link_with_text() -> None:
    ids = packed(range(64))
    assert not set(token_chain(ChainForm(16, "x"), ids).hashes) & set(chain(b"m", ids, 64).hashes)


@given(st.integers(1, 5000))
def test_the_form_is_the_smallest_multiple_that_is_not_tiny(engine_block: int) -> None:
    block = token_form("x", engine_block).block
    assert block % engine_block == 0
    assert 16 <= block < engine_block + 16
    assert block == engine_block or engine_block < 16
