"""The toy tokeniser: four UTF-8 bytes are one token, whose id is those bytes as a little-endian integer; pure.

A token string is kept as bytes whose length is a multiple of four: hashing, slicing and comparing it need no
list of integers.
"""

import sys
from array import array
from collections.abc import Iterable

TOKEN_BYTES = 4
_TYPECODE = "I" if array("I").itemsize == TOKEN_BYTES else "L"


def tokenise(text: str) -> bytes:
    """The tokens of a text; the last one is padded with NUL bytes."""
    return pad(text.encode("utf-8", "surrogatepass"), b"\0")


def pad(raw: bytes, filler: bytes) -> bytes:
    """The bytes, extended with a one-byte filler to whole tokens."""
    return raw + filler * (-len(raw) % TOKEN_BYTES)


def detokenise(tokens: bytes) -> str:
    """The text of the tokens: the inverse of `tokenise` for every text that does not end in NUL."""
    end = len(tokens)
    while end > 0 and end > len(tokens) - TOKEN_BYTES + 1 and tokens[end - 1] == 0:
        end -= 1
    return tokens[:end].decode("utf-8", "replace")


def count(tokens: bytes) -> int:
    """How many tokens these are."""
    return len(tokens) // TOKEN_BYTES


def to_ids(tokens: bytes) -> list[int]:
    """Token ids, each 0 to 2**32 - 1."""
    ids = array(_TYPECODE, tokens)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()


def from_ids(ids: Iterable[int]) -> bytes:
    """The tokens of these ids. Raises ValueError for an id that is not an integer of 32 bits without sign."""
    try:
        tokens = array(_TYPECODE, ids)
    except (TypeError, OverflowError) as error:
        raise ValueError("a token id is an integer from 0 to 4294967295") from error
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens.tobytes()
