"""Prefix chains: a prompt as chained block hashes, so that equal prefixes have equal leading hashes; pure."""

from functools import lru_cache
from struct import Struct
from typing import Final

import msgspec
from xxhash import xxh3_64_intdigest

DEFAULT_BLOCK_BYTES: Final = 512
"""About 128 tokens of English: finer than DeepSeek-V4's hit quantum of 256 tokens, coarse enough to be cheap."""
TOKEN_BYTES: Final = 4
"""Token ids are hashed as 4-byte little endian."""
_RUN: Final = 64
LEAST_TOKENS: Final = 16
"""The smallest block of tokens: engines with smaller pages (SGLang's may be 1) are followed in multiples."""


class ChainForm(msgspec.Struct, frozen=True, gc=False):
    """What one link of a chain covers: `block` bytes of canonical text, or `block` tokens where `encoding` is named.

    Links of token chains are equal wherever the tokens are, whoever encoded them: `encoding` only says how
    prompts become tokens.
    """

    block: int = DEFAULT_BLOCK_BYTES
    encoding: str = ""

    @property
    def counts_tokens(self) -> bool:
        """Whether `block` and a chain's `length` are tokens, not bytes."""
        return bool(self.encoding)


TEXT: Final = ChainForm()
"""The form of chains of text, unless another is configured."""


class PrefixChain(msgspec.Struct, frozen=True, gc=False):
    """`hashes[i]` stands for the namespace and the first `i + 1` full blocks of the prompt.

    Only full blocks are hashed, as engines cache only full blocks; `length`, in the form's unit, counts the rest
    too. `salted`: the prompt has a cache of its own by its client's wish; `plain`: it has neither salt nor adapter.
    A chain of tokens keeps them (4-byte little endian), and says in a word what kind of request was encoded (`shape`).
    """

    hashes: tuple[int, ...] = ()
    length: int = 0
    form: ChainForm = TEXT
    salted: bool = False
    plain: bool = True
    tokens: bytes = b""
    shape: str = ""

    @property
    def family(self) -> int | None:
        """The prefix family: the hash of the first block, None for a prompt shorter than a block."""
        return self.hashes[0] if self.hashes else None


@lru_cache(maxsize=1024)
def token_form(encoding: str, engine_block_tokens: int) -> ChainForm:
    """The form in which an engine with blocks of this size is followed: one object each, asked for all the time."""
    multiple = -(-LEAST_TOKENS // engine_block_tokens)
    return ChainForm(max(multiple, 1) * engine_block_tokens, encoding)


@lru_cache(maxsize=64)
def _text_form(block_bytes: int) -> ChainForm:
    return ChainForm(block_bytes)


def root(namespace: bytes) -> int:
    """The hash before the first block."""
    return xxh3_64_intdigest(namespace)


def extend(link: int, content: bytes | memoryview, block_bytes: int) -> list[int]:
    """The links of the full blocks of `content` after `link`: each block's xxh3-64, seeded by the link before."""
    links: list[int] = []
    left, start = len(content) // block_bytes, 0
    while left:
        count = min(left, _RUN)
        blocks = _run(block_bytes, count).unpack_from(content, start)
        links += [link := xxh3_64_intdigest(block, link) for block in blocks]
        left -= count
        start += count * block_bytes
    return links


@lru_cache(maxsize=1024)
def _run(block_bytes: int, count: int) -> Struct:
    """Cuts so many blocks at once, for half of what slices cost."""
    return Struct(f"{block_bytes}s" * count)


def chain(
    namespace: bytes, text: bytes, block_bytes: int = DEFAULT_BLOCK_BYTES, *, salted: bool = False
) -> PrefixChain:
    """The chain of a canonical prompt (rendered order) in blocks of `block_bytes`.

    Different namespaces (model, adapter, salt, thinking mode) share no hash.
    """
    links = extend(root(namespace), text, block_bytes)
    return PrefixChain(tuple(links), len(text), _text_form(block_bytes), salted)


def token_namespace(adapter: str | None, salt: str | None) -> bytes:
    """What parts the caches of equal token ids: the adapter and the salt."""
    return b"tokens\0%b\0%b" % ((adapter or "").encode(), (salt or "").encode("utf-8", "surrogatepass"))


def token_chain(
    form: ChainForm, tokens: bytes, *, adapter: str | None = None, salt: str | None = None, shape: str = ""
) -> PrefixChain:
    """The chain of a prompt's token ids (4-byte little endian)."""
    links = extend(root(token_namespace(adapter, salt)), tokens, form.block * TOKEN_BYTES)
    return PrefixChain(
        tuple(links),
        len(tokens) // TOKEN_BYTES,
        form,
        salted=salt is not None,
        plain=salt is None and adapter is None,
        tokens=tokens,
        shape=shape,
    )
