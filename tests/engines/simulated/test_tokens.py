"""Tokenise and detokenise are inverses, and ids are the bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.simulated import tokens


@given(st.text().filter(lambda text: not text.endswith("\0")))
def test_every_text_comes_back(text: str) -> None:
    assert tokens.detokenise(tokens.tokenise(text)) == text


@given(st.lists(st.integers(0, 2**32 - 1)))
def test_every_id_comes_back(ids: list[int]) -> None:
    encoded = tokens.from_ids(ids)
    assert tokens.to_ids(encoded) == ids
    assert tokens.count(encoded) == len(ids)


def test_a_token_is_four_bytes_little_endian() -> None:
    assert tokens.to_ids(tokens.tokenise("abcde")) == [0x64636261, 0x65]


@pytest.mark.parametrize("bad", [[-1], [2**32], ["a"], [None]])
def test_what_is_no_id_is_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="token id"):
        tokens.from_ids(bad)


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert tokens.detokenise(b"\xff\xfe\xfd\xfc") == "\ufffd" * 4
